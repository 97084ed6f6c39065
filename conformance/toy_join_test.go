package conformance_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// joinToy has a toy's handlers work in the transaction that goes with their ack.
func joinToy(t *testing.T, b *toy.Broker, faults []toy.Fault) func(context.Context, string) (conformance.Joined, error) {
	t.Helper()

	st, err := store.Open(t.Context(), testenv.Open(t, testenv.SQLite(t)), store.Config{Dialect: store.SQLite, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })

	return func(_ context.Context, group string) (conformance.Joined, error) {
		sub := &joinedToy{Subscriber: b.Subscriber(group), st: st, faults: faults}

		return conformance.Joined{Subscriber: sub, Store: st}, nil
	}
}

type joinedToy struct {
	message.Subscriber

	st      *store.Store
	faults  []toy.Fault
	running sync.WaitGroup
}

func (j *joinedToy) has(f toy.Fault) bool { return slices.Contains(j.faults, f) }

func (j *joinedToy) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := j.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	j.running.Go(func() {
		defer close(out)
		for msg := range in {
			if !j.deliver(ctx, msg, out) {
				msg.Nack()
			}
		}
	})

	return out, nil
}

// deliver hands a message out in a transaction, and returns whether it was acked.
func (j *joinedToy) deliver(ctx context.Context, msg *message.Message, out chan<- *message.Message) bool {
	unit, err := j.st.Begin(context.WithoutCancel(ctx))
	if err != nil {
		return false
	}
	handed := msg.Copy()
	handed.SetContext(unit.Context(msg.Context()))
	end := context.WithoutCancel(ctx)
	select {
	case out <- handed:
	case <-ctx.Done():
		unit.Rollback(end, ctx.Err())

		return false
	}
	deadline := time.NewTimer(500 * time.Millisecond)
	defer deadline.Stop()
	commits := false
	select {
	case <-handed.Acked():
		committed := unit.Commit(end) == nil
		if committed || j.has(toy.AcksThoughAborted) {
			msg.Ack()
		}

		return committed || j.has(toy.AcksThoughAborted)
	case <-handed.Nacked():
		commits = j.has(toy.CommitsOnNack)
	case <-deadline.C:
		commits = j.has(toy.CommitsPastDeadline)
	case <-ctx.Done():
	}
	if commits {
		_ = unit.Commit(end)
	} else {
		unit.Rollback(end, context.Cause(ctx))
	}

	return false
}

func (j *joinedToy) Close() error {
	err := j.Subscriber.Close()
	j.running.Wait()

	return err
}
