package forwarder_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

func TestPartitionsGivenUpBecauseTheDatabaseWasSlowAreTakenAgain(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // its lease lasts until somebody takes it
		}
		var to broker
		clock := clockwork.NewFakeClock()
		cfg := forwarder.Config{LeaseTTL: 10 * time.Second, Clock: clock}
		f, err := forwarder.New(b.st, map[string]message.Publisher{"default": &to}, cfg)
		require.NoError(t, err)

		// Half way through its first partitions the forwarder's time flies: it holds
		// them by the database's clock, and has lost them by its own.
		var commits atomic.Int32
		ctx := step.With(context.WithoutCancel(t.Context()), func(_ context.Context, name string) {
			if name == step.TxBeforeCommit && commits.Add(1) == 10 {
				clock.Advance(2 * cfg.LeaseTTL)
			}
		})
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		<-f.Running()
		for k := range 50 {
			b.publish(t, "topic", fmt.Sprintf("k%d", k), fmt.Sprintf("m%d", k))
		}
		testenv.Eventually(t, deadline, 20*time.Millisecond, func() (bool, string) {
			clock.Advance(cfg.LeaseTTL / 10)
			n, _ := b.waiting(t)
			return n == 0, fmt.Sprintf("%d rows wait", n)
		})
		require.NoError(t, f.Close())
		require.NoError(t, <-done)
	})
}
