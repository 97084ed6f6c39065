package brokers_test

import (
	"context"
	"net/http"
	"net/url"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv"
)

// ownPublisher is the publisher of a broker that was opened for it alone.
type ownPublisher struct {
	message.Publisher

	broker *brokers.Broker
}

func (p ownPublisher) Close() error { return p.broker.Close() }

// withKafka adds what only Kafka's own client can do, and opens each publisher as
// another process would: one that knows a topic's partitions doesn't look again
// for minutes.
func withKafka(t *testing.T, rawURL string, h *conformance.Harness) {
	t.Helper()

	h.Publisher = func(ctx context.Context) (message.Publisher, error) {
		b, err := brokers.Open(ctx, rawURL, brokers.Config{Openers: all.Openers()})
		if err != nil {
			return nil, err
		}

		return ownPublisher{b.Publisher, b}, nil
	}
	withKafkaClient(t, h)
}

// withKafkaClient adds a foreign producer, the growth of topics and, where
// nothing else does, their removal.
func withKafkaClient(t *testing.T, h *conformance.Harness) {
	t.Helper()

	address, err := url.Parse(testenv.Kafka(t))
	require.NoError(t, err)
	hosts := []string{address.Host}
	config := sarama.NewConfig()
	config.Producer.Return.Successes = true
	// A topic that a subscription has just made by asking for it takes a while.
	config.Producer.Retry.Max, config.Metadata.Retry.Max = 30, 30

	h.Foreign = func(_ context.Context, topic string, payload []byte) error {
		producer, err := sarama.NewSyncProducer(hosts, config)
		if err != nil {
			return err
		}
		_, _, err = producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(payload)})

		return firstError(err, producer.Close())
	}
	h.Grow = func(_ context.Context, topic string) error {
		admin, err := sarama.NewClusterAdmin(hosts, config)
		if err != nil {
			return err
		}

		return firstError(admin.CreatePartitions(topic, 24, nil, false), admin.Close())
	}
	if h.DeleteTopic != nil {
		return
	}
	h.DeleteTopic = func(_ context.Context, topic string) error {
		admin, err := sarama.NewClusterAdmin(hosts, config)
		if err != nil {
			return err
		}

		return firstError(admin.DeleteTopic(topic), admin.Close())
	}
}

// withSQS adds what only the SDK can do.
func withSQS(t *testing.T, fifo bool, h *conformance.Harness) {
	t.Helper()

	withSQSClient(awssqs.New(sqsClient(t)), fifo, h)
	foreign := h.Foreign
	h.Foreign = func(ctx context.Context, topic string, payload []byte) error {
		if fifo {
			topic += ".fifo"
		}

		return foreign(ctx, topic, payload)
	}
}

// sqsClient returns how to reach the service with the SDK.
func sqsClient(t *testing.T) awssqs.Options {
	t.Helper()

	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	options, err := sqsOptions(testenv.SQS(t))
	require.NoError(t, err)
	options.HTTPClient = &http.Client{Transport: transport}

	return options
}

// sqsOptions reads how to reach the service from its URL.
func sqsOptions(rawURL string) (awssqs.Options, error) {
	address, err := url.Parse(rawURL)
	if err != nil {
		return awssqs.Options{}, err
	}
	query := address.Query()

	return awssqs.Options{
		BaseEndpoint: aws.String("http://" + address.Host),
		Region:       query.Get("region"),
		Credentials:  credentials.NewStaticCredentialsProvider(query.Get("access_key"), query.Get("secret_key"), ""),
	}, nil
}

// withSQSClient adds a foreign producer and, where nothing else does, the removal
// of queues.
func withSQSClient(client *awssqs.Client, fifo bool, h *conformance.Harness) {
	if h.DeleteTopic == nil {
		h.DeleteTopic = func(ctx context.Context, topic string) error {
			queue, err := client.GetQueueUrl(ctx, &awssqs.GetQueueUrlInput{QueueName: aws.String(topic)})
			if err != nil {
				return err
			}
			_, err = client.DeleteQueue(ctx, &awssqs.DeleteQueueInput{QueueUrl: queue.QueueUrl})

			return err
		}
	}
	h.Foreign = func(ctx context.Context, topic string, payload []byte) error {
		queue, err := client.GetQueueUrl(ctx, &awssqs.GetQueueUrlInput{QueueName: aws.String(topic)})
		if err != nil {
			return err
		}
		in := &awssqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: aws.String(string(payload))}
		if fifo {
			in.MessageGroupId, in.MessageDeduplicationId = aws.String("foreign"), aws.String(watermill.NewUUID())
		}
		_, err = client.SendMessage(ctx, in)

		return err
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}

	return nil
}
