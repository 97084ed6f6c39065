package fault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// SubscriberConfig says how often what goes wrong. Probabilities are per
// delivery, from 0 (never, the default) to 1.
type SubscriberConfig struct {
	// Seed chooses which deliveries. Log it: a failing seed replays.
	Seed uint64

	// DropAck: the handler's ack is lost, and the broker hears a nack instead, so
	// that the message comes again.
	DropAck float64
	// Duplicate: after its ack the message is delivered once more, before the
	// broker hears of the ack.
	Duplicate float64
	// Reorder: the message waits until the next one was handed out, or for
	// MaxHold where none comes. Only brokers with several messages in flight give
	// a next one.
	Reorder float64
	// MaxHold is the longest wait of a reordered message. Default 100 ms.
	MaxHold time.Duration
	// MaxDelay is the longest wait before a delivery. Default: none.
	MaxDelay time.Duration
}

// Subscriber is a subscriber with faults. It may be used concurrently.
type Subscriber struct {
	log

	sub     message.Subscriber
	config  SubscriberConfig
	closing chan struct{}
	once    sync.Once
}

// NewSubscriber wraps a subscriber.
func NewSubscriber(sub message.Subscriber, c SubscriberConfig) (*Subscriber, error) {
	if sub == nil {
		return nil, errors.New("fault: the subscriber is nil")
	}
	if err := errors.Join(
		probability("DropAck", c.DropAck), probability("Duplicate", c.Duplicate), probability("Reorder", c.Reorder),
	); err != nil {
		return nil, err
	}
	if c.MaxHold <= 0 {
		c.MaxHold = 100 * time.Millisecond
	}

	return &Subscriber{sub: sub, config: c, closing: make(chan struct{})}, nil
}

// Subscribe implements message.Subscriber. Messages of a subscription are
// numbered as they come.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := s.sub.Subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("subscribe behind faults: %w", err)
	}
	d := &deliveries{s: s, out: make(chan *message.Message), over: make(chan struct{}), handed: make(chan struct{})}
	go d.run(ctx, in)

	return d.out, nil
}

// Close closes the wrapped subscriber. What nobody has taken goes back first.
func (s *Subscriber) Close() error {
	s.once.Do(func() { close(s.closing) })

	if err := s.sub.Close(); err != nil {
		return fmt.Errorf("close the subscriber behind the faults: %w", err)
	}

	return nil
}

// deliveries is one subscription.
type deliveries struct {
	s    *Subscriber
	out  chan *message.Message
	over chan struct{} // closed when no more messages come

	mu     sync.Mutex
	handed chan struct{} // closed and replaced whenever a message was handed out
}

func (d *deliveries) run(ctx context.Context, in <-chan *message.Message) {
	var running sync.WaitGroup
	call := int64(0)
	for msg := range in {
		if msg == nil {
			break // of an adapter that reads on from a closed channel, perhaps for ever
		}
		call++
		number, before := call, d.next()
		held := fate(d.s.config.Seed, number).Float64() < d.s.config.Reorder
		follow := func() { d.deliver(ctx, number, msg, before, held) }
		running.Go(follow)
		if held {
			continue
		}
		// The order stays as it is but for those that are held: the next one waits
		// until this one is out.
		select {
		case <-before:
		case <-msg.Context().Done():
		case <-msg.Nacked():
		}
	}
	close(d.over)
	running.Wait()
	close(d.out)
}

// next is closed when the next message is handed out.
func (d *deliveries) next() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()

	return d.handed
}

func (d *deliveries) deliver(
	ctx context.Context, number int64, msg *message.Message, next <-chan struct{}, held bool,
) {
	c := d.s.config
	source := fate(c.Seed, number)
	_ = source.Float64() // Reorder's
	drop, duplicate := source.Float64() < c.DropAck, source.Float64() < c.Duplicate
	if held {
		d.s.add(number, "Reorder", msg.UUID)
		timer := time.NewTimer(c.MaxHold)
		select {
		case <-next:
		case <-timer.C:
		case <-d.over:
		case <-msg.Context().Done():
		}
		timer.Stop()
	}
	wait(source, c.MaxDelay, msg.Context().Done())
	if !d.hand(ctx, msg) {
		msg.Nack()

		return
	}
	if duplicate {
		d.s.add(number, "Duplicate", msg.UUID)
		d.hand(ctx, msg) // its own verdict is nobody's business: the message was acked
	}
	if drop {
		d.s.add(number, "DropAck", msg.UUID)
		msg.Nack()

		return
	}
	msg.Ack()
}

// hand gives out a copy, and returns whether it was acked.
func (d *deliveries) hand(ctx context.Context, msg *message.Message) bool {
	handed := msg.Copy()
	handed.Payload = append(message.Payload(nil), msg.Payload...)
	if msg.Payload != nil && handed.Payload == nil {
		handed.Payload = message.Payload{}
	}
	handed.SetContext(msg.Context())
	select {
	case d.out <- handed:
	case <-msg.Context().Done():
		return false
	case <-ctx.Done():
		return false
	case <-d.s.closing:
		return false
	}
	d.mu.Lock()
	close(d.handed)
	d.handed = make(chan struct{})
	d.mu.Unlock()
	select {
	case <-handed.Acked():
		return true
	case <-handed.Nacked():
	case <-msg.Context().Done():
		select { // an ack that came with the end counts
		case <-handed.Acked():
			return true
		default:
		}
	}

	return false
}
