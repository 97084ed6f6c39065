package scenario

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
)

// errInjected is what goes wrong on purpose.
var errInjected = errors.New("injected failure")

// subscription is one handler of a service.
type subscription struct {
	service string
	handler string // name in the router; default "handle"
	topic   string
	publish string // topic of what the handler returns
	handle  message.HandlerFunc
	// middlewares, outermost first.
	middlewares []message.HandlerMiddleware
	// subscriber, where it isn't the broker's own.
	subscriber message.Subscriber
}

// serve runs a service's handlers on the broker until the test ends.
func (w *world) serve(subscriptions ...subscription) (stop func()) {
	w.t.Helper()
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, w.logger)
	require.NoError(w.t, err)
	for _, s := range subscriptions {
		sub := s.subscriber
		if sub == nil {
			sub, err = w.bus.SubscriberFor(s.service)
			require.NoError(w.t, err)
		}
		name := s.handler
		if name == "" {
			name = "handle"
		}
		if s.publish == "" {
			router.AddConsumerHandler(name, s.topic, sub, func(msg *message.Message) error {
				_, err := s.handle(msg)
				return err
			}).AddMiddleware(s.middlewares...)
			continue
		}
		router.AddHandler(name, s.topic, sub, s.publish, w.bus.Publisher, s.handle).AddMiddleware(s.middlewares...)
	}
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(w.t.Context())) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			require.NoError(w.t, router.Close())
			require.NoError(w.t, <-done)
		})
	}
	w.t.Cleanup(stop)
	receive(w.t, router.Running(), "the router's start")
	return stop
}

// unlessOff is the protection, or nothing.
func unlessOff(protected bool, m message.HandlerMiddleware) []message.HandlerMiddleware {
	if protected {
		return []message.HandlerMiddleware{m}
	}
	return nil
}

func chain(ms ...[]message.HandlerMiddleware) (all []message.HandlerMiddleware) {
	for _, m := range ms {
		all = append(all, m...)
	}
	return all
}

func one(m message.HandlerMiddleware) []message.HandlerMiddleware {
	return []message.HandlerMiddleware{m}
}

// tally counts things by name and lets tests wait for a count.
type tally struct {
	mu      sync.Mutex
	counts  map[string]int
	changed chan struct{}
}

func newTally() *tally { return &tally{counts: map[string]int{}, changed: make(chan struct{})} }

func (c *tally) add(name string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[name]++
	close(c.changed)
	c.changed = make(chan struct{})
	return c.counts[name]
}

func (c *tally) get(name string) (n int, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name], c.changed
}

// wait returns when a thing was counted n times.
func (c *tally) wait(t *testing.T, name string, n int) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		got, changed := c.get(name)
		if got >= n {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("waited %s for %s to be counted %d times, it was %d", patience, name, n, got)
		}
	}
}

// acked counts the deliveries that were not refused.
func (c *tally) acked(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		produced, err := h(msg)
		if err == nil {
			c.add(msg.UUID)
		}
		return produced, err
	}
}

// loseAcks fails the first n deliveries of each message that were handled: the
// broker doesn't hear of them and delivers again.
func loseAcks(n int) message.HandlerMiddleware {
	lost := newTally()
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			produced, err := h(msg)
			if err == nil && lost.add(msg.UUID) <= n {
				return nil, errInjected
			}
			return produced, err
		}
	}
}

// crashAt panics in each message's deliveries at one of the steps after the
// other, in the goroutine that handles it, and recovers at the edge. (Real kills
// are the crash test's.) A step that is never reached is tried until it is.
func crashAt(steps ...string) message.HandlerMiddleware {
	var mu sync.Mutex
	next := map[string]int{}
	return func(h message.HandlerFunc) message.HandlerFunc {
		return wmiddleware.Recoverer(func(msg *message.Message) ([]*message.Message, error) {
			msg.SetContext(step.With(msg.Context(), func(_ context.Context, name string) {
				mu.Lock()
				due := next[msg.UUID] < len(steps) && steps[next[msg.UUID]] == name
				if due {
					next[msg.UUID]++
				}
				mu.Unlock()
				if due {
					panic(errInjected)
				}
			}))
			return h(msg)
		})
	}
}

// firstTime returns true the first time it is asked about a name.
func firstTime() func(name string) bool {
	seen := newTally()
	return func(name string) bool { return seen.add(name) == 1 }
}

// newMessage makes a message with a UUID of its own.
func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}
