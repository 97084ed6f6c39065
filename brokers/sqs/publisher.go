package sqs

import (
	"context"
	"errors"
	"fmt"
	"sync"

	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/brokers"
)

// publisher adds to upstream's: queues that exist, and limits that are known
// before anything is sent.
type publisher struct {
	upstream *watermillsqs.Publisher
	queues   *queues

	mu     sync.RWMutex // held for reading while a Publish runs
	closed bool
}

func newPublisher(s *settings, c *client, q *queues, logger quietLogger) (*publisher, error) {
	upstream, err := watermillsqs.NewPublisher(watermillsqs.PublisherConfig{
		AWSConfig:                   c.config,
		OptFns:                      []func(*sqs.Options){within(c.transport, requestTimeout)},
		DoNotCreateQueueIfNotExists: true, // queues.ensure does
		QueueUrlResolver:            q,
		GenerateSendMessageInput:    sendInput,
		Marshaler:                   marshaler{fifo: s.fifo},
	}, logger)
	if err != nil {
		return nil, fmt.Errorf("sqs publisher: %w", err)
	}

	return &publisher{upstream: upstream, queues: q}, nil
}

// Publish returns when SQS has the messages, or at the first that fails; those
// after it were not sent.
func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	p.mu.RLock()
	defer p.mu.RUnlock()

	if p.closed {
		return fmt.Errorf("sqs publisher: %w", brokers.ErrClosed)
	}
	ctx, cancel := context.WithTimeout(context.Background(), queueTimeout)
	defer cancel()
	found, err := p.queues.ensure(ctx, topic)
	if err != nil {
		return err
	}
	if found.maxMessage < p.queues.settings.maxMessage {
		for i, msg := range messages {
			if err := checkSize(msg, found.maxMessage); err != nil {
				return &brokers.RefusedError{Broker: "queue " + found.name, Topic: topic, UUID: msg.UUID, Index: i, Err: err}
			}
		}
	}
	for _, msg := range messages {
		if err := p.send(topic, msg); err != nil {
			return err
		}
	}

	return nil
}

// send makes the queue again when it was deleted behind our back. Upstream would
// make it too, and then lose the message with an error.
func (p *publisher) send(topic string, msg *message.Message) error {
	err := p.upstream.Publish(topic, msg)
	var missing *types.QueueDoesNotExist
	if errors.As(err, &missing) {
		p.queues.forget(topic)
		err = p.upstream.Publish(topic, msg)
	}
	if err != nil {
		return fmt.Errorf("sqs publisher: %w", err)
	}

	return nil
}

// Close waits for the calls of Publish under way.
func (p *publisher) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.closed = true

	return p.upstream.Close() //nolint:wrapcheck // always nil
}
