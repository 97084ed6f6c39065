package fault

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// PublisherConfig says how often what goes wrong. Probabilities are per Publish
// call, from 0 (never, the default) to 1.
type PublisherConfig struct {
	// Seed chooses which calls. Log it: a failing seed replays.
	Seed uint64

	// FailBefore: the call fails, and nothing was sent.
	FailBefore float64
	// FailAfter: the call fails, and all was sent (the answer was lost).
	FailAfter float64
	// Partial: the call fails, and a part of its messages was sent, the first
	// ones. Calls with one message are left alone.
	Partial float64
	// Duplicate: all is sent twice, and the call succeeds.
	Duplicate float64
	// Reorder: the messages of the call are sent in another order.
	Reorder float64
	// MaxDelay is the longest wait before a call goes on. Default: none.
	MaxDelay time.Duration
}

func (c PublisherConfig) validate() error {
	return errors.Join(
		probability("FailBefore", c.FailBefore), probability("FailAfter", c.FailAfter), probability("Partial", c.Partial),
		probability("Duplicate", c.Duplicate), probability("Reorder", c.Reorder),
	)
}

// Publisher is a publisher with faults. It may be used concurrently.
type Publisher struct {
	log

	pub    message.Publisher
	config PublisherConfig
	calls  atomic.Int64
	closed chan struct{}
	once   sync.Once
}

// NewPublisher wraps a publisher.
func NewPublisher(pub message.Publisher, c PublisherConfig) (*Publisher, error) {
	if pub == nil {
		return nil, errors.New("fault: the publisher is nil")
	}
	if err := c.validate(); err != nil {
		return nil, err
	}

	return &Publisher{pub: pub, config: c, closed: make(chan struct{})}, nil
}

// Publish implements message.Publisher. Errors of faults match ErrInjected.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return p.send(topic)
	}
	call := p.calls.Add(1)
	source := fate(p.config.Seed, call)
	// Every decision is drawn each time, so that one fault's probability doesn't
	// change another's calls.
	before, after, partial := source.Float64(), source.Float64(), source.Float64()
	duplicate, reorder, cut := source.Float64(), source.Float64(), source.Float64()
	shuffled := source.Perm(len(messages))
	injected := func(what string) error {
		p.add(call, what, messages[0].UUID)

		return fmt.Errorf("publish call %d: %w: %s (seed %d)", call, ErrInjected, what, p.config.Seed)
	}

	wait(source, p.config.MaxDelay, p.closed)
	if before < p.config.FailBefore {
		return injected("FailBefore")
	}
	sent := slices.Clone(messages)
	if len(sent) > 1 && reorder < p.config.Reorder {
		_ = injected("Reorder")
		for i, from := range shuffled {
			sent[i] = messages[from]
		}
	}
	if len(sent) > 1 && partial < p.config.Partial {
		first := 1 + int(cut*float64(len(sent)-1))
		if err := p.send(topic, sent[:first]...); err != nil {
			return err
		}

		return injected("Partial")
	}
	if err := p.send(topic, sent...); err != nil {
		return err
	}
	if duplicate < p.config.Duplicate {
		_ = injected("Duplicate")
		if err := p.send(topic, sent...); err != nil {
			return err
		}
	}
	if after < p.config.FailAfter {
		return injected("FailAfter")
	}

	return nil
}

// Close closes the wrapped publisher.
func (p *Publisher) Close() error {
	p.once.Do(func() { close(p.closed) })

	if err := p.pub.Close(); err != nil {
		return fmt.Errorf("close the publisher behind the faults: %w", err)
	}

	return nil
}

// send passes messages on. The publisher's error is the caller's as it is.
func (p *Publisher) send(topic string, messages ...*message.Message) error {
	return p.pub.Publish(topic, messages...) //nolint:wrapcheck // as said
}
