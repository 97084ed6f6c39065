package crash_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// A handler that is slower than the broker's patience sees its message given to
// somebody else while it is still at work. The effect must happen once.
func TestCrashHandlerSlowerThanTheAckDeadlineTakesEffectOnce(t *testing.T) {
	// Elsewhere there is no deadline: a live consumer keeps its messages.
	withDeadline := func(c combination) bool { return c.impatient != "" }
	onThose(t, withDeadline, func(t *testing.T, c combination) {
		c.options += "&" + c.impatient
		s := newStory(t, c)
		s.FailOneIn, s.repeats = 0, false
		slow := &slowness{deliveries: map[string]int{}, changed: make(chan struct{})}
		var stops []func()
		for range 2 { // two instances of the service
			stops = append(stops, s.start(t, slow.reach))
		}
		require.NoError(t, s.send(t.Context(), 4))
		s.drain(t)
		for _, stop := range stops {
			stop()
		}
		s.requireRight(t)
		for _, change := range s.sent {
			require.GreaterOrEqual(t, slow.count(change), 2, "the deadline never passed: %+v", change)
		}
	})
}

// slowness holds each first delivery in mid-handler, its stock updated, until
// the broker has delivered the message again.
type slowness struct {
	mu         sync.Mutex
	deliveries map[string]int
	changed    chan struct{} // closed, and replaced, with each delivery
}

func (s *slowness) count(change stockChanged) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deliveries[change.Change]
}

func (s *slowness) reach(ctx context.Context, name string) {
	if message.HandlerNameFromCtx(ctx) != apply {
		return
	}
	change, _ := ctx.Value(traceKey{}).(stockChanged)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch name {
	case delivered:
		s.deliveries[change.Change]++
		close(s.changed)
		s.changed = make(chan struct{})
	case stockUpdated:
		timeout := time.NewTimer(killTimeout)
		defer timeout.Stop()
		for over := false; !over && s.deliveries[change.Change] < 2; {
			changed := s.changed
			s.mu.Unlock()
			select {
			case <-changed:
			case <-timeout.C:
				over = true
			}
			s.mu.Lock()
		}
	}
}

// The embedded broker gives nothing away while its consumer lives, but one that
// is starved of time may fail to say so. However many deadlines pass, and whether
// or not the message is delivered again, the effect must happen once.
func TestCrashSlowHandlerOnTheEmbeddedBrokerTakesEffectOnce(t *testing.T) {
	t.Parallel()
	const deadline = 200 * time.Millisecond
	c := combinations(t)[0]
	c.options += "&ack_deadline=" + deadline.String()
	s := newStory(t, c)
	s.FailOneIn, s.repeats = 0, false

	began, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reach := func(_ context.Context, name string) {
		if name == stockUpdated {
			once.Do(func() { close(began) })
			<-release
		}
	}
	stops := []func(){s.start(t, reach), s.start(t, reach)}
	require.NoError(t, s.send(t.Context(), 3))
	<-began
	held := time.Now()
	testenv.Eventually(t, time.Minute, deadline/4, func() (bool, string) {
		return time.Since(held) > 5*deadline, fmt.Sprintf("held for %v", time.Since(held))
	})
	close(release)
	s.drain(t)
	for _, stop := range stops {
		stop()
	}
	s.requireRight(t)
}
