package mem

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
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
	topic   string
	out     chan *message.Message
	wake    <-chan struct{}
	unwake  func()
	freed   chan struct{}   // a delivery has ended
	context context.Context // of Subscribe: the messages' parent

	mu       sync.Mutex
	inFlight map[int64]claim
	working  sync.WaitGroup
}

func newSubscription(ctx context.Context, s *subscriber, topic string) *subscription {
	sub := &subscription{
		subscriber: s, topic: topic, context: ctx,
		out:      make(chan *message.Message),
		freed:    make(chan struct{}, 1),
		inFlight: map[int64]claim{},
	}
	sub.wake, sub.unwake = s.signals.listen(topic)

	return sub
}

func (s *subscription) run() {
	defer close(s.out)
	defer s.unwake()

	// stop ends the handing out; drained, later, ends the waiting for verdicts.
	stop, cancel := context.WithCancel(s.context)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	drained, abandon := context.WithCancel(context.WithoutCancel(s.context))
	defer abandon()

	extending := make(chan struct{})
	go func() { defer close(extending); s.extend(drained) }()

	for stop.Err() == nil {
		s.wait(stop, s.feed(stop, drained))
	}

	timer := time.AfterFunc(s.drain, abandon)
	s.working.Wait()
	timer.Stop()
	abandon()
	<-extending
}

// feed claims what there is room for and returns how long nothing more will
// become ready by itself; 0 when that can't be known.
func (s *subscription) feed(stop, drained context.Context) time.Duration {
	room := s.workers - s.count()
	if room <= 0 {
		return 0
	}

	claims, next, err := s.queue.claim(stop, s.topic, s.group, room)
	if err != nil {
		if stop.Err() == nil {
			s.logger.Error("mem: could not read the queue; trying again", err,
				watermill.LogFields{"topic": s.topic, "group": s.group, "wait": retryAfterError.String()})
		}

		return retryAfterError
	}

	for _, c := range claims {
		if s.adopt(c) {
			s.working.Go(func() { s.deliver(stop, drained, c) })
		}
	}

	return next
}

func (s *subscription) wait(stop context.Context, next time.Duration) {
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
	case <-stop.Done():
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

// deliver hands out one message and records what became of it.
func (s *subscription) deliver(stop, drained context.Context, c claim) {
	msg := c.message()
	ctx, cancel := context.WithCancel(s.context)
	defer cancel()
	msg.SetContext(ctx)

	select {
	case s.out <- msg:
	case <-stop.Done():
		s.settle(c, func(ctx context.Context, c claim) error {
			return s.queue.giveBack(ctx, s.topic, s.group, c, 0, false)
		})

		return
	}

	select {
	case <-msg.Acked():
		s.settle(c, func(ctx context.Context, c claim) error { return s.queue.ack(ctx, s.topic, s.group, c) })
	case <-msg.Nacked():
		s.settle(c, func(ctx context.Context, c claim) error {
			return s.queue.giveBack(ctx, s.topic, s.group, c, s.backoff(c.attempt), true)
		})
	case <-drained.Done():
		s.settle(c, func(ctx context.Context, c claim) error {
			return s.queue.giveBack(ctx, s.topic, s.group, c, 0, true)
		})
	}
}

// backoff is the wait before the next attempt.
func (s *subscription) backoff(attempt int64) time.Duration {
	factor := maxBackoff
	if attempt <= 7 { // 2^7 is beyond maxBackoff, and far on the shift overflows
		factor = min(1<<max(attempt-1, 0), maxBackoff)
	}

	return time.Duration(factor) * s.nackDelay
}

// settle records a verdict. When that fails the claim is left to expire, and
// the message comes again.
func (s *subscription) settle(c claim, record func(context.Context, claim) error) {
	s.mu.Lock()
	c = s.inFlight[c.id] // the newest claim of it
	s.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.context), settleTimeout)
	defer cancel()
	if err := record(ctx, c); err != nil {
		s.logger.Error("mem: could not record the end of a delivery; the message will come again", err,
			watermill.LogFields{"topic": s.topic, "group": s.group, "message_uuid": c.uuid})
	}

	s.mu.Lock()
	delete(s.inFlight, c.id)
	s.mu.Unlock()
	select {
	case s.freed <- struct{}{}:
	default:
	}
	s.signals.wake(s.topic) // a key is free again, for other subscriptions too
}

// extend keeps the claims of messages in flight alive as long as this process
// is.
func (s *subscription) extend(drained context.Context) {
	if s.file == "" {
		return
	}
	ticker := time.NewTicker(s.ackDeadline / 3)
	defer ticker.Stop()

	for {
		select {
		case <-drained.Done():
			return
		case <-ticker.C:
		}

		s.mu.Lock()
		claims := make([]claim, 0, len(s.inFlight))
		for _, c := range s.inFlight {
			claims = append(claims, c)
		}
		s.mu.Unlock()
		if len(claims) == 0 {
			continue
		}
		if err := s.queue.extend(drained, s.topic, s.group, claims); err != nil && drained.Err() == nil {
			s.logger.Error("mem: could not extend claims; messages in flight may be delivered twice", err,
				watermill.LogFields{"topic": s.topic, "group": s.group})
		}
	}
}
