package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// topicTimeout bounds the creation of a topic on behalf of a Publish, which has
// no context.
const topicTimeout = 30 * time.Second

// electionTime is how long a Publish waits for a partition to have a leader.
const electionTime = 10 * time.Second

// publisher adds to upstream's: topics that exist, and a Close that may be
// called while others publish (sarama panics on that).
type publisher struct {
	upstream *watermillkafka.Publisher
	topics   *topics

	closing   chan struct{}
	closeOnce sync.Once
	mu        sync.RWMutex // held for reading while a Publish runs
	closed    bool
}

func newPublisher(s *settings, t *topics, logger watermill.LoggerAdapter) (*publisher, error) {
	upstream, err := watermillkafka.NewPublisher(watermillkafka.PublisherConfig{
		Brokers:               s.brokers,
		Marshaler:             Marshaler{},
		OverwriteSaramaConfig: s.producerConfig(),
	}, logger)
	if err != nil {
		return nil, fmt.Errorf("kafka publisher: %w", err)
	}

	return &publisher{upstream: upstream, topics: t, closing: make(chan struct{})}, nil
}

// Publish returns when all in-sync replicas have the messages, or at the first
// that fails; those after it were not sent.
func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	p.mu.RLock()
	defer p.mu.RUnlock()

	if p.closed {
		return fmt.Errorf("kafka publisher: %w", brokers.ErrClosed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), topicTimeout)
	defer cancel()
	if err := p.topics.ensure(ctx, topic); err != nil {
		return err
	}

	for _, msg := range messages {
		if err := p.send(topic, msg); err != nil {
			return err
		}
	}

	return nil
}

// send tries again while partitions change their leaders. Sarama retries too,
// but an idempotent producer without any pause, so that a leader's election
// outlasts all of its retries.
func (p *publisher) send(topic string, msg *message.Message) error {
	deadline := time.Now().Add(electionTime)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := p.upstream.Publish(topic, msg)
		if err == nil {
			return nil
		}
		if !passing(err) || time.Now().Add(wait).After(deadline) {
			return fmt.Errorf("kafka publisher: %w", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.closing:
			timer.Stop()

			return fmt.Errorf("kafka publisher: %w, after %w", brokers.ErrClosed, err)
		}
	}
}

// passing reports whether an error belongs to an election or a restart.
func passing(err error) bool {
	for _, kind := range []sarama.KError{
		sarama.ErrNotLeaderForPartition, sarama.ErrLeaderNotAvailable, sarama.ErrUnknownTopicOrPartition,
		sarama.ErrNotEnoughReplicas, sarama.ErrNotEnoughReplicasAfterAppend, sarama.ErrBrokerNotAvailable,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}

	return false
}

// Close waits for the calls of Publish under way.
func (p *publisher) Close() error {
	p.closeOnce.Do(func() { close(p.closing) })
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.closed {
		return nil
	}
	p.closed = true

	if err := p.upstream.Close(); err != nil {
		return fmt.Errorf("kafka publisher: %w", err)
	}

	return nil
}
