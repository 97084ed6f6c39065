package conformance

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

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
