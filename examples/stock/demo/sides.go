package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/service"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// side is one way to run the stock service.
type side string

const (
	// naive: an ordinary router. Each statement is committed as it is executed,
	// the follow-up is published by hand, the message is acked after the handler.
	naive side = "naive"
	// seenList: the same with Watermill's Deduplicator before the handler.
	seenList side = "Deduplicator"
	// protected: the same handlers behind Headrace.
	protected side = "Headrace"
)

func sides() []side { return []side{naive, seenList, protected} }

func newConsumer(
	ctx context.Context, o orders, db connect.Database, broker *brokers.Broker, f *faults, logger watermill.LoggerAdapter,
) (consumer, error) {
	switch o.Side {
	case naive, seenList:
		return newOrdinary(o, db, broker, f, logger)
	case protected:
		s, err := service.New(ctx, service.Config{
			DB: db, Broker: broker, Topics: o.Topics, Logger: logger,
			LeaseTTL: leaseTTL, Faults: f.before,
		})
		return guarded{s}, err
	}
	return nil, fmt.Errorf("no side %q", o.Side)
}

// guarded is the stock service as it is.
type guarded struct{ *service.Service }

func (g guarded) Unsent(ctx context.Context) (unsent int64, err error) {
	counts, err := g.Headrace.Store().CountOutbox(ctx)
	for _, c := range counts {
		unsent += c.Unsent
	}
	return unsent, err
}

// ordinary is a service as most are.
type ordinary struct{ router *message.Router }

func newOrdinary(
	o orders, db connect.Database, broker *brokers.Broker, f *faults, logger watermill.LoggerAdapter,
) (consumer, error) {
	if db.Dialect == store.SQLite {
		db.SetMaxOpenConns(1) // its writers would wait for each other by trying again
	}
	w := warehouse.New(warehouse.Config{
		DB: db.DB, Numbered: db.Numbered(), Publisher: f.before(keyed{broker.Publisher}), FollowUps: o.Topics.FollowUps,
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, logger)
	if err != nil {
		return nil, fmt.Errorf("build the router: %w", err)
	}
	if o.Side == seenList {
		repository, err := wmiddleware.NewMapExpiringKeyRepository(seenFor)
		if err != nil {
			return nil, fmt.Errorf("build the seen list: %w", err)
		}
		// By the message's id: the default, a checksum of the payload, would
		// take two equal changes for one.
		deduplicator := &wmiddleware.Deduplicator{
			KeyFactory: func(msg *message.Message) (string, error) { return msg.UUID, nil },
			Repository: repository, Timeout: time.Second,
		}
		router.AddMiddleware(deduplicator.Middleware)
	}
	router.AddConsumerHandler("changes", o.Topics.Changes, broker.Subscriber, w.HandleChange)
	router.AddConsumerHandler("recommendations", o.Topics.FollowUps, broker.Subscriber, w.HandleRecommendationsDue)
	return ordinary{router}, nil
}

const (
	leaseTTL     = 1500 * time.Millisecond // after a kill, whoever watches waits for it
	closeTimeout = 10 * time.Second
	seenFor      = time.Hour // longer than any run
)

func (c ordinary) Run(ctx context.Context) error {
	if err := c.router.Run(ctx); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return nil
}

func (c ordinary) Running() <-chan struct{} { return c.router.Running() }

// Unsent is nothing: an ordinary service keeps nothing to send.
func (ordinary) Unsent(context.Context) (int64, error) { return 0, nil }

func (c ordinary) Close() error {
	if err := c.router.Close(); err != nil {
		return fmt.Errorf("close the router: %w", err)
	}
	return nil
}

// keyed gives follow-ups the key that the outbox gives them on the protected
// side, so that the broker treats both alike.
type keyed struct{ message.Publisher }

func (p keyed) Publish(topic string, msgs ...*message.Message) error {
	key := keys.FromJSON("product")
	var failed error
	for _, msg := range msgs {
		product, err := key(msg)
		failed = errors.Join(failed, err)
		msgmeta.SetKey(msg, product)
	}
	if failed != nil {
		return failed
	}
	if err := p.Publisher.Publish(topic, msgs...); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}
