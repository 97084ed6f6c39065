package brokers_test

import (
	"context"
	"database/sql"
	"net/url"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	awssqs "github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/dburl"
)

// Adapters show a message again after these, to be quicker than they usually are.
const (
	rawUsually     = 30 * time.Second
	rawVisibility  = 10 * time.Second
	rawAckDeadline = 10 * time.Second
)

// withRawProcesses has consumers run in processes of their own, by the case's
// inProcess.
func withRawProcesses(name, rawURL string, h *conformance.Harness) {
	h.Consumer = func(_ context.Context, spec conformance.ConsumerSpec) (conformance.Process, error) {
		spec.Args = map[string]string{"raw": name, "url": rawURL}

		return conformance.Reexec(spec)
	}
}

func kafkaInProcess(rawURL, group string) (message.Subscriber, error) {
	address, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	config := wkafka.DefaultSaramaSubscriberConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest

	return wkafka.NewSubscriber(wkafka.SubscriberConfig{
		Brokers: []string{address.Host}, Unmarshaler: wkafka.DefaultMarshaler{}, ConsumerGroup: group,
		OverwriteSaramaConfig: config,
	}, watermill.NopLogger{})
}

func rawSQSConfig(client awssqs.Options) wsqs.SubscriberConfig {
	return wsqs.SubscriberConfig{
		AWSConfig: aws.Config{Region: client.Region, Credentials: client.Credentials, HTTPClient: client.HTTPClient},
		OptFns:    []func(*awssqs.Options){func(o *awssqs.Options) { o.BaseEndpoint = client.BaseEndpoint }},
	}
}

func rawSQSQueue(fifo bool) wsqs.QueueConfigAttributes {
	return wsqs.QueueConfigAttributes{VisibilityTimeout: "10", FifoQueue: wsqs.QueueConfigAttributesBool(fifo)}
}

func sqsInProcess(fifo bool) func(rawURL, group string) (message.Subscriber, error) {
	return func(rawURL, _ string) (message.Subscriber, error) {
		options, err := sqsOptions(rawURL)
		if err != nil {
			return nil, err
		}
		config := rawSQSConfig(options)
		config.QueueConfigAttributes = rawSQSQueue(fifo)

		return wsqs.NewSubscriber(config, watermill.NopLogger{})
	}
}

func postgresInProcess(rawURL, group string) (message.Subscriber, error) {
	return rawSQLInProcess(rawURL, group, wsql.DefaultPostgreSQLSchema{}, wsql.DefaultPostgreSQLOffsetsAdapter{})
}

func mariaDBInProcess(rawURL, group string) (message.Subscriber, error) {
	return rawSQLInProcess(rawURL, group, wsql.DefaultMySQLSchema{}, wsql.DefaultMySQLOffsetsAdapter{})
}

func rawSQLInProcess(rawURL, group string, schema wsql.SchemaAdapter, offsets wsql.OffsetsAdapter) (message.Subscriber, error) {
	address, err := dburl.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	db, err := address.Open() // and ends with the process
	if err != nil {
		return nil, err
	}

	return rawSQLSubscriber(db, group, schema, offsets)
}

func rawSQLSubscriber(
	db *sql.DB, group string, schema wsql.SchemaAdapter, offsets wsql.OffsetsAdapter,
) (message.Subscriber, error) {
	deadline := rawAckDeadline

	return wsql.NewSubscriber(wsql.BeginnerFromStdSQL(db), wsql.SubscriberConfig{
		ConsumerGroup: group, SchemaAdapter: schema, OffsetsAdapter: offsets, InitializeSchema: true, AckDeadline: &deadline,
	}, watermill.NopLogger{})
}
