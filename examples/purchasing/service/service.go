// Package service puts purchasing behind Headrace: what users do and the wish for a
// mail are one transaction, there is one mail for a supplier and slot, and it is
// sent once. The shop takes a user's order once, and only if it is what the user has
// seen; what it can't take now is tried again, and at last waits for a person.
package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/examples/purchasing/smtp"
	"github.com/headrace-go/headrace/forwarder"
	headracemiddleware "github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Name is the service's: the consumer group at the broker and the scope of
// Headrace's memory. It must stay the same over deploys.
const Name = "purchasing"

// The mails and the bookings among the service's effects.
const (
	scope     = "mail"
	bookScope = "book"
)

// shutdownTimeout bounds how long handlers in flight may go on.
const shutdownTimeout = 10 * time.Second

// Topics are what the service writes to itself.
type Topics struct {
	// Slots carries one message for each supplier and slot.
	Slots string `json:"slots"`
	// Mails carries the mails that were written.
	Mails string `json:"mails"`
	// Bookings carries what the shop is to take. Only used with a shop.
	Bookings string `json:"bookings"`
}

// DefaultTopics are the names in production.
func DefaultTopics() Topics {
	return Topics{Slots: "purchasing.slots", Mails: "purchasing.mails", Bookings: "purchasing.bookings"}
}

// Config says on what the service runs. DB, Broker, Cron and Server are required.
type Config struct {
	DB     *sql.DB
	Broker *brokers.Broker
	Topics Topics
	// Cron and Zone say when suppliers get their mails, as forwarder.Slot's.
	Cron string
	Zone *time.Location
	// Server takes the mails, which come from From. Default orders@localhost.
	Server smtp.Server
	From   string
	// Taken asks the mail server's log or API whether it has taken the mail of a
	// Message-ID. Without it, a mail is unknown after a crash in its sending, until a
	// person has looked: see Service.Settle.
	Taken func(ctx context.Context, messageID string) (bool, error)
	// Shop must take what is ordered before it goes to a supplier. Default: there is
	// none, and what is ordered goes into the next mail.
	Shop   *shop.Client
	Logger watermill.LoggerAdapter
	// Forwarder, Effects and Parking hold the finer settings of the relay, of the sending
	// and of what becomes of failures.
	Forwarder forwarder.Config
	Effects   effects.Config
	Parking   headracemiddleware.ParkingConfig
	// Around, outermost first, stand around every handler. Tests break things there.
	Around []message.HandlerMiddleware
}

// Service is the purchasing service without its HTTP side.
type Service struct {
	// Desk runs statements in the transaction in their context: see InTx.
	Desk *buying.Desk

	cfg     Config
	hr      *headrace.Plugin
	mailing *effects.Client
	booking *effects.Client // nil without a shop
	router  *message.Router
}

// New opens Headrace, makes the tables and builds the service. Run starts it.
func New(ctx context.Context, cfg Config) (_ *Service, err error) {
	if cfg.From == "" {
		cfg.From = "orders@localhost"
	}
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	s := &Service{}
	parks := cfg.Parking
	parks.OnConflict = s.disputed
	hr, err := headrace.New(ctx, cfg.DB, headrace.Config{
		Service: Name, Publisher: cfg.Broker.Publisher, Migrate: true, Logger: cfg.Logger, Forwarder: cfg.Forwarder,
		RedeliveryWindow: cfg.Broker.Capabilities.RedeliveryWindow, Park: true, Parking: parks,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, hr.Close())
		}
	}()
	s.cfg, s.hr = cfg, hr
	s.Desk = buying.New(buying.Config{
		DB: store.JoinDBX(hr.Store()), Publisher: hr.Publisher(), Mails: cfg.Topics.Mails, Bookings: cfg.Topics.Bookings,
		Slot: s.slot, From: cfg.From,
	})
	if err = s.openEffects(); err != nil {
		return nil, err
	}
	if err = s.Desk.CreateTables(ctx); err != nil {
		return nil, err
	}
	if err = s.route(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Service) openEffects() (err error) {
	mailing := s.cfg.Effects
	mailing.Provider, mailing.Service, mailing.Logger = s.mailServer(), Name, s.cfg.Logger
	if s.mailing, err = effects.New(s.hr.Store(), mailing); err != nil || s.cfg.Shop == nil {
		return err
	}
	booking := mailing
	booking.Provider = shop.Provider()
	booking.Provider.Timeout = mailing.Provider.Timeout
	s.booking, err = effects.New(s.hr.Store(), booking)
	return err
}

// slot asks for the one message of a supplier's next slot.
func (s *Service) slot(ctx context.Context, supplier string) (time.Time, error) {
	asked, err := s.hr.Outbox("").PublishInSlot(ctx, forwarder.Slot{
		Cron: s.cfg.Cron, Zone: s.cfg.Zone, Subject: supplier,
	}, s.cfg.Topics.Slots)
	return asked.At, err
}

func (s *Service) route() (err error) {
	s.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: shutdownTimeout}, s.cfg.Logger)
	if err != nil {
		return fmt.Errorf("build the router: %w", err)
	}
	s.router.AddMiddleware(s.cfg.Around...)
	s.router.AddMiddleware(middleware.Recoverer)
	s.router.AddPlugin(s.hr.Attach)
	s.handle("write", s.cfg.Topics.Slots, s.Desk.WriteMail)
	s.handle("send", s.cfg.Topics.Mails, s.noteSent, s.mailing.Stage(scope, s.send))
	if s.cfg.Shop != nil {
		s.handle("book", s.cfg.Topics.Bookings, s.noteBooked, s.booking.Stage(bookScope, s.book))
	}
	return nil
}

// handle adds a handler. What can't be rolled back is a stage, in front of its
// transaction.
func (s *Service) handle(name, topic string, handle message.NoPublishHandlerFunc, stages ...message.HandlerMiddleware) {
	handler := s.router.AddConsumerHandler(name, topic, s.hr.Subscriber(name, s.cfg.Broker.Subscriber), handle)
	handler.AddMiddleware(append([]message.HandlerMiddleware{s.hr.ParkMiddleware}, stages...)...)
}

// InTx runs f in a transaction, which f's context carries.
func (s *Service) InTx(ctx context.Context, f func(ctx context.Context) error) error {
	return s.hr.Store().InTx(ctx, func(ctx context.Context, _ store.Tx) error { return f(ctx) })
}

// Running is closed when the handlers receive messages.
func (s *Service) Running() <-chan struct{} { return s.router.Running() }

// Run handles messages until the context is cancelled and handlers in flight have
// ended.
func (s *Service) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.router.Close() }) // Run waits for it
	defer stop()
	// The context of Run would be the messages' too: Close is gentler.
	if err := s.router.Run(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("purchasing service: %w", err)
	}
	return nil
}

// Close ends the relay and frees what New has opened. Database and broker stay
// open.
func (s *Service) Close() error { return s.hr.Close() }
