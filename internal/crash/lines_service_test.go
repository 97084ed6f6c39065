package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// warehouse is a service whose handler fails as often as a change says, behind
// Parking.
type warehouse struct {
	Database, Broker, Topic string
	// Unheld: no message waits behind another one that was put aside.
	Unheld bool
}

const (
	recount = "recount"
	// failsBelow is the part of a change's quantity that says how often it fails.
	failsBelow = 10
)

// serve runs the service until the context ends, and returns nil then.
func (w warehouse) serve(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) error {
	on := ground{Database: w.Database, Broker: w.Broker, Group: recount}
	return on.with(ctx, logger, func(st *store.Store, broker *brokers.Broker) error {
		router, err := w.router(st, broker, logger) //nolint:contextcheck // handlers have their messages' contexts
		if err != nil {
			return err
		}
		return runParts(ctx, watch, routing(router))
	})
}

func (w warehouse) router(st *store.Store, broker *brokers.Broker, logger watermill.LoggerAdapter) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, logger)
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(traced)
	aside := middleware.ParkingConfig{
		Service: "shop", Logger: logger, Immediate: middleware.Immediate{Tries: -1},
		Delays: []time.Duration{10 * time.Millisecond, 50 * time.Millisecond},
	}
	if w.Unheld {
		aside.Key = func(*message.Message) (string, error) { return "", keys.ErrNoKey }
	}
	park, err := middleware.NewParking(st, aside)
	if err != nil {
		return nil, err
	}
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Service: "shop", Logger: logger})
	if err != nil {
		return nil, err
	}
	wrapped, err := parking.NewSubscriber(st, broker.Subscriber, parking.SubscriberConfig{
		Consumer: "shop." + recount, ClaimTTL: time.Second, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	db := store.JoinDBX(st)
	handler := router.AddConsumerHandler(recount, w.Topic, wrapped, func(msg *message.Message) error {
		var change stockChanged
		if err := json.Unmarshal(msg.Payload, &change); err != nil {
			return err
		}
		_, err := db.ExecContext(msg.Context(), db.Rebind("INSERT INTO counted (change_id, product, quantity) VALUES (?, ?, ?)"),
			change.Change, change.Product, change.Quantity)
		if err != nil {
			return err
		}
		attempt := int64(1)
		if ticket := parking.TicketFrom(msg.Context()); ticket != nil {
			attempt += int64(ticket.Row().Attempts)
		}
		if fails := change.Quantity % failsBelow; attempt <= fails {
			return fmt.Errorf("%w: attempt %d of %d that fail", errUseCase, attempt, fails)
		}
		return nil
	})
	handler.AddMiddleware(park.Middleware, dedupe.Middleware)
	return router, nil
}
