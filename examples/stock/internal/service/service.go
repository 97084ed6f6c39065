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

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Name is the service's: the consumer group at the broker and the scope of
// Headrace's memory. It must stay the same over deploys.
const Name = "stock"

// shutdownTimeout bounds how long handlers in flight may go on.
const shutdownTimeout = 10 * time.Second

// Topics are what the service reads. It writes FollowUps and Refused.
type Topics struct {
	Changes   string // ProductStockChanged
	FollowUps string // RecommendationsDue, from the service to itself
	Refused   string // what no handler can make sense of
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
	// Publisher, when set, stands between the handlers and the outbox. The
	// demonstration breaks things there.
	Publisher func(message.Publisher) message.Publisher
}

// Service is the stock service without its HTTP side.
type Service struct {
	Warehouse *warehouse.Warehouse
	// Outbox sends changes: through the database, so that they can't be lost.
	Outbox *forwarder.Outbox
	Store  *store.Store

	cfg       Config
	router    *message.Router
	forwarder *forwarder.Forwarder
	purge     *middleware.Purge
}

// New opens the store, makes the tables and builds the service. Run starts it.
func New(ctx context.Context, cfg Config) (_ *Service, err error) {
	s := &Service{cfg: cfg}
	s.Store, err = store.Open(ctx, cfg.DB.DB, store.Config{Dialect: cfg.DB.Dialect, Migrate: true, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Store.Close())
		}
	}()

	if s.Outbox, err = forwarder.NewOutbox(s.Store, forwarder.OutboxConfig{Key: keys.FromJSON("product")}); err != nil {
		return nil, err
	}
	publisher := s.Outbox.Publisher()
	if cfg.Publisher != nil {
		publisher = cfg.Publisher(publisher)
	}
	s.Warehouse = warehouse.New(warehouse.Config{
		DB: store.JoinDB(s.Store), Numbered: cfg.DB.Numbered(), Publisher: publisher, FollowUps: cfg.Topics.FollowUps,
	})
	if err = s.Warehouse.CreateTables(ctx); err != nil {
		return nil, err
	}
	if err = s.build(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) build() (err error) {
	cfg := s.cfg
	s.forwarder, err = forwarder.New(s.Store, map[string]message.Publisher{
		forwarder.DefaultDestination: cfg.Broker.Publisher,
	}, forwarder.Config{Logger: cfg.Logger})
	if err != nil {
		return err
	}

	// A message is remembered for at least as long as a copy of it can come.
	window := max(middleware.DefaultWindow, cfg.Broker.Capabilities.RedeliveryWindow)
	dedupe, err := middleware.NewDedupe(s.Store, middleware.DedupeConfig{
		Service: Name, Outbox: s.Outbox, Logger: cfg.Logger,
		Window: window, RedeliveryWindow: cfg.Broker.Capabilities.RedeliveryWindow,
	})
	if err != nil {
		return err
	}
	s.purge, err = middleware.NewPurge(s.Store, middleware.PurgeConfig{
		Consumers: []string{Name + ".changes", Name + ".recommendations"}, Window: window, Logger: cfg.Logger,
	})
	if err != nil {
		return err
	}
	refuse, err := s.refuse()
	if err != nil {
		return err
	}

	s.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: shutdownTimeout}, cfg.Logger)
	if err != nil {
		return fmt.Errorf("build the router: %w", err)
	}
	s.router.AddMiddleware(refuse, wmiddleware.Recoverer, dedupe.Middleware)
	s.router.AddConsumerHandler("changes", cfg.Topics.Changes, cfg.Broker.Subscriber, s.Warehouse.HandleChange)
	s.router.AddConsumerHandler("recommendations", cfg.Topics.FollowUps, cfg.Broker.Subscriber,
		s.Warehouse.HandleRecommendationsDue)
	return nil
}

// refuse puts what no handler can make sense of aside, so that it holds up
// nothing. It stands outside of Dedupe: the handler's transaction is rolled back
// by then. Its outbox has no key function, because such a message may have none.
func (s *Service) refuse() (message.HandlerMiddleware, error) {
	outbox, err := forwarder.NewOutbox(s.Store, forwarder.OutboxConfig{})
	if err != nil {
		return nil, err
	}
	m, err := wmiddleware.PoisonQueueWithFilter(outbox.Publisher(), s.cfg.Topics.Refused,
		func(err error) bool { return errors.Is(err, warehouse.ErrRefused) })
	if err != nil {
		return nil, fmt.Errorf("build the poison queue: %w", err)
	}
	return m, nil
}

// Running is closed when the handlers receive messages.
func (s *Service) Running() <-chan struct{} { return s.router.Running() }

// Run works until the context is cancelled: then handlers in flight end, what
// they have sent is relayed, and Run returns nil.
func (s *Service) Run(ctx context.Context) error {
	group, ending := errgroup.WithContext(ctx)
	// Handlers and relay are stopped one after the other, not by the context.
	gently := context.WithoutCancel(ctx)
	group.Go(func() error { return s.forwarder.Run(gently) })
	group.Go(func() error { return s.router.Run(gently) })
	group.Go(func() error { return s.purge.Run(ending) })
	group.Go(func() error {
		<-ending.Done()
		return errors.Join(s.router.Close(), s.forwarder.Close())
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stock service: %w", err)
	}
	return nil
}

// Close frees what New has opened. Database and broker stay open.
func (s *Service) Close() error { return s.Store.Close() }
