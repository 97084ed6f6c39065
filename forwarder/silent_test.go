package forwarder_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
	"github.com/headrace-go/headrace/store"
)

// behindProxy opens the bundle's database once more, through a proxy.
func (b *bundle) behindProxy(t *testing.T, address string) (*bundle, *disrupt.Proxy) {
	t.Helper()
	proxy, through := disrupt.Through(t, address)
	db := testenv.Open(t, through)
	st, err := store.Open(t.Context(), db, store.Config{Dialect: b.st.Dialect()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return &bundle{st: st, db: db, outbox: b.outbox}, proxy
}

// A forwarder whose database falls silent, with all connections open, loses its
// partitions to another, and takes its share again when the database is back.
func TestAForwarderWhoseDatabaseFallsSilentIsReplacedAndComesBack(t *testing.T) {
	eachServer(t, func(t *testing.T, b *bundle, address string) {
		var first, second broker
		cfg := forwarder.Config{LeaseTTL: time.Second, MaxRetryBackoff: time.Second}
		silenced, proxy := b.behindProxy(t, address)
		silenced.run(t, &first, cfg)
		b.publish(t, "topic", "k", "before")
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"before"}, first.ids(""))

		proxy.Freeze()
		b.run(t, &second, cfg)
		for n := range 50 {
			b.publish(t, "topic", fmt.Sprintf("k%d", n), fmt.Sprintf("m%d", n))
		}
		b.eventuallyWaiting(t, 0)
		require.Len(t, first.ids(""), 1)
		require.Len(t, second.ids(""), 50)
		proxy.Mend()
		testenv.Eventually(t, deadline, 20*time.Millisecond, func() (bool, string) {
			leases, err := b.st.Leases(t.Context(), "outbox/")
			require.NoError(t, err)
			owned := map[string]int{}
			for _, l := range leases {
				if l.Owner != "" && l.ExpiresIn > 0 {
					owned[l.Owner]++
				}
			}
			return len(owned) == 2, fmt.Sprint(owned)
		})
	})
}

// Close says so when the database doesn't answer, and Run ends all the same.
func TestCloseEndsWhileTheDatabaseIsSilent(t *testing.T) {
	eachServer(t, func(t *testing.T, b *bundle, address string) {
		var to broker
		silenced, proxy := b.behindProxy(t, address)
		f, err := forwarder.New(silenced.st, map[string]message.Publisher{"default": &to},
			forwarder.Config{CloseTimeout: 500 * time.Millisecond})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- f.Run(context.WithoutCancel(t.Context())) }()
		b.publish(t, "topic", "k", "1")
		b.eventuallyWaiting(t, 0)
		proxy.Freeze()
		require.ErrorContains(t, f.Close(), "the database doesn't answer")
		timer := time.NewTimer(deadline)
		defer timer.Stop()
		select {
		case err := <-done:
			require.NoError(t, err)
		case <-timer.C:
			proxy.Mend()
			<-done
			t.Fatal("it ended only when the database answered")
		}
		proxy.Mend()
	})
}

// A database that is away for a moment after a publish doesn't make the relay
// publish again.
func TestAConfirmationIsTriedAgain(t *testing.T) {
	eachServer(t, func(t *testing.T, b *bundle, address string) {
		var to broker
		away, proxy := b.behindProxy(t, address)
		f, err := forwarder.New(away.st, map[string]message.Publisher{"default": &to}, forwarder.Config{RetryBackoff: quick})
		require.NoError(t, err)
		cut := make(chan struct{})
		var once sync.Once
		ctx := step.With(context.WithoutCancel(t.Context()), func(_ context.Context, name string) {
			if name == step.RelayBeforeConfirm {
				once.Do(func() {
					proxy.Cut()
					close(cut)
				})
			}
		})
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		b.publish(t, "topic", "k", "1")
		<-cut
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
		proxy.Mend()
		b.eventuallyWaiting(t, 0)
		require.NoError(t, f.Close())
		require.NoError(t, <-done)
		require.Len(t, to.ids(""), 1)
	})
}
