package brokers_test

import (
	"context"
	"database/sql"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

// TestConformanceRaw tries all facts on Watermill's own adapters, configured as
// its documentation shows, with nothing of Headrace in between:
//
//	go test ./brokers_test -run 'TestConformanceRaw/kafka//order'
func TestConformanceRaw(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("says nothing about Headrace")
	}
	all := rawCases()
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = c.name
	}
	sideBySide(t, names, func(t *testing.T, i int) {
		t.Helper()
		h := raw(t, all[i])
		usual := h.Capabilities
		if usual.AckDeadline > 0 {
			usual.AckDeadline = rawUsually
		}
		if strings.HasPrefix(h.Name, "sqs") {
			usual.Takeover = rawUsually
		}
		tryColumn(t, titleRaw, h, conformance.Column{Default: &usual})
	})
	writeMatrix(t)
}

// rawCase is an adapter of Watermill's.
type rawCase struct {
	name    string
	harness func(t *testing.T) conformance.Harness
	// inProcess opens a subscriber in a process that knows the service's URL.
	// Without it, there are no processes.
	inProcess func(rawURL, group string) (message.Subscriber, error)
	known     map[string]string
	// sometimes are those that it breaks in some runs.
	sometimes map[string]string
}

func raw(t *testing.T, c rawCase) conformance.Harness {
	t.Helper()

	h := c.harness(t)
	h.Name, h.Known, h.Sometimes = c.name, c.known, c.sometimes
	h.Bare = true

	return h
}

func rawCases() []rawCase {
	return []rawCase{
		{name: "mem", harness: rawGoChannel, known: knownOfRawGoChannel},
		{
			name: "postgres", harness: rawPostgres, inProcess: postgresInProcess,
			known: knownOfRawPostgres, sometimes: sometimesOfRawOrdered,
		},
		{
			name: "mariadb", harness: rawMariaDB, inProcess: mariaDBInProcess,
			known: knownOfRawMariaDB, sometimes: sometimesOfRawMariaDB,
		},
		{
			name: "kafka", harness: rawKafka, inProcess: kafkaInProcess,
			known: knownOfRawKafka, sometimes: sometimesOfRaw,
		},
		{
			name: "sqs", harness: rawSQS(false), inProcess: sqsInProcess(false),
			known: knownOfRawSQS, sometimes: sometimesOfRaw,
		},
		{
			name: "sqs-fifo", harness: rawSQS(true), inProcess: sqsInProcess(true),
			known: knownOfRawSQSFIFO, sometimes: sometimesOfRawOrdered,
		},
	}
}

// kept is a publisher that others use too.
type kept struct{ message.Publisher }

func (kept) Close() error { return nil }

func rawGoChannel(t *testing.T) conformance.Harness {
	t.Helper()

	pubSub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, pubSub.Close()) })

	return conformance.Harness{
		Capabilities: brokers.Capabilities{Lanes: true, NilPayload: true},
		Publisher:    func(context.Context) (message.Publisher, error) { return kept{pubSub}, nil },
		Subscriber:   func(context.Context, string) (message.Subscriber, error) { return conformance.View(pubSub), nil },
		Patience:     3 * time.Second,
		Quiet:        300 * time.Millisecond,
	}
}

// rawKafka begins with a topic's oldest message, as Watermill's guide does: by
// default, what was published before a subscription has found its partitions is
// lost.
func rawKafka(t *testing.T) conformance.Harness {
	t.Helper()

	rawURL := testenv.Kafka(t)
	address, err := url.Parse(rawURL)
	require.NoError(t, err)
	h := conformance.Harness{
		// A consumer that is silent for 10 seconds, by default, loses its partitions.
		Capabilities: brokers.Capabilities{Groups: true, Durable: true, NilPayload: true, Takeover: 10 * time.Second},
		Publisher: func(context.Context) (message.Publisher, error) {
			return wkafka.NewPublisher(wkafka.PublisherConfig{
				Brokers: []string{address.Host}, Marshaler: wkafka.DefaultMarshaler{},
			}, watermill.NopLogger{})
		},
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
			return kafkaInProcess(rawURL, group)
		},
	}
	// A group with subscriptions to two topics is rebalanced until all have found each
	// other: on a machine at a load of 32 for longer than half a minute.
	h.Patience = 90 * time.Second
	withRawProcesses("kafka", rawURL, &h)
	withKafkaClient(t, &h)

	return h
}

