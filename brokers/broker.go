package brokers

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/redact"
)

// Broker is an open broker. Its methods may be called concurrently.
type Broker struct {
	// Publisher sends messages; Publish is synchronous and may be called
	// concurrently. All messages of a call are checked before the first is
	// sent, so that one that can't be carried holds back nothing half-sent: such
	// a call fails with a *RefusedError. Its Close does nothing, because a
	// watermill router closes its handlers' publishers, shared or not, as soon
	// as one handler stops; Broker.Close closes it.
	Publisher message.Publisher

	// Subscriber receives for the group of the configuration. Without a group
	// its Subscribe fails with ErrNoGroup.
	Subscriber message.Subscriber

	// Capabilities says what this broker can do, as opened.
	Capabilities Capabilities

	name    string
	backend *Backend
	secrets *redact.Redactor

	mu          sync.Mutex
	subscribers []message.Subscriber
	closed      bool
	closeOnce   sync.Once
	closeErr    error
}

func newBroker(name string, backend *Backend, group string, secrets *redact.Redactor) (*Broker, error) {
	b := &Broker{
		Publisher:    &guardedPublisher{broker: name, backend: backend, secrets: secrets},
		Subscriber:   noGroup{name: name},
		Capabilities: backend.Capabilities,
		name:         name,
		backend:      backend,
		secrets:      secrets,
	}
	if group == "" {
		return b, nil
	}

	sub, err := b.SubscriberFor(group)
	if err != nil {
		return nil, errors.Join(secrets.Err(err), b.Close())
	}
	b.Subscriber = sub

	return b, nil
}

// Name returns the broker's address without user, password and options.
func (b *Broker) Name() string { return b.name }

// SubscriberFor returns a subscriber of a consumer group. Where the broker has
// groups (Capabilities.Groups), each hears every message, from the oldest that
// the broker still has; subscribers of one group share its messages. Every call
// gives a subscriber of its own, whose Close leaves the others alone.
func (b *Broker) SubscriberFor(group string) (message.Subscriber, error) {
	if group == "" {
		return nil, fmt.Errorf("brokers: %s: %w", b.name, ErrNoGroup)
	}

	b.mu.Lock()
	defer b.mu.Unlock()

	if b.closed {
		return nil, fmt.Errorf("brokers: %s: %w", b.name, ErrClosed)
	}

	sub, err := b.backend.Subscribe(group)
	if err != nil {
		return nil, fmt.Errorf("brokers: %s: subscriber of group %q: %w", b.name, group, err)
	}
	b.subscribers = append(b.subscribers, sub)

	return sub, nil
}

// Backlog counts the messages of a topic that a group has not acked: those that
// wait, and those in somebody's hands. A topic that doesn't exist has none. Errors
// match ErrNoBacklog where the broker can't tell.
func (b *Broker) Backlog(ctx context.Context, topic, group string) (int64, error) {
	if b.Capabilities.Backlog == nil {
		return 0, fmt.Errorf("brokers: backlog of topic %s on %s: %w", printable(topic), b.name, ErrNoBacklog)
	}
	n, err := b.Capabilities.Backlog(ctx, topic, group)
	if err != nil {
		return 0, fmt.Errorf("brokers: backlog of topic %s on %s: %w", printable(topic), b.name, b.secrets.Err(err))
	}

	return n, nil
}

// DeleteTopic removes a topic (a queue, a topic's tables) with its messages and
// what groups have read of it. One that doesn't exist is no error. It is for
// tests and for cleaning up: nothing asks whether anybody still needs a message.
//
// Close the topic's subscribers first, in every process: others may fail, or
// hear nothing of a topic that is made anew under the name. AWS gives a queue's
// name free a minute after its deletion, and Kafka deletes while it goes on.
//
// Errors match ErrClosed, ErrTopic for a name that no topic can have, and
// errors.ErrUnsupported where the opener brings no deletion.
func (b *Broker) DeleteTopic(ctx context.Context, topic string) error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	var err error
	switch {
	case closed:
		err = ErrClosed
	case topic == "":
		err = fmt.Errorf("%w: it is empty", ErrTopic)
	case b.backend.DeleteTopic == nil:
		err = errors.ErrUnsupported
	default:
		err = b.secrets.Err(b.backend.DeleteTopic(ctx, topic))
	}
	if err != nil {
		return fmt.Errorf("brokers: %s: delete topic %s: %w", b.name, printable(topic), err)
	}

	return nil
}

// Close closes every subscriber, then the publisher, then the connections. It
// returns when what was running has ended. Later calls return the same result.
func (b *Broker) Close() error {
	b.closeOnce.Do(func() {
		b.mu.Lock()
		b.closed = true
		subscribers := b.subscribers
		b.mu.Unlock()

		errs := make([]error, len(subscribers), len(subscribers)+2)
		var wg sync.WaitGroup
		for i, sub := range subscribers {
			wg.Go(func() { errs[i] = sub.Close() })
		}
		wg.Wait()

		errs = append(errs, b.backend.Publisher.Close())
		if b.backend.Close != nil {
			errs = append(errs, b.backend.Close())
		}
		if err := errors.Join(errs...); err != nil {
			b.closeErr = fmt.Errorf("brokers: close %s: %w", b.name, err)
		}
	})

	return b.closeErr
}

// noGroup stands where no group was configured. Guessing one would let two
// services take each other's messages.
type noGroup struct{ name string }

func (n noGroup) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return nil, fmt.Errorf("brokers: %s: %w", n.name, ErrNoGroup)
}

func (noGroup) Close() error { return nil }
