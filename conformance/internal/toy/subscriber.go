package toy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Subscriber returns a subscriber of a group.
func (b *Broker) Subscriber(groupName string) message.Subscriber {
	return &subscriber{b: b, group: groupName, closing: make(chan struct{})}
}

type subscriber struct {
	b       *Broker
	group   string
	closing chan struct{}
	running sync.WaitGroup
	frozen  bool // under the broker's lock

	mu            sync.Mutex
	closed        bool
	subscriptions []*subscription
}

var errClosed = errors.New("subscriber is closed")

func (s *subscriber) Subscribe(ctx context.Context, topicName string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.b
	if s.closed && !b.has(SubscribesClosed) {
		return nil, errClosed
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isEnded() {
		return nil, errClosed
	}
	g, err := b.group(b.topic(topicName), s.group)
	if err != nil {
		return nil, err
	}
	sub := &subscription{s: s, g: g, out: make(chan *message.Message), over: make(chan struct{})}
	if s.closed {
		b.running.Go(func() { <-b.ended; close(sub.out) })

		return sub.out, nil // silent until then
	}
	sub.second = len(s.subscriptions) > 0
	s.subscriptions = append(s.subscriptions, sub)
	b.all[sub] = true
	if b.has(LeaksGoroutine) {
		b.running.Go(func() { <-b.ended })
	}
	if b.has(IgnoresContext) {
		ctx = context.WithoutCancel(ctx)
	}
	s.running.Add(1)
	b.running.Go(func() {
		defer s.running.Done()
		sub.run(ctx)
	})

	return sub.out, nil
}

func (s *subscriber) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		if s.b.has(CloseTwicePanics) {
			panic("close of closed channel")
		}
		s.running.Wait()

		return nil
	}
	s.closed = true
	s.mu.Unlock()
	close(s.closing)
	s.running.Wait()

	return nil
}

// subscription feeds one channel.
type subscription struct {
	s      *subscriber
	g      *group
	out    chan *message.Message
	over   chan struct{}
	second bool
	deaf   bool // since the broker was cut off, by a fault
	hands  sync.WaitGroup
}

// run hands out what is next until the subscription ends, then waits for the
// handlers.
func (s *subscription) run(ctx context.Context) {
	b := s.s.b
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	s.feed(ctx, inner)

	if b.has(CancelEndsAll) && ctx.Err() != nil {
		s.s.mu.Lock()
		for _, other := range s.s.subscriptions {
			if other != s {
				close(other.over)
			}
		}
		s.s.mu.Unlock()
	}
	if b.has(LosesUnread) {
		s.dropUnread()
	}
	drained := make(chan struct{})
	go func() { s.hands.Wait(); close(drained) }()
	patience := time.NewTimer(400 * time.Millisecond) // for handlers
	defer patience.Stop()
	if ctx.Err() != nil {
		cancel() // handlers learn that their subscription is over, and may finish
	}
	if !b.has(CloseDoesNotWait) {
		select {
		case <-drained:
		case <-patience.C:
		case <-b.ended:
		}
	}
	cancel()
	<-drained
	b.mu.Lock()
	s.leave()
	delete(b.all, s)
	b.wake()
	b.mu.Unlock()
	if b.has(ForgetsAcks) {
		s.forget()
	}
	if b.has(EndsWithNil) {
		b.running.Go(func() {
			select {
			case s.out <- nil:
			case <-b.ended:
			}
			<-b.ended
			close(s.out)
		})

		return
	}
	if !b.has(ChannelStaysOpen) || b.isEnded() {
		close(s.out)

		return
	}
	b.running.Go(func() { <-b.ended; close(s.out) })
}

func (s *subscription) dropUnread() {
	s.s.b.mu.Lock()
	defer s.s.b.mu.Unlock()
	for _, e := range s.g.entries {
		if e.holder == nil && !e.gone {
			e.gone = true

			return
		}
	}
}

