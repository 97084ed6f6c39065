package kafka

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
)

// subscriber opens an upstream subscriber per subscription and stands between
// it and the handler: see delivery.go.
type subscriber struct {
	settings *settings
	topics   *topics
	group    string
	logger   watermill.LoggerAdapter

	life *delivery.Lifetime
}

var _ message.SubscribeInitializer = (*subscriber)(nil)

func newSubscriber(s *settings, t *topics, group string, logger watermill.LoggerAdapter) *subscriber {
	return &subscriber{settings: s, topics: t, group: group, logger: logger, life: delivery.NewLifetime()}
}

// SubscribeInitialize makes sure that the topic exists.
func (s *subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(s.life.Closing(), topicTimeout)
	defer cancel()

	return s.topics.ensure(ctx, topic)
}

// Subscribe creates the topic where it is missing and joins the group.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if err := s.topics.ensure(ctx, topic); err != nil {
		return nil, err
	}

	out := make(chan *message.Message)
	err := s.life.Begin(ctx, func(stop context.Context) (run func(), err error) {
		return s.prepare(ctx, stop, topic, out)
	})
	if err != nil {
		return nil, fmt.Errorf("kafka subscriber of group %q: %w", s.group, err)
	}

	return out, nil
}

func (s *subscriber) prepare(ctx, stop context.Context, topic string, out chan *message.Message) (run func(), err error) {
	track := &sessions{}
	upstream, err := watermillkafka.NewSubscriber(watermillkafka.SubscriberConfig{
		Brokers:               s.settings.brokers,
		ConsumerGroup:         s.group,
		Unmarshaler:           Marshaler{},
		OverwriteSaramaConfig: s.settings.consumerConfig(),
		ReconnectRetrySleep:   500 * time.Millisecond,
		Tracer:                track,
	}, s.logger)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	// Upstream drops what is in flight the moment its context ends; it ends
	// here only after the drain, through Close.
	in, err := upstream.Subscribe(context.WithoutCancel(ctx), topic)
	if err != nil {
		return nil, fmt.Errorf("topic %q: %w", topic, err)
	}

	sub := &subscription{
		settings: s.settings,
		topic:    topic,
		sessions: track,
		ctx:      ctx,
		stop:     stop,
		out:      out,
	}

	return func() { sub.run(in, upstream) }, nil
}

// Close stops handing out messages, waits for those in flight to be acked or
// nacked, for the drain time at most, commits, and leaves the group.
func (s *subscriber) Close() error {
	s.life.Close()

	return nil
}

// sessions watches upstream's group sessions, through the only opening that
// upstream has for it.
type sessions struct {
	mu      sync.Mutex
	current sarama.ConsumerGroupSession
}

var _ watermillkafka.SaramaTracer = (*sessions)(nil)

func (s *sessions) get() sarama.ConsumerGroupSession {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.current
}

func (s *sessions) WrapConsumerGroupHandler(h sarama.ConsumerGroupHandler) sarama.ConsumerGroupHandler {
	return sessionHandler{h, s}
}

func (*sessions) WrapConsumer(c sarama.Consumer) sarama.Consumer { return c }

func (*sessions) WrapPartitionConsumer(c sarama.PartitionConsumer) sarama.PartitionConsumer { return c }

func (*sessions) WrapSyncProducer(_ *sarama.Config, p sarama.SyncProducer) sarama.SyncProducer {
	return p
}

type sessionHandler struct {
	sarama.ConsumerGroupHandler

	sessions *sessions
}

// Setup runs before any message of the session is claimed and after the last of
// the session before has been settled, so there is never a doubt to which one a
// message belongs.
func (h sessionHandler) Setup(session sarama.ConsumerGroupSession) error {
	h.sessions.mu.Lock()
	h.sessions.current = session
	h.sessions.mu.Unlock()

	return h.ConsumerGroupHandler.Setup(session) //nolint:wrapcheck // passed through
}
