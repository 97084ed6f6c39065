package brokers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// Defaults of a HandoverConfig.
const (
	DefaultHandoverQuiet = time.Minute
	DefaultHandoverPoll  = time.Second
)

// ErrNoBacklog says that a broker can't tell what a group has not acked, so that
// nobody knows when it is drained.
var ErrNoBacklog = errors.New("the broker can't count a backlog (Capabilities.Backlog)")

// ErrHeld is what Held answers.
var ErrHeld = errors.New("sending is held back by configuration")

// HandoverConfig says how a handover goes.
type HandoverConfig struct {
	// Group that reads on both sides. Required.
	Group string

	// Quiet is how long the old side's backlog must have been 0 before it counts as
	// drained. Default 1 minute, because the numbers of AWS SQS are as late as that;
	// where they are exact (all other brokers) seconds are enough.
	Quiet time.Duration

	// Poll is how often the backlog is asked for. Default 1 s, at most Quiet.
	Poll time.Duration

	// Logger is told what each side is doing. Default: nothing is logged.
	Logger watermill.LoggerAdapter
}

// NewHandover returns a subscriber for a service that moves from one broker to
// another: it reads a topic from the old one until that is drained, and only
// then from the new one as well, so that no message overtakes an older one of
// its key. docs/swap.md has the other steps. Its two promises need them:
//
//   - Nothing is lost: the old side is read until Close, also after it was
//     drained. What still comes there is handled, only its order isn't kept.
//   - The order per key is kept, where both sides keep it, if nothing is sent to
//     the old side any more when the handover begins.
//
// Drained is the group's whole backlog, messages in other processes' hands
// included, so all processes of a group may hand over side by side, and begin
// again after a crash. A backlog that can't be read counts as not drained, and is
// logged. The brokers stay the caller's, to be closed after the subscriber.
//
// Errors match ErrNoGroup, ErrClosed, ErrBadOption, or ErrNoBacklog.
func NewHandover(from, to *Broker, cfg HandoverConfig) (message.Subscriber, error) {
	switch {
	case from.Capabilities.Backlog == nil:
		return nil, fmt.Errorf("brokers: hand over from %s: %w", from.Name(), ErrNoBacklog)
	case cfg.Quiet < 0 || cfg.Poll < 0:
		return nil, fmt.Errorf("brokers: hand over from %s: %w: Quiet and Poll must not be negative; 0 is the default",
			from.Name(), ErrBadOption)
	}
	if cfg.Quiet == 0 {
		cfg.Quiet = DefaultHandoverQuiet
	}
	if cfg.Poll == 0 {
		cfg.Poll = min(DefaultHandoverPoll, cfg.Quiet)
	}
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	before, err := from.SubscriberFor(cfg.Group)
	if err != nil {
		return nil, err
	}
	after, err := to.SubscriberFor(cfg.Group)
	if err != nil {
		return nil, errors.Join(err, before.Close())
	}
	cfg.Logger = cfg.Logger.With(watermill.LogFields{"from": from.Name(), "to": to.Name(), "group": cfg.Group})
	h := &handover{HandoverConfig: cfg, before: before, after: after, backlog: from.Backlog}
	h.closing, h.close = context.WithCancel(context.Background())

	return h, nil
}

type handover struct {
	HandoverConfig

	before, after message.Subscriber
	backlog       func(ctx context.Context, topic, group string) (int64, error)

	closing context.Context //nolint:containedctx // done when Close has been called
	close   context.CancelFunc
	mu      sync.Mutex // orders Subscribe before or after Close
	running sync.WaitGroup
}

var _ message.SubscribeInitializer = (*handover)(nil)

// SubscribeInitialize prepares the topic on both sides.
func (h *handover) SubscribeInitialize(topic string) error {
	for _, sub := range []message.Subscriber{h.before, h.after} {
		if sub, ok := sub.(message.SubscribeInitializer); ok {
			if err := sub.SubscribeInitialize(topic); err != nil {
				return fmt.Errorf("brokers: hand over topic %s: %w", printable(topic), err)
			}
		}
	}

	return nil
}

func (h *handover) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	// The new side keeps for the group what is sent from now on, and what is wrong
	// with it is said now.
	if err := h.SubscribeInitialize(topic); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing.Err() != nil {
		return nil, fmt.Errorf("brokers: hand over topic %s: %w", printable(topic), ErrClosed)
	}
	old, err := h.before.Subscribe(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("brokers: hand over topic %s: the old side: %w", printable(topic), err)
	}
	out := make(chan *message.Message)
	h.running.Go(func() {
		defer close(out)
		h.run(ctx, topic, old, out)
	})

	return out, nil
}

func (h *handover) run(ctx context.Context, topic string, old <-chan *message.Message, out chan<- *message.Message) {
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.closing, cancel)() //nolint:contextcheck // Close ends it too
	fields := watermill.LogFields{"topic": topic}

	var sides sync.WaitGroup
	defer sides.Wait()
	sides.Go(func() { pass(stop, old, out) })
	h.Logger.Info("Reading the old side until it is drained", fields)
	ticker := time.NewTicker(h.Poll)
	defer ticker.Stop()
	if !h.drained(stop, ticker, topic, fields) {
		return
	}
	for {
		fresh, err := h.after.Subscribe(ctx, topic)
		if err == nil {
			h.Logger.Info("The old side is drained: reading the new one", fields)
			sides.Go(func() { pass(stop, fresh, out) })

			return
		}
		h.Logger.Error("Subscribing on the new side failed, trying again", err, fields)
		select {
		case <-stop.Done():
			return
		case <-ticker.C:
		}
	}
}

// drained waits until the backlog was 0 for long enough, or returns false when it
// is to stop.
func (h *handover) drained(stop context.Context, ticker *time.Ticker, topic string, fields watermill.LogFields) bool {
	var since time.Time // when it was first seen to be 0
	for {
		left, err := h.backlog(stop, topic, h.Group)
		switch {
		case stop.Err() != nil:
			return false
		case err != nil:
			h.Logger.Error("The old side's backlog can't be read, trying again", err, fields)
			since = time.Time{}
		case left > 0:
			h.Logger.Debug("The old side isn't drained", fields.Add(watermill.LogFields{"left": left}))
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= h.Quiet:
			return true
		}
		select {
		case <-stop.Done():
			return false
		case <-ticker.C:
		}
	}
}

// pass hands on what comes in, until that ends. What nobody takes any more goes
// back to its broker.
func pass(stop context.Context, in <-chan *message.Message, out chan<- *message.Message) {
	for msg := range in {
		select {
		case out <- msg:
		case <-stop.Done():
			msg.Nack()
		}
	}
}

// Close closes both sides, which wait for messages in hand as their brokers do.
func (h *handover) Close() error {
	h.mu.Lock()
	h.close()
	h.mu.Unlock()
	err := errors.Join(h.before.Close(), h.after.Close())
	h.running.Wait()
	if err != nil {
		return fmt.Errorf("brokers: close a handover: %w", err)
	}

	return nil
}

// Held is a publisher that refuses everything with ErrHeld. In the place of a
// service's real publisher it keeps what is sent in the outbox: the step between
// two brokers in which no process sends to the old one any more, and none to the
// new one yet (docs/swap.md).
type Held struct{}

// Publish returns ErrHeld.
func (Held) Publish(string, ...*message.Message) error { return ErrHeld }

// Close does nothing.
func (Held) Close() error { return nil }
