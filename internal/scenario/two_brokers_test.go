package scenario

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

// Two services on one database and one set of tables, each with a broker of its
// own, publish to a topic of the same name. Without the protection they are one
// service to the relay.
func TestTwoServicesOnOneDatabaseWithABrokerEach(t *testing.T) {
	second := map[string]string{kafka: sqs, sqs: kafka, mem: mem}
	pairs := on(t, []string{kafka, mem}, []string{postgres, mariadb, sqlite})
	onAndOff(t, pairs, func(t *testing.T, p pair, protected bool) []string {
		const perService = 60
		w := open(t, p)
		topic := w.topic("shared")
		buses := []*brokers.Broker{w.bus, openAnother(w, second[p.broker])}
		got := []*collector{collect(t, buses[0], topic), collect(t, buses[1], topic)}
		services := []string{"one", "two"}
		if !protected {
			services[1] = "one"
		}
		var writers sync.WaitGroup
		for i, service := range services {
			hr, err := headrace.New(t.Context(), w.db, headrace.Config{
				Service: service, Publisher: buses[i].Publisher, Migrate: true, Logger: w.logger,
			})
			require.NoError(t, err)
			relayed := make(chan error, 1)
			go func() { relayed <- hr.Run(context.WithoutCancel(t.Context())) }()
			<-hr.Running()
			t.Cleanup(func() {
				require.NoError(t, hr.Close())
				require.NoError(t, <-relayed)
			})
			writers.Go(func() {
				for n := range perService {
					msg := message.NewMessage(fmt.Sprintf("of %d: %d", i, n), nil)
					msgmeta.SetKey(msg, fmt.Sprint(n%5))
					if err := hr.Publisher().Publish(topic, msg); err != nil {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		testenv.Eventually(t, patience, tick, func() (bool, string) {
			a, b := len(got[0].ids()), len(got[1].ids())
			return a+b == 2*perService, fmt.Sprintf("%d and %d messages came", a, b)
		})
		var damage []string
		for i, c := range got {
			strays := 0
			for _, id := range c.ids() {
				var of, n int
				if _, err := fmt.Sscanf(id, "of %d: %d", &of, &n); err != nil || of != i {
					strays++
				}
			}
			if strays > 0 {
				damage = append(damage, fmt.Sprintf("%d of the other's messages are in the broker of service %d", strays, i+1))
			}
		}
		return damage
	})
}

// openAnother opens a second broker for a world's tests.
func openAnother(w *world, kind string) *brokers.Broker {
	other := *w
	other.brokerURL = brokerURL(w.t, kind)
	return other.openBroker(brokers.Config{})
}

// collector gathers the ids that come, each once.
type collector struct {
	mu   sync.Mutex
	seen []string
}

func (c *collector) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen)
}

func collect(t *testing.T, bus *brokers.Broker, topic string) *collector {
	t.Helper()
	subscriber, err := bus.SubscriberFor("collect")
	require.NoError(t, err)
	messages, err := subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	c := &collector{}
	go func() {
		for msg := range messages {
			c.mu.Lock()
			if !slices.Contains(c.seen, msg.UUID) {
				c.seen = append(c.seen, msg.UUID)
			}
			c.mu.Unlock()
			msg.Ack()
		}
	}()
	return c
}
