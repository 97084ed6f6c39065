package delivery_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/delivery"
)

func TestCloseEndsSubscriptionsAndWaitsForThem(t *testing.T) {
	t.Parallel()
	life := delivery.NewLifetime()
	ended := false
	require.NoError(t, life.Begin(t.Context(), func(stop context.Context) (func(), error) {
		return func() { <-stop.Done(); ended = true }, nil
	}))
	life.Close()
	require.True(t, ended)
	life.Close()
	require.Error(t, life.Closing().Err())
	require.ErrorIs(t, life.Begin(t.Context(), nil), brokers.ErrClosed)
}

func TestTheEndOfTheContextEndsOneSubscription(t *testing.T) {
	t.Parallel()
	life := delivery.NewLifetime()
	defer life.Close()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	require.NoError(t, life.Begin(ctx, func(stop context.Context) (func(), error) {
		return func() { <-stop.Done(); close(over) }, nil
	}))
	cancel()
	<-over
	require.NoError(t, life.Closing().Err())
}

func TestASubscriptionThatCannotBePreparedIsNotBegun(t *testing.T) {
	t.Parallel()
	life := delivery.NewLifetime()
	broken := errors.New("broken")
	var kept context.Context
	require.ErrorIs(t, life.Begin(t.Context(), func(stop context.Context) (func(), error) {
		kept = stop

		return nil, broken
	}), broken)
	require.Error(t, kept.Err())
	life.Close()
}

func TestTheWaitForAnAnswerIsBounded(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	close(done)
	for name, c := range map[string]struct {
		wait delivery.Wait
		do   func(*message.Message)
		want delivery.Outcome
		took time.Duration
	}{
		"acked":           {delivery.Wait{Drain: time.Second}, func(m *message.Message) { m.Ack() }, delivery.Acked, 0},
		"nacked":          {delivery.Wait{Drain: time.Second}, func(m *message.Message) { m.Nack() }, delivery.Nacked, 0},
		"late":            {delivery.Wait{Deadline: time.Minute}, nil, delivery.Late, time.Minute},
		"stopped":         {delivery.Wait{Stop: done, Drain: time.Second}, nil, delivery.Abandoned, time.Second},
		"lost":            {delivery.Wait{Lost: done, Drain: time.Second}, nil, delivery.Abandoned, time.Second},
		"late while ends": {delivery.Wait{Stop: done, Drain: time.Hour, Deadline: time.Minute}, nil, delivery.Late, time.Minute},
		"drains once":     {delivery.Wait{Stop: done, Lost: done, Drain: time.Second}, nil, delivery.Abandoned, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				msg := message.NewMessage(name, nil)
				if c.do != nil {
					c.do(msg)
				}
				began := time.Now()
				c.wait.Stop, c.wait.Lost = inBubble(c.wait.Stop), inBubble(c.wait.Lost)
				require.Equal(t, c.want, delivery.Await(msg, c.wait))
				require.Equal(t, c.took, time.Since(began))
			})
		})
	}
}

// inBubble replaces a closed channel by one of the test's bubble.
func inBubble(c <-chan struct{}) <-chan struct{} {
	if c == nil {
		return nil
	}
	closed := make(chan struct{})
	close(closed)

	return closed
}

func TestBackoffDoublesUpToALimit(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]int{0: 1, 1: 1, 2: 2, 3: 4, 7: 64, 8: 100, 64: 100, math.MaxInt64: 100} {
		require.Equal(t, time.Duration(want)*time.Millisecond, delivery.Backoff(time.Millisecond, n), n)
	}
}