// rawSQS has queues that show a message again sooner than after Amazon's 30
// seconds. FIFO queues need a group and an id for each message, which only the
// hook for that can give.
func rawSQS(fifo bool) func(t *testing.T) conformance.Harness {
	return func(t *testing.T) conformance.Harness {
		t.Helper()

		client := sqsClient(t)
		config := rawSQSConfig(client)
		pub := wsqs.PublisherConfig{AWSConfig: config.AWSConfig, OptFns: config.OptFns, CreateQueueConfig: rawSQSQueue(fifo)}
		if fifo {
			pub.GenerateSendMessageInput = withGroup
		}
		config.QueueConfigAttributes = pub.CreateQueueConfig
		h := conformance.Harness{
			Capabilities: brokers.Capabilities{
				Durable: true, KeyOrder: fifo, AckDeadline: rawVisibility, Takeover: rawVisibility,
			},
			Publisher: func(context.Context) (message.Publisher, error) {
				return wsqs.NewPublisher(pub, watermill.NopLogger{})
			},
			Subscriber: func(context.Context, string) (message.Subscriber, error) {
				return wsqs.NewSubscriber(config, watermill.NopLogger{})
			},
			Topic: func(context.Context) (string, error) {
				if fifo {
					return testenv.Topic(t, "raw") + ".fifo", nil
				}

				return testenv.Topic(t, "raw"), nil
			},
			Parallel: 4,
		}
		withSQSClient(awssqs.New(client), fifo, &h)
		name := "sqs"
		if fifo {
			name = "sqs-fifo"
		}
		withRawProcesses(name, testenv.SQS(t), &h)

		return h
	}
}

// withGroup sends a message as one of its key's group.
func withGroup(ctx context.Context, queue wsqs.QueueURL, msg *types.Message) (*awssqs.SendMessageInput, error) {
	in, err := wsqs.GenerateSendMessageInputDefault(ctx, queue, msg)
	if err != nil {
		return nil, err
	}
	in.MessageGroupId, in.MessageDeduplicationId = aws.String("none"), aws.String(watermill.NewUUID())
	if key, ok := msg.MessageAttributes[msgmeta.Key]; ok {
		in.MessageGroupId = key.StringValue
	}

	return in, nil
}

func rawPostgres(t *testing.T) conformance.Harness {
	t.Helper()

	rawURL := testenv.Postgres(t)
	h := rawSQL(testenv.Open(t, rawURL), wsql.DefaultPostgreSQLSchema{}, wsql.DefaultPostgreSQLOffsetsAdapter{})
	// It delivers nothing that is younger than the oldest open transaction of the
	// whole server: that of a handler of another fact, or another test.
	h.Patience = 90 * time.Second
	withRawProcesses("postgres", rawURL, &h)

	return h
}

func rawMariaDB(t *testing.T) conformance.Harness {
	t.Helper()

	rawURL := testenv.MariaDB(t)
	h := rawSQL(testenv.Open(t, rawURL), wsql.DefaultMySQLSchema{}, wsql.DefaultMySQLOffsetsAdapter{})
	withRawProcesses("mariadb", rawURL, &h)

	return h
}

func rawSQL(db *sql.DB, schema wsql.SchemaAdapter, offsets wsql.OffsetsAdapter) conformance.Harness {
	return conformance.Harness{
		Capabilities: brokers.Capabilities{
			Groups: true, KeyOrder: true, TotalOrder: true, Durable: true, AckDeadline: rawAckDeadline,
		},
		Publisher: func(context.Context) (message.Publisher, error) {
			return wsql.NewPublisher(wsql.BeginnerFromStdSQL(db), wsql.PublisherConfig{
				SchemaAdapter: schema, AutoInitializeSchema: true,
			}, watermill.NopLogger{})
		},
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
			return rawSQLSubscriber(db, group, schema, offsets)
		},
	}
}
