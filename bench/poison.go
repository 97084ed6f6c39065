package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/kafka"
	"github.com/headrace-go/headrace/brokers/postgres"
	"github.com/headrace-go/headrace/brokers/sqs"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
)

func poisonOtherKeys() comparison {
	c := comparison{
		name: "poison-other-keys",
		what: "Messages a second of 1,000 keys, from the broker through a router, Parking as it is by default, Dedupe and the handler " +
			"of parking-idle-cost, while one message in 1,000, of a key of its own, always fails, against the same where none does.",
		unit: "x", rounds: 7, op: ">=", bar: 0.9,
	}
	for _, b := range []poisonBroker{
		{"Kafka", 20_000, func(env servers, _ string) string { return env.kafkaURL }},
		{"SQS FIFO", 4_000, func(env servers, _ string) string { return env.sqs + "&fifo=true" }},
		{"Postgres", 4_000, func(env servers, schema string) string { return schema }},
	} {
		c.worstOf = append(c.worstOf, setting{
			name:   b.name,
			ours:   side{"with poison", "messages/s", b.rate(true)},
			theirs: side{"without", "messages/s", b.rate(false)},
		})
	}
	return c
}

// poisonBroker is a broker on which a service runs whose database is Postgres.
type poisonBroker struct {
	name     string
	messages int
	// url gets the URL of the service's own schema.
	url func(env servers, schema string) string
}

const poisonEvery, poisonKeys = 1_000, 1_000

func (b poisonBroker) rate(poison bool) func(ctx context.Context, env servers) (float64, error) {
	return func(ctx context.Context, env servers) (float64, error) {
		return inSchema(ctx, env, func(pool *pgxpool.Pool) (perSecond float64, err error) {
			opened, err := brokers.Open(ctx, b.url(env, pool.Config().ConnString()), brokers.Config{
				Group:   "bench",
				Openers: map[string]brokers.Opener{"kafka": kafka.Open, "sqs": sqs.Open, "postgres": postgres.Open},
			})
			if err != nil {
				return 0, err
			}
			topic := "bench_" + strings.ToLower(watermill.NewShortUUID())
			defer func() {
				err = errors.Join(err, opened.DeleteTopic(context.WithoutCancel(ctx), topic), opened.Close())
			}()
			if err := b.fill(ctx, opened, topic, poison); err != nil {
				return 0, fmt.Errorf("fill %s: %w", b.name, err)
			}
			return b.handleAll(ctx, pool, opened, topic)
		})
	}
}

// fill publishes everything before any of it is handled.
func (b poisonBroker) fill(ctx context.Context, opened *brokers.Broker, topic string, poison bool) error {
	const callers, atOnce = 32, 100
	// The first goes alone, since it may make the topic.
	if err := opened.Publisher.Publish(topic, benchMessage("0", "0")); err != nil {
		return err
	}
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(callers)
	for first := 1; first < b.messages; first += atOnce {
		group.Go(func() error {
			var batch []*message.Message
			for i := first; i < min(first+atOnce, b.messages); i++ {
				row := strconv.Itoa(i % poisonKeys)
				batch = append(batch, benchMessage(row, row))
				if i%poisonEvery != poisonEvery/2 {
					continue
				}
				payload := "0"
				if poison {
					payload = "no number"
				}
				batch = append(batch, benchMessage(otherThanCounted+strconv.Itoa(i), payload))
			}
			return opened.Publisher.Publish(topic, batch...)
		})
	}
	return group.Wait()
}

// otherThanCounted begins the keys whose messages aren't counted.
const otherThanCounted = "other-"

func benchMessage(key, payload string) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
	msgmeta.SetKey(msg, key)
	return msg
}

// handleAll runs the service until it has handled what is counted, and returns the
// rate from the first to the last of it.
func (b poisonBroker) handleAll(ctx context.Context, pool *pgxpool.Pool, opened *brokers.Broker, topic string) (float64, error) {
	g, err := guard(ctx, pool, &middleware.ParkingConfig{})
	if err != nil {
		return 0, err
	}
	defer g.close()
	sub, err := parking.NewSubscriber(g.store, opened.Subscriber, parking.SubscriberConfig{Consumer: benchConsumer})
	if err != nil {
		return 0, err
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Minute}, watermill.NopLogger{})
	if err != nil {
		return 0, err
	}
	count := countdown{left: b.messages, seen: map[string]bool{}, done: make(chan struct{})}
	router.AddConsumerHandler("update", topic, sub, func(msg *message.Message) error {
		_, err := g.handler(msg)
		if err == nil && !strings.HasPrefix(msgmeta.GetKey(msg), otherThanCounted) {
			count.down(msg.UUID)
		}
		return err
	})
	ended := make(chan error, 1)
	go func() { ended <- router.Run(ctx) }()
	const enough = 3 * time.Minute
	select {
	case <-count.done:
	case err := <-ended:
		return 0, fmt.Errorf("the router ended: %w", err)
	case <-time.After(enough):
		return 0, errors.Join(fmt.Errorf("not all messages were handled within %s", enough), router.Close())
	}
	rate := float64(b.messages-1) / count.took.Seconds()
	return rate, errors.Join(router.Close(), <-ended)
}

// countdown counts messages once, and the time from the first to the last.
type countdown struct {
	mu    sync.Mutex
	left  int
	seen  map[string]bool
	began time.Time
	took  time.Duration
	done  chan struct{}
}

func (c *countdown) down(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[id] {
		return
	}
	c.seen[id] = true
	if c.began.IsZero() {
		c.began = time.Now()
	}
	if c.left--; c.left == 0 {
		c.took = time.Since(c.began)
		close(c.done)
	}
}