func (s *subscription) forget() {
	s.s.b.mu.Lock()
	defer s.s.b.mu.Unlock()
	for _, e := range s.g.entries {
		e.gone = false
	}
}

// feed hands out messages until the subscription is to end.
func (s *subscription) feed(ctx, inner context.Context) {
	b := s.s.b
	for {
		b.mu.Lock()
		e, wait := s.next()
		changed := b.changed
		b.mu.Unlock()
		if e == nil {
			timer := time.NewTimer(wait)
			select {
			case <-changed:
			case <-timer.C:
			case <-ctx.Done():
			case <-s.s.closing:
			case <-s.over:
			case <-b.ended:
			}
			timer.Stop()
		} else if !s.hand(ctx, inner, e) {
			return
		}
		if s.stopped(ctx) {
			return
		}
	}
}

func (s *subscription) stopped(ctx context.Context) bool {
	select {
	case <-ctx.Done():
	case <-s.s.closing:
	case <-s.over:
	case <-s.s.b.ended:
	default:
		return false
	}

	return true
}

// hand gives a message out, and follows what becomes of it; false when the
// subscription ended before anybody took it.
func (s *subscription) hand(ctx, inner context.Context, e *entry) bool {
	b := s.s.b
	if s.second && b.has(SecondSubscription) {
		s.acked(e, false)

		return true
	}
	b.mu.Lock()
	msg := b.handed(e)
	if b.has(AcksOnDelivery) {
		e.gone = true
	}
	doubled := !e.doubled && b.has(DoublesSome) && b.random.IntN(5) == 0
	e.doubled = true
	b.busy++ // it may be taken at any moment from now
	b.mu.Unlock()
	msg.SetContext(inner)
	if b.has(LeaksContext) {
		msg.SetContext(e.ctx)
	}

	closing := s.s.closing
	if b.has(CloseHangsUnread) {
		closing = nil
	}
	select {
	case s.out <- msg:
	case <-ctx.Done():
		return s.untaken(e)
	case <-closing:
		return s.untaken(e)
	case <-s.over:
		return s.untaken(e)
	case <-b.ended:
		return s.untaken(e)
	}
	s.hands.Go(func() { s.follow(ctx, inner, e, msg, doubled) })

	return true
}

func (s *subscription) untaken(e *entry) bool {
	s.s.b.mu.Lock()
	s.s.b.busy--
	s.s.b.mu.Unlock()
	s.release(e)

	return false
}

// follow waits for a delivery's end.
func (s *subscription) follow(ctx, inner context.Context, e *entry, msg *message.Message, doubled bool) {
	b := s.s.b
	deadline := b.config.AckDeadline
	if b.has(NoDeadline) {
		deadline = 0
	}
	if b.has(EarlyDeadline) {
		deadline = 60 * time.Millisecond
	}
	var late <-chan time.Time
	if deadline > 0 {
		timer := time.NewTimer(deadline)
		defer timer.Stop()
		late = timer.C
	}
	defer func() {
		b.mu.Lock()
		b.busy--
		b.wake()
		b.mu.Unlock()
	}()

	select {
	case <-msg.Acked():
		s.acked(e, doubled)

		return
	case <-msg.Nacked():
		s.nacked(e)

		return
	case <-late:
		if b.has(LateAckLosesNext) {
			b.running.Go(func() {
				select {
				case <-msg.Acked():
					s.dropUnread()
				case <-b.ended:
				}
			})
		}
	case <-inner.Done():
		select { // an ack that came with the end counts
		case <-msg.Acked():
			s.acked(e, doubled)

			return
		default:
		}
		if b.has(LateAckTakesNext) {
			s.dropUnread()
		}
		if b.has(LosesInHandOnClose) || b.has(LosesOnCancel) && ctx.Err() != nil {
			s.acked(e, false)

			return
		}
		s.lose(e)
	case <-b.ended:
	}
	s.release(e)
}
