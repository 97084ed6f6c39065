package mem

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
)

const (
	// maxBackoff bounds the doubling of nack_delay, as a multiple of it.
	maxBackoff = 100
	// retryAfterError is the wait after the queue could not be read.
	retryAfterError = time.Second
	// settleTimeout bounds the recording of an ack or nack.
	settleTimeout = 30 * time.Second
)

// subscription feeds one channel. Its loop claims messages and starts a
// goroutine for each, which hands it out and waits for the verdict.
type subscription struct {
	*subscriber

	topic  string
	out    chan *message.Message
	wake   <-chan struct{}
	unwake func()
	freed  chan struct{} // a delivery has ended

	mu       sync.Mutex
	inFlight map[int64]claim
	working  sync.WaitGroup
}

func newSubscription(s *subscriber, topic string) *subscription {
	sub := &subscription{
		subscriber: s, topic: topic,
		out:      make(chan *message.Message),
		freed:    make(chan struct{}, 1),
		inFlight: map[int64]claim{},
	}
	sub.wake, sub.unwake = s.signals.listen(topic)

	return sub
}

// run delivers until Subscribe's context ends or the subscriber is closed, then
// waits for what is in flight.
func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	defer s.unwake()

	var extending sync.WaitGroup
	idle := make(chan struct{})
	if s.file != "" {
		extending.Go(func() { s.extend(ctx, idle) })
	}
	for !s.stopped(ctx) {
		s.wait(ctx, s.feed(ctx))
	}
	s.working.Wait()
	close(idle)
	extending.Wait()
}

func (s *subscription) stopped(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-s.closing:
		return true
	default:
		return false
	}
}

// feed claims what there is room for and returns how long nothing more will
// become ready by itself; 0 when that can't be known.
func (s *subscription) feed(ctx context.Context) time.Duration {
	room := s.workers - s.count()
	if room <= 0 {
		return 0
	}

	claims, next, err := s.queue.claim(ctx, s.topic, s.group, room)
	if err != nil {
		if ctx.Err() == nil {
			s.logger.Error("mem: could not read the queue; trying again", err,
				watermill.LogFields{"topic": s.topic, "group": s.group, "wait": retryAfterError.String()})
		}

		return retryAfterError
	}

	for _, c := range claims {
		if s.adopt(c) {
			s.working.Go(func() { s.deliver(ctx, c) })
		}
	}

	return next
}

func (s *subscription) wait(ctx context.Context, next time.Duration) {
	if s.file != "" && s.count() < s.workers && (next <= 0 || next > s.poll) {
		next = s.poll
	}
	var due <-chan time.Time
	if next > 0 {
		timer := time.NewTimer(next)
		defer timer.Stop()
		due = timer.C
	}

	select {
	case <-ctx.Done():
	case <-s.closing:
	case <-s.wake:
	case <-s.freed:
	case <-due:
	}
}

func (s *subscription) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return len(s.inFlight)
}

// adopt notes a claim. It returns false when the message is in flight here
// already: the process slept past its deadline and claimed its own message
// again, and the handler that is at work goes on under the new claim.
func (s *subscription) adopt(c claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.inFlight[c.id]
	s.inFlight[c.id] = c

	return !known
}

// verdict is what became of a delivery.
type verdict int

const (
	acked verdict = iota
	nacked
	unread    // nobody took it before the end
	abandoned // no answer came before the end
)

// deliver hands out one message and records what became of it.
func (s *subscription) deliver(ctx context.Context, c claim) {
	msg := c.message()
	msgCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	msg.SetContext(msgCtx)

	v := unread
	select {
	case s.out <- msg:
		v = s.await(ctx, msg)
	case <-ctx.Done():
	case <-s.closing:
	}
	if v != acked {
		s.settle(ctx, c.id, v)

		return
	}
	of := msg.Context()            // with what the router and middlewares have put there
	step.Reach(of, step.AckBefore) //nolint:contextcheck // as said
	s.settle(ctx, c.id, v)
	step.Reach(of, step.AckAfter) //nolint:contextcheck // as said
}

// await waits for ack or nack: for ever, or up to the drain option after the
// subscription's end.
func (s *subscription) await(ctx context.Context, msg *message.Message) verdict {
	select {
	case <-msg.Acked():
		return acked
	case <-msg.Nacked():
		return nacked
	case <-ctx.Done():
	case <-s.closing:
	}

	timer := time.NewTimer(s.drain)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return acked
	case <-msg.Nacked():
		return nacked
	case <-timer.C:
		return abandoned
	}
}

// settle records a verdict. When that fails the claim is left to expire, and
// the message comes again.
func (s *subscription) settle(ctx context.Context, id int64, v verdict) {
	s.mu.Lock()
	c := s.inFlight[id] // the newest claim of it
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	var err error
	switch v {
	case acked:
		err = s.queue.ack(ctx, s.topic, s.group, c)
	case nacked:
		err = s.queue.giveBack(ctx, s.topic, s.group, c, s.backoff(c.attempt), true)
	case unread, abandoned:
		err = s.queue.giveBack(ctx, s.topic, s.group, c, 0, v == abandoned)
	}
	if err != nil {
		s.logger.Error("mem: could not record the end of a delivery; the message will come again", err,
			watermill.LogFields{"topic": s.topic, "group": s.group, "message_uuid": c.uuid})
	}

	s.mu.Lock()
	delete(s.inFlight, id)
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
	s.signals.wake(s.topic) // a key is free again, for other subscriptions too
}

// backoff is the wait before the next attempt.
func (s *subscription) backoff(attempt int64) time.Duration {
	factor := maxBackoff
	if attempt <= 7 { // 2^7 is beyond maxBackoff, and far on the shift overflows
		factor = min(1<<max(attempt-1, 0), maxBackoff)
	}

	return time.Duration(factor) * s.nackDelay
}

// extend keeps the claims of messages in flight alive as long as this process
// is.
func (s *subscription) extend(ctx context.Context, idle <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ticker := time.NewTicker(s.ackDeadline / 3)
	defer ticker.Stop()

	for {
		select {
		case <-idle:
			return
		case <-ticker.C:
		}

		s.mu.Lock()
		claims := slices.Collect(maps.Values(s.inFlight))
		s.mu.Unlock()
		if len(claims) == 0 {
			continue
		}
		if err := s.queue.extend(ctx, s.topic, s.group, claims); err != nil {
			s.logger.Error("mem: could not extend claims; messages in flight may be delivered twice", err,
				watermill.LogFields{"topic": s.topic, "group": s.group})
		}
	}
}
