package sqs

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
)

// subscriber opens an upstream subscriber per subscription and stands between
// it and the handler: see delivery.go.
type subscriber struct {
	settings *settings
	client   *client
	queues   *queues
	group    string
	logger   watermill.LoggerAdapter

	life *delivery.Lifetime
}

var _ message.SubscribeInitializer = (*subscriber)(nil)

func newSubscriber(s *settings, c *client, q *queues, group string, logger watermill.LoggerAdapter) *subscriber {
	return &subscriber{settings: s, client: c, queues: q, group: group, logger: logger, life: delivery.NewLifetime()}
}

// SubscribeInitialize makes sure that the queue exists.
func (s *subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(s.life.Closing(), queueTimeout)
	defer cancel()
	_, err := s.queues.ensure(ctx, topic)

	return err
}

// Subscribe creates the queue where it is missing, claims it for the group, and
// starts the receivers.
func (s *subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	found, err := s.queues.ensure(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := s.queues.readable(found); err != nil {
		return nil, err
	}
	if err := s.queues.claim(ctx, found, s.group); err != nil {
		return nil, err
	}

	out := make(chan *message.Message)
	err = s.life.Begin(ctx, func(stop context.Context) (run func(), err error) {
		return s.prepare(ctx, topic, &subscription{
			settings: s.settings,
			client:   s.client,
			queue:    found,
			logger:   s.logger.With(watermill.LogFields{"queue": found.name, "group": s.group}),
			ctx:      ctx,
			stop:     stop,
			out:      out,
		})
	})
	if err != nil {
		return nil, fmt.Errorf("sqs subscriber of group %q: %w", s.group, err)
	}

	return out, nil
}

func (s *subscriber) prepare(ctx context.Context, topic string, sub *subscription) (run func(), err error) {
	polling := &polls{}
	upstream, err := watermillsqs.NewSubscriber(watermillsqs.SubscriberConfig{
		AWSConfig:                   s.client.config,
		OptFns:                      []func(*sqs.Options){polling.watch},
		DoNotCreateQueueIfNotExists: true,
		QueueUrlResolver:            s.queues,
		ReconnectRetrySleep:         time.Second,
		GenerateReceiveMessageInput: s.receiveInput,
		Unmarshaler:                 marshaler{},
	}, s.logger)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	upstreamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	end := func() {
		polling.stop(s.settings.wait)
		cancel()
		_ = upstream.Close() // its error is always nil
	}
	receivers := make([]<-chan *message.Message, s.settings.receivers)
	for i := range receivers {
		if receivers[i], err = upstream.Subscribe(upstreamCtx, topic); err != nil {
			end()

			return nil, fmt.Errorf("receive: %w", err)
		}
	}

	return func() { sub.run(receivers, end) }, nil
}

// receiveInput asks for one message: upstream works them off one by one while
// the visibility of the others runs out, and forgets the rest after a nack.
func (s *subscriber) receiveInput(_ context.Context, url watermillsqs.QueueURL) (*sqs.ReceiveMessageInput, error) {
	return &sqs.ReceiveMessageInput{
		QueueUrl:                    aws.String(string(url)),
		MaxNumberOfMessages:         1,
		MessageAttributeNames:       []string{"All"},
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		VisibilityTimeout:           inSeconds(s.settings.visibility),
		WaitTimeSeconds:             inSeconds(s.settings.wait),
	}, nil
}

// Close stops handing out messages, waits for those in flight to be acked or
// nacked, for the drain time at most, and gives back what nobody has taken.
func (s *subscriber) Close() error {
	s.life.Close()

	return nil
}
