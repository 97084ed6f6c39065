package crash_test

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// payments is a service that charges for each change, and then writes the receipt.
type payments struct {
	Database, Broker, Topic, Bank string
	// Provider is what the service believes of the bank.
	Provider providerKind
}

// providerKind is how it can be known what became of a call.
type providerKind string

const (
	withKeys   providerKind = "keys"
	withLookUp providerKind = "look-up"
	withNone   providerKind = "none"
	// naive calls in the handler, within its transaction, as if that could be rolled
	// back.
	naive providerKind = "naive"
)

const (
	pay        = "pay"
	scope      = "charge"
	callBounds = 3 * time.Second
)

func (p payments) provider() effects.Provider {
	provider := effects.Provider{Name: "bank", Timeout: callBounds}
	switch p.Provider {
	case withKeys:
		provider.Keys = true
	case withLookUp:
		provider.Lookup = asking(p.Bank)
	case withNone, naive:
	}
	return provider
}

// serve runs the service until the context ends, and returns nil then.
func (p payments) serve(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) error {
	on := ground{Database: p.Database, Broker: p.Broker, Group: pay}
	return on.with(ctx, logger, func(st *store.Store, broker *brokers.Broker) error {
		router, err := p.router(st, broker, logger) //nolint:contextcheck // handlers have their messages' contexts
		if err != nil {
			return err
		}
		return runParts(ctx, watch, routing(router))
	})
}

func (p payments) router(st *store.Store, broker *brokers.Broker, logger watermill.LoggerAdapter) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, logger)
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(traced)
	client, err := effects.New(st, effects.Config{
		Service: "shop", Provider: p.provider(), ClaimTTL: callBounds + 10*time.Second, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Service: "shop", Logger: logger})
	if err != nil {
		return nil, err
	}
	charge := charging(p.Bank)
	db := store.JoinDBX(st)
	handler := router.AddConsumerHandler(pay, p.Topic, broker.Subscriber, func(msg *message.Message) error {
		receipt, called := effects.ResultOf(msg.Context(), scope)
		if !called {
			var err error
			if receipt, err = charge(msg.Context(), msg.UUID, msg.Payload); err != nil {
				return err
			}
		}
		_, err := db.ExecContext(msg.Context(), db.Rebind("INSERT INTO payments (change_id, receipt) VALUES (?, ?)"),
			msg.UUID, string(receipt.Body))
		return err
	})
	if p.Provider != naive {
		handler.AddMiddleware(client.Stage(scope, func(ctx context.Context, msg *message.Message) (effects.Response, error) {
			return client.Do(ctx, scope, msg.UUID, msg.Payload, charge)
		}))
	}
	handler.AddMiddleware(dedupe.Middleware)
	return router, nil
}
