// Package service puts the warehouse's handlers behind Headrace: their
// statements, the mark of the message that they handle and the messages that
// they send are one transaction.
package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
)

// Name is the service's: the consumer group at the broker and the scope of
// Headrace's memory. It must stay the same over deploys.
const Name = "stock"

// shutdownTimeout bounds how long handlers in flight may go on.
const shutdownTimeout = 10 * time.Second

// Topics are what the service reads and writes.
type Topics struct {
	// Changes carries ProductStockChanged.
	Changes string `json:"changes"`
	// FollowUps carries RecommendationsDue, from the service to itself.
	FollowUps string `json:"follow_ups"`
	// Refused is written only: what no handler can make sense of.
	Refused string `json:"refused"`
}

// DefaultTopics are the names in production.
func DefaultTopics() Topics {
	return Topics{Changes: "stock.changes", FollowUps: "stock.recommendations", Refused: "stock.refused"}
}

// Config says on what the service runs.
type Config struct {
	DB     connect.Database
	Broker *brokers.Broker
	Topics Topics
	Logger watermill.LoggerAdapter
	// LeaseTTL is how long the outbox's partitions stay with a process that was
	// killed. Default: the forwarder's.
	LeaseTTL time.Duration
	// Faults, when set, stands between the handlers and the outbox. The
	// demonstration breaks things there.
	Faults func(message.Publisher) message.Publisher
}

// Service is the stock service without its HTTP side.
type Service struct {
	Warehouse *warehouse.Warehouse
	// Headrace protects the handlers; changes are sent through its publisher.
	Headrace *headrace.Plugin

	router *message.Router
}

// New opens Headrace, makes the tables and builds the service. Run starts it.
func New(ctx context.Context, cfg Config) (_ *Service, err error) {
	redelivery := cfg.Broker.Capabilities.RedeliveryWindow
	hr, err := headrace.New(ctx, cfg.DB.DB, headrace.Config{
		Service: Name, Publisher: cfg.Broker.Publisher, Migrate: true, Logger: cfg.Logger,
		// Both messages say which product they are about.
		Key: keys.FromJSON("product"),
		// They are remembered for at least as long as a copy can come.
		RedeliveryWindow: redelivery,
		Dedupe:           middleware.DedupeConfig{Window: max(middleware.DefaultWindow, redelivery)},
		Forwarder:        forwarder.Config{LeaseTTL: cfg.LeaseTTL},
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, hr.Close())
		}
	}()

	publisher := hr.Publisher()
	if cfg.Faults != nil {
		publisher = cfg.Faults(publisher)
	}
	s := &Service{Headrace: hr, Warehouse: warehouse.New(warehouse.Config{
		DB: hr.DB(), Numbered: cfg.DB.Numbered(), Publisher: publisher, FollowUps: cfg.Topics.FollowUps,
	})}
	if err = s.Warehouse.CreateTables(ctx); err != nil {
		return nil, err
	}
	if err = s.route(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) route(cfg Config) (err error) {
	s.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: shutdownTimeout}, cfg.Logger)
	if err != nil {
		return fmt.Errorf("build the router: %w", err)
	}
	// What no handler can make sense of is put aside, so that it holds up nothing.
	// This stands outside of Headrace: what the handler has written is rolled back
	// by then.
	refuse, err := wmiddleware.PoisonQueueWithFilter(s.Headrace.Publisher(), cfg.Topics.Refused,
		func(err error) bool { return errors.Is(err, warehouse.ErrRefused) })
	if err != nil {
		return fmt.Errorf("build the poison queue: %w", err)
	}
	s.router.AddMiddleware(refuse, wmiddleware.Recoverer)
	s.router.AddPlugin(s.Headrace.Attach)
	s.router.AddConsumerHandler("changes", cfg.Topics.Changes, cfg.Broker.Subscriber, s.Warehouse.HandleChange)
	s.router.AddConsumerHandler("recommendations", cfg.Topics.FollowUps, cfg.Broker.Subscriber,
		s.Warehouse.HandleRecommendationsDue)
	return nil
}

// Running is closed when the handlers receive messages.
func (s *Service) Running() <-chan struct{} { return s.router.Running() }

// Run handles messages until the context is cancelled and handlers in flight
// have ended, and returns nil then.
func (s *Service) Run(ctx context.Context) error {
	group, ending := errgroup.WithContext(ctx)
	// The context of Run would be the messages' too: Close is gentler.
	group.Go(func() error { return s.router.Run(context.WithoutCancel(ctx)) })
	group.Go(func() error {
		<-ending.Done()
		return s.router.Close()
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stock service: %w", err)
	}
	return nil
}

// Close ends the relay and frees what New has opened. Database and broker stay
// open; what is left in the outbox is sent after the next start.
func (s *Service) Close() error { return s.Headrace.Close() }
