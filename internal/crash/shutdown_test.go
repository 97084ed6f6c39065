package crash_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
)

// A router's shutdown cancels the contexts of all messages at once, wherever
// their handlers are. What has not committed must come again, and what has must
// not.
func TestCrashRouterStoppedInMidHandlerLosesAndDoublesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("a test for the long run: make test")
	}
	onEach(t, func(t *testing.T, c combination) {
		s := newStory(t, c)
		who := [...]string{apply, recommend}
		for i, name := range []string{
			delivered, step.TxBegun, step.DedupeInserted, stockUpdated, effectRecorded, step.HandlerReturned, step.OutboxWritten,
			step.TxBeforeCommit, step.TxAfterCommit, step.AckBefore, step.AckAfter,
			step.RelayRead, step.RelayBeforePublish, step.RelayAfterPublish, step.RelayBeforeConfirm, step.RelayAfterConfirm,
		} {
			at := killPoint{who[i%len(who)], name, 1}
			if name == step.OutboxWritten {
				at.Who = apply
			}
			switch {
			case strings.HasPrefix(name, "relay."):
				at.Who = relay
			case strings.HasPrefix(name, "tx.") && c.join:
				at.Who = subscriber
			}
			s.stopAt(t, at)
		}
		stop := s.start(t, nothing)
		s.drain(t)
		stop()
		s.requireRight(t)
	})
}

// stopAt runs the service until it reaches a point, cancels its context there,
// and waits until it has ended.
func (s *story) stopAt(t *testing.T, at killPoint) {
	t.Helper()
	reached := make(chan struct{})
	cancelled := make(chan struct{})
	var once sync.Once
	var armed atomic.Bool // a start that is cut off may fail, and is none of this
	stop := s.start(t, func(ctx context.Context, name string) {
		if !armed.Load() || name != at.Step || at.Who != whoIn(ctx) {
			return
		}
		once.Do(func() {
			close(reached)
			<-cancelled
			if ctx.Done() != nil { // a commit goes on
				<-ctx.Done()
			}
		})
	})
	armed.Store(true)
	require.NoError(t, s.send(t.Context(), 4))
	timeout := time.NewTimer(killTimeout)
	defer timeout.Stop()
	select {
	case <-reached:
	case <-timeout.C:
		t.Errorf("%v was never reached", at)
	}
	s.mu.Lock()
	s.kills = append(s.kills, "stopped at "+at.String())
	s.mu.Unlock()
	stopping := make(chan struct{})
	go func() {
		defer close(stopping)
		stop()
	}()
	close(cancelled)
	<-stopping
}
