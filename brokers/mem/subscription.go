package mem

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
	"github.com/headrace-go/headrace/internal/step"
)

const (
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
	ctx    context.Context //nolint:containedctx // the subscription's own, from Subscribe
	stop   context.Context //nolint:containedctx // done when ctx is, or when the subscriber closes
	out    chan *message.Message
	wake   <-chan struct{}
	unwake func()
	freed  chan struct{} // a delivery has ended

	mu       sync.Mutex
	inFlight map[int64]claim
	again    map[int64]bool // of those, the ones claimed again meanwhile
	working  sync.WaitGroup
}

func newSubscription(ctx, stop context.Context, s *subscriber, topic string) *subscription {
	sub := &subscription{
		subscriber: s, topic: topic, ctx: ctx, stop: stop,
		out:      make(chan *message.Message),
		freed:    make(chan struct{}, 1),
		inFlight: map[int64]claim{},
		again:    map[int64]bool{},
	}
	sub.wake, sub.unwake = s.signals.listen(topic)

	return sub
}

// run delivers until Subscribe's context ends or the subscriber is closed, then
// waits for what is in flight.
func (s *subscription) run() {
	defer close(s.out)
	defer s.unwake()

	var extending sync.WaitGroup
	idle := make(chan struct{})
	if s.file != "" {
		extending.Go(func() { s.extend(idle) })
	}
	for s.stop.Err() == nil {
		s.wait(s.feed())
	}
	s.working.Wait()
	close(idle)
	extending.Wait()
}

// feed claims what there is room for and returns how long nothing more will
// become ready by itself; 0 when that can't be known.
func (s *subscription) feed() time.Duration {
	room := s.workers - s.count()
	if room <= 0 {
		return 0
	}

	claims, next, err := s.queue.claim(s.ctx, s.topic, s.group, room)
	if err != nil {
		if s.ctx.Err() == nil {
			s.logger.Error("mem: could not read the queue; trying again", err,
				watermill.LogFields{"topic": s.topic, "group": s.group, "wait": retryAfterError.String()})
		}

		return retryAfterError
	}

	for _, c := range claims {
		if s.adopt(c) {
			s.working.Go(func() { s.deliver(c) })
		}
	}

	return next
}

func (s *subscription) wait(next time.Duration) {
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
	case <-s.stop.Done():
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
// again, and the handler that is at work goes on under the new claim. Or the
// message has been given back, became ready and was claimed before settle got
// around to forget it: settle delivers it then.
func (s *subscription) adopt(c claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.inFlight[c.id]
	s.inFlight[c.id] = c
	if known {
		s.again[c.id] = true
	}

	return !known
}

// deliver hands out one message and records what became of it.
func (s *subscription) deliver(c claim) {
	msg := c.message()
	msgCtx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	msg.SetContext(msgCtx)

	select {
	case s.out <- msg:
	case <-s.stop.Done():
		s.settle(c.id, s.unread)

		return
	}
	switch delivery.Await(msg, delivery.Wait{Stop: s.stop.Done(), Drain: s.drain}) {
	case delivery.Acked:
		of := msg.Context() // with what the router and middlewares have put there
		step.Reach(of, step.AckBefore)
		s.settle(c.id, s.acked)
		step.Reach(of, step.AckAfter)
	case delivery.Nacked:
		s.settle(c.id, s.nacked)
	case delivery.Abandoned, delivery.Late:
		s.settle(c.id, s.abandoned)
	}
}

func (s *subscription) acked(ctx context.Context, c claim) error {
	return s.queue.ack(ctx, s.topic, s.group, c)
}

func (s *subscription) nacked(ctx context.Context, c claim) error {
	return s.queue.giveBack(ctx, s.topic, s.group, c, delivery.Backoff(s.nackDelay, c.attempt), true)
}

// unread gives back what nobody took before the subscription's end.
func (s *subscription) unread(ctx context.Context, c claim) error {
	return s.queue.giveBack(ctx, s.topic, s.group, c, 0, false)
}

// abandoned gives back what was taken and not answered.
func (s *subscription) abandoned(ctx context.Context, c claim) error {
	return s.queue.giveBack(ctx, s.topic, s.group, c, 0, true)
}

// settle records the end of a delivery. When that fails the claim is left to
// expire, and the message comes again.
func (s *subscription) settle(id int64, record func(context.Context, claim) error) {
	s.mu.Lock()
	c := s.inFlight[id] // the newest claim of it
	delete(s.again, id)
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), settleTimeout)
	defer cancel()
	if err := record(ctx, c); err != nil {
		s.logger.Error("mem: could not record the end of a delivery; the message will come again", err,
			watermill.LogFields{"topic": s.topic, "group": s.group, "message_uuid": c.uuid})
	}

	s.mu.Lock()
	newer, again := s.inFlight[id], s.again[id]
	delete(s.again, id)
	if !again {
		delete(s.inFlight, id)
	}
	s.mu.Unlock()
	if again {
		s.working.Go(func() { s.deliver(newer) })

		return
	}
	select {
	case s.freed <- struct{}{}:
	default:
	}
	s.signals.wake(s.topic) // a key is free again, for other subscriptions too
}

// extend keeps the claims of messages in flight alive as long as this process
// is.
func (s *subscription) extend(idle <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
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
