package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
			"of parking-idle-cost, while one message in 1,000, of a key of its own, always fails, against the same where none does. " +
			"The two services take turns of a quarter of a second, so that what the machine does meanwhile meets both.",
		unit: "x", rounds: 5, op: ">=", bar: 0.9,
		ours: side{name: "with poison", unit: "messages/s"}, theirs: side{name: "without", unit: "messages/s"},
	}
	for _, b := range []poisonBroker{
		{"Kafka", 30_000, func(env servers, _ string) string { return env.kafkaURL }},
		{"SQS FIFO", 5_000, func(env servers, _ string) string { return env.sqs + "&fifo=true" }},
		{"Postgres", 5_000, func(_ servers, schema string) string { return schema }},
	} {
		c.worstOf = append(c.worstOf, setting{b.name, b.compare})
	}
	return c
}

// poisonBroker is a broker on which services run whose database is Postgres.
type poisonBroker struct {
	name     string
	messages int
	// url gets the URL of the service's own schema.
	url func(env servers, schema string) string
}

const poisonEvery, poisonKeys = 1_000, 1_000

func (b poisonBroker) compare(ctx context.Context, env servers, round int) (with, without float64, err error) {
	_, err = inSchema(ctx, env, func(poisoned *pgxpool.Pool) (float64, error) {
		return inSchema(ctx, env, func(clean *pgxpool.Pool) (_ float64, err error) {
			sides, pools := [2]*poisonSide{}, [2]*pgxpool.Pool{poisoned, clean}
			for n := range sides {
				i := (n + round) % len(sides) // who is first may matter to the servers
				if sides[i], err = b.start(ctx, env, pools[i], i == 0); err != nil {
					return 0, fmt.Errorf("start on %s: %w", b.name, err)
				}
				defer func() { err = errors.Join(err, sides[i].stop(ctx)) }()
			}
			if err := b.alternate(sides, round); err != nil {
				return 0, err
			}
			with, without = sides[0].rate(), sides[1].rate()
			return 0, nil
		})
	})
	return with, without, err
}

// alternate lets one side work at a time, until one of them has nearly done.
func (b poisonBroker) alternate(sides [2]*poisonSide, round int) error {
	const (
		turn   = 250 * time.Millisecond
		enough = 5 * time.Minute
	)
	order := [4]int{0, 1, 1, 0}
	began, almost, warm := time.Now(), int64(b.messages)*9/10, int64(b.messages)/20
	for _, s := range sides { // consumers take their time to begin
		for s.handled.Load() < warm && time.Since(began) < enough {
			s.turn(turn)
		}
		s.measured, s.took = 0, 0
	}
	for i := round; max(sides[0].handled.Load(), sides[1].handled.Load()) < almost; i++ {
		if time.Since(began) > enough {
			return fmt.Errorf("%s: only %d and %d messages were handled in %s",
				b.name, sides[0].handled.Load(), sides[1].handled.Load(), enough)
		}
		sides[order[i%len(order)]].turn(turn)
	}
	return nil
}

// poisonSide is a service on a topic of its own.
type poisonSide struct {
	opened *brokers.Broker
	topic  string
	g      *guarded
	router *message.Router
	ended  chan error

	// gate is held by each message in its handler, and by whoever stops them.
	gate     sync.RWMutex
	handled  atomic.Int64
	measured int64
	took     time.Duration
}

func (b poisonBroker) start(ctx context.Context, env servers, pool *pgxpool.Pool, poison bool) (_ *poisonSide, err error) {
	s := &poisonSide{topic: "bench_" + strings.ToLower(watermill.NewShortUUID()), ended: make(chan error, 1)}
	s.opened, err = brokers.Open(ctx, b.url(env, pool.Config().ConnString()), brokers.Config{
		Group:   s.topic, // a group of its own: members that come and go stop the others
		Openers: map[string]brokers.Opener{"kafka": kafka.Open, "sqs": sqs.Open, "postgres": postgres.Open},
	})
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, s.opened, s.topic, poison); err != nil {
		return nil, err
	}
	if s.g, err = guard(ctx, pool, &middleware.ParkingConfig{}); err != nil {
		return nil, err
	}
	sub, err := parking.NewSubscriber(s.g.store, s.opened.Subscriber, parking.SubscriberConfig{Consumer: benchConsumer})
	if err != nil {
		return nil, err
	}
	if s.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: time.Minute}, watermill.NopLogger{}); err != nil {
		return nil, err
	}
	s.router.AddConsumerHandler("update", s.topic, sub, s.handle)
	s.gate.Lock()
	go func() { s.ended <- s.router.Run(ctx) }()
	select {
	case <-s.router.Running():
		return s, nil
	case err := <-s.ended:
		return nil, err
	}
}

func (s *poisonSide) handle(msg *message.Message) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	_, err := s.g.handler(msg)
	if err == nil && !strings.HasPrefix(msgmeta.GetKey(msg), otherThanCounted) {
		s.handled.Add(1)
	}
	return err
}

// turn lets the service work for a while, and until what is in its handlers is done.
func (s *poisonSide) turn(d time.Duration) {
	before, began := s.handled.Load(), time.Now()
	s.gate.Unlock()
	<-time.After(d)
	s.gate.Lock()
	s.measured += s.handled.Load() - before
	s.took += time.Since(began)
}

func (s *poisonSide) rate() float64 { return float64(s.measured) / s.took.Seconds() }

func (s *poisonSide) stop(ctx context.Context) error {
	s.gate.Unlock()
	err := errors.Join(s.router.Close(), <-s.ended)
	s.g.close()
	return errors.Join(err, s.opened.DeleteTopic(context.WithoutCancel(ctx), s.topic), s.opened.Close())
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
