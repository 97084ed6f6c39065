package forwarder_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Two services on one set of tables, with a broker each and the same names of
// destinations and keys.
func TestEachServicesMessagesGoToItsOwnBroker(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		const perKey, keyCount = 40, 4
		services := []string{"", "shop", "it's \\ 50% \"Lädchen\"?/"}
		to := map[string]*broker{}
		cfg := func(service string) forwarder.Config {
			return forwarder.Config{Service: service, LeaseTTL: time.Second}
		}
		var writers sync.WaitGroup
		for i, service := range services {
			to[service] = &broker{}
			stop := b.run(t, to[service], cfg(service))
			outbox, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Service: service})
			require.NoError(t, err)
			writers.Go(func() {
				for n := range perKey * keyCount {
					msg := message.NewMessage(fmt.Sprintf("%d-%04d", i, n), nil)
					msgmeta.SetKey(msg, fmt.Sprintf("key %d", n%keyCount))
					if err := outbox.Publish(t.Context(), "topic", msg); err != nil {
						t.Error(err)
						return
					}
					if n == perKey*keyCount/2 {
						stop() // in mid-stream, and another takes over
					}
				}
			})
		}
		writers.Wait()
		for _, service := range services {
			b.run(t, to[service], cfg(service))
		}
		b.eventuallyWaiting(t, 0)
		for i, service := range services {
			require.Len(t, to[service].ids(""), perKey*keyCount, service)
			for k := range keyCount {
				var want []string
				for n := k; n < perKey*keyCount; n += keyCount {
					want = append(want, fmt.Sprintf("%d-%04d", i, n))
				}
				require.Equal(t, want, to[service].ids(fmt.Sprintf("key %d", k)), service)
			}
		}
	})
}

func TestForwardersShareWithTheirOwnServiceOnly(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var to broker
		for _, service := range []string{"one", "two", "two"} {
			b.run(t, &to, forwarder.Config{Service: service, LeaseTTL: time.Second})
		}
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			leases, err := b.st.Leases(t.Context(), "outbox/")
			require.NoError(t, err)
			owned := map[string]map[string]int{"one": {}, "two": {}}
			for _, l := range leases {
				if p, ok := forwarder.LeasedPartition(l.Name); ok && l.Owner != "" && l.ExpiresIn > 0 {
					owned[p.Service][l.Owner]++
				}
			}
			fair := len(owned["one"]) == 1 && len(owned["two"]) == 2
			for service, owners := range owned {
				for _, n := range owners {
					fair = fair && n == map[string]int{"one": store.OutboxPartitions, "two": store.OutboxPartitions / 2}[service]
				}
			}
			return fair, fmt.Sprint(owned)
		})
	})
}

func TestAServiceThatNobodyRelaysKeepsItsMessages(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var to broker
		b.run(t, &to, forwarder.Config{Service: "another"})
		b.publish(t, "topic", "k", "1")
		outbox, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Service: "another"})
		require.NoError(t, err)
		require.NoError(t, outbox.Publish(t.Context(), "topic", message.NewMessage("2", nil)))
		b.eventuallyWaiting(t, 1)
		require.Equal(t, []string{"2"}, to.ids(""))
	})
}

func TestNamesThatServicesCannotHave(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		for _, name := range []string{"a\x00b", "\xff", fmt.Sprintf("%0101d", 1)} {
			_, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Service: name})
			require.ErrorContains(t, err, "OutboxConfig.Service")
			_, err = forwarder.New(b.st, map[string]message.Publisher{"default": &broker{}}, forwarder.Config{Service: name})
			require.ErrorContains(t, err, "Config.Service")
		}
	})
}
