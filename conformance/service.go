package conformance

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Joined is a subscriber whose handlers work in the transaction that records
// their ack.
type Joined struct {
	// Subscriber gives messages whose context joins. The suite closes it.
	Subscriber message.Subscriber
	// Store is where handlers write. It is not closed by the suite.
	Store *store.Store
}

// Store opens a database of the fact's own, as a service with Headrace has it:
// SQLite, gone with the fact.
func (t *Trial) Store() *store.Store {
	var st *store.Store
	err := t.call("open a store", func() error {
		db, remove, err := openFile()
		if err != nil {
			return err
		}
		st, err = store.Open(t.ctx, db, store.Config{Dialect: store.SQLite, Migrate: true})
		t.closesWith(func() error {
			if st != nil {
				_ = st.Close()
			}
			_ = db.Close()

			return remove()
		})

		return err
	})
	if err != nil {
		t.Unknownf("open a store: %v", err)
	}

	return st
}

// relayed is an outbox of the fact's own, whose messages are relayed to the broker
// until stop is called.
func (t *Trial) relayed() (outbox *forwarder.Outbox, stop func()) {
	st := t.Store()
	outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{})
	if err != nil {
		t.Unknownf("make an outbox: %v", err)
	}
	to := map[string]message.Publisher{forwarder.DefaultDestination: t.Publisher()}
	relay, err := forwarder.New(st, to, forwarder.Config{})
	if err != nil {
		t.Unknownf("make a forwarder: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(t.ctx) }()

	return outbox, func() {
		if err := errors.Join(relay.Close(), <-ended); err != nil {
			t.Notef("stop the relay: %v", err)
		}
	}
}

// deduped runs handlers behind Dedupe, as a router would.
func (t *Trial) deduped(st *store.Store) func(handle func(ctx context.Context) error) func(d *Delivery) error {
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{
		Consumer: "conformance", RedeliveryWindow: t.Capabilities.RedeliveryWindow, AllowShortWindow: true,
	})
	if err != nil {
		t.Unknownf("make a Dedupe: %v", err)
	}

	return func(handle func(ctx context.Context) error) func(d *Delivery) error {
		handler := dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			return nil, handle(msg.Context())
		})

		return func(d *Delivery) error {
			_, err := handler(d.Message)

			return err
		}
	}
}
