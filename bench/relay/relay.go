// Package relay measures how fast an outbox is relayed from Postgres to Kafka,
// by Headrace's forwarder and by watermill's forwarder component.
//
// Both sides get the same messages, the same watermill-kafka publisher with the
// same settings, and the same servers. The backlog is written before the clock
// starts.
package relay

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	wforwarder "github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of both sides

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Setting is what both sides have in common.
type Setting struct {
	// PostgresURL is a server with fsync on; each run makes a schema of its own.
	PostgresURL string
	// KafkaBrokers are host:port.
	KafkaBrokers []string
	// Keys and PayloadBytes describe the messages.
	Keys, PayloadBytes int
}

// Headrace relays n messages with Headrace's forwarder and returns how many a
// second.
func Headrace(ctx context.Context, s Setting, n int) (perSecond float64, err error) {
	schema := NewSchemaName()
	db, err := s.open(ctx, schema)
	if err != nil {
		return 0, err
	}
	defer s.DropSchema(context.WithoutCancel(ctx), schema)
	defer db.Close()
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Postgres, Migrate: true})
	if err != nil {
		return 0, err
	}
	defer st.Close() //nolint:errcheck // ends a goroutine
	outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{})
	if err != nil {
		return 0, err
	}
	topic := "headrace-" + watermill.NewShortUUID()
	if err := s.fill(n, func(msgs []*message.Message) error { return outbox.Publish(ctx, topic, msgs...) }); err != nil {
		return 0, err
	}
	if _, err := db.ExecContext(ctx, "VACUUM ANALYZE headrace_outbox"); err != nil {
		return 0, err
	}
	publisher, done, err := s.publisher(n)
	if err != nil {
		return 0, err
	}
	f, err := forwarder.New(st, map[string]message.Publisher{forwarder.DefaultDestination: publisher}, forwarder.Config{})
	if err != nil {
		return 0, err
	}
	return timed(ctx, n, done, f.Run, func(ctx context.Context) error {
		return eventuallyEmpty(ctx, db, "headrace_outbox")
	}, publisher.Close)
}

// Watermill relays n messages with watermill's forwarder component on its own
// table and returns how many a second.
func Watermill(ctx context.Context, s Setting, n int) (perSecond float64, err error) {
	schema := NewSchemaName()
	db, err := s.open(ctx, schema)
	if err != nil {
		return 0, err
	}
	defer s.DropSchema(context.WithoutCancel(ctx), schema)
	defer db.Close()
	const outboxTopic = "outbox"
	tables := wsql.DefaultPostgreSQLSchema{GeneratePayloadType: func(string) string { return "BYTEA" }}
	sqlPublisher, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(db), wsql.PublisherConfig{
		SchemaAdapter: tables, AutoInitializeSchema: true,
	}, nil)
	if err != nil {
		return 0, err
	}
	config := wforwarder.PublisherConfig{ForwarderTopic: outboxTopic}
	wrapped := wforwarder.NewPublisher(sqlPublisher, config)
	topic := "watermill-" + watermill.NewShortUUID()
	if err := s.fill(n, func(msgs []*message.Message) error { return wrapped.Publish(topic, msgs...) }); err != nil {
		return 0, err
	}
	if _, err := db.ExecContext(ctx, "VACUUM ANALYZE watermill_outbox"); err != nil {
		return 0, err
	}
	subscriber, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(db), wsql.SubscriberConfig{
		SchemaAdapter: tables, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
	}, nil)
	if err != nil {
		return 0, err
	}
	publisher, done, err := s.publisher(n)
	if err != nil {
		return 0, err
	}
	f, err := wforwarder.NewForwarder(subscriber, publisher, watermill.NopLogger{}, wforwarder.Config{ForwarderTopic: outboxTopic})
	if err != nil {
		return 0, err
	}
	return timed(ctx, n, done, f.Run, nil, publisher.Close)
}

// timed runs a forwarder until the broker has taken n messages and, where a side
// can tell, until its table says so too.
func timed(
	ctx context.Context, n int, done <-chan struct{}, run, settled func(context.Context) error, closers ...func() error,
) (perSecond float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- run(ctx) }()
	select {
	case <-done:
	case err := <-ended:
		cancel()
		return 0, fmt.Errorf("forwarder ended early: %w", err)
	}
	if settled != nil {
		err = settled(ctx)
	}
	took := time.Since(began)
	cancel()
	if runErr := <-ended; runErr != nil && !errors.Is(runErr, context.Canceled) {
		err = errors.Join(err, runErr)
	}
	for _, c := range closers {
		err = errors.Join(err, c())
	}
	return float64(n) / took.Seconds(), err
}

func eventuallyEmpty(ctx context.Context, db *sql.DB, table string) error {
	for {
		var any bool
		if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+")").Scan(&any); err != nil || !any {
			return err
		}
	}
}

// publisher is watermill-kafka's own, with acks from all replicas and keys.
func (s Setting) publisher(n int) (p *countingPublisher, done <-chan struct{}, err error) {
	config := wkafka.DefaultSaramaSyncPublisherConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Net.MaxOpenRequests = 1
	config.Version = sarama.V2_1_0_0
	kafka, err := wkafka.NewPublisher(wkafka.PublisherConfig{
		Brokers: s.KafkaBrokers,
		Marshaler: wkafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msgmeta.GetKey(msg), nil
		}),
		OverwriteSaramaConfig: config,
	}, nil)
	if err != nil {
		return nil, nil, err
	}
	finished := make(chan struct{})
	p = &countingPublisher{Publisher: kafka, done: finished}
	p.left.Store(int64(n))
	return p, finished, nil
}

type countingPublisher struct {
	message.Publisher
	left atomic.Int64
	done chan struct{}
}

func (p *countingPublisher) Publish(topic string, msgs ...*message.Message) error {
	if err := p.Publisher.Publish(topic, msgs...); err != nil {
		return err
	}
	if p.left.Add(-int64(len(msgs))) == 0 {
		close(p.done)
	}
	return nil
}

// fill writes n messages with distinct random payloads.
func (s Setting) fill(n int, write func([]*message.Message) error) error {
	const chunk = 1000
	for from := 0; from < n; from += chunk {
		msgs := make([]*message.Message, 0, chunk)
		for i := from; i < min(from+chunk, n); i++ {
			payload := make([]byte, s.PayloadBytes)
			_, _ = rand.Read(payload)
			msg := message.NewMessage(watermill.NewUUID(), payload)
			msgmeta.SetKey(msg, "key-"+strconv.Itoa(i%s.Keys))
			msgs = append(msgs, msg)
		}
		if err := write(msgs); err != nil {
			return err
		}
	}
	return nil
}
