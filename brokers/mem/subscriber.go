package mem

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/delivery"
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

	group string
	life  *delivery.Lifetime
}

func newSubscriber(b *broker, group string) *subscriber {
	return &subscriber{broker: b, group: group, life: delivery.NewLifetime()}
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
	var sub *subscription
	err := s.life.Begin(ctx, func(stop context.Context) (run func(), err error) {
		if err := s.join(ctx, topic); err != nil {
			return nil, err
		}
		sub = newSubscription(ctx, stop, s, topic)

		return sub.run, nil
	})
	if err != nil {
		return nil, fmt.Errorf("mem: subscriber of group %q: %w", s.group, err)
	}

	return sub.out, nil
}

// Close stops handing out messages, waits up to the drain option for those in
// flight, and returns the rest to the queue.
func (s *subscriber) Close() error {
	s.life.Close()

	return nil
}
