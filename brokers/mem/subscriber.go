package mem

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// broker is what publisher and subscribers share.
type broker struct {
	settings

	queue   queue
	signals *signals
	logger  watermill.LoggerAdapter
}

type publisher struct{ *broker }

// Publish adds all messages or none. Of the messages' contexts only the first's
// cancellation counts; none reaches a consumer.
func (p publisher) Publish(topic string, messages ...*message.Message) error {
	msgs := make([]stored, len(messages))
	for i, msg := range messages {
		msgs[i] = storedFrom(msg)
	}
	if err := p.queue.publish(messages[0].Context(), topic, msgs); err != nil {
		return err
	}
	p.signals.wake(topic)

	return nil
}

func (publisher) Close() error { return nil }

// subscriber belongs to one group. It may subscribe to several topics, and to
// one topic several times: those share its messages.
type subscriber struct {
	*broker

	group   string
	closing chan struct{}
	running sync.WaitGroup

	mu     sync.Mutex // running.Go against closing
	closed bool
}

func newSubscriber(b *broker, group string) *subscriber {
	return &subscriber{broker: b, group: group, closing: make(chan struct{})}
}

// SubscribeInitialize makes the group known, so that it hears what is published
// from now on even if retention drops it before the group subscribes.
func (s *subscriber) SubscribeInitialize(topic string) error {
	return s.join(context.Background(), topic)
}

func (s *subscriber) join(ctx context.Context, topic string) error {
	if topic == "" {
		return fmt.Errorf("%w: it is empty", brokers.ErrTopic)
	}
	if err := s.queue.join(ctx, topic, s.group); err != nil {
		return fmt.Errorf("mem: subscribe group %q to topic %q: %w", s.group, topic, err)
	}

	return nil
}

// Subscribe hears a topic until the context ends or the subscriber is closed.
// The end of the context cancels the messages in flight at once; both wait up to
// the drain option for their acks.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()

	if s.closed {
		return nil, fmt.Errorf("mem: subscriber of group %q: %w", s.group, brokers.ErrClosed)
	}
	if err := s.join(ctx, topic); err != nil {
		return nil, err
	}

	sub := newSubscription(s, topic)
	s.running.Go(func() { sub.run(ctx) })

	return sub.out, nil
}

// Close stops handing out messages, waits up to the drain option for those in
// flight, and returns the rest to the queue.
func (s *subscriber) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.running.Wait()

	return nil
}
