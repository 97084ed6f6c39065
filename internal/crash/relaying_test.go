package crash_test

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/store"
)

// relaying is a process that only relays, to a broker that refuses some messages.
type relaying struct {
	Database, Broker string
	// Dropping relays say that a message was sent that the broker has refused.
	Dropping bool
}

// Moments within transactions.
const (
	// parkCommitting is before the commit that parks a message.
	parkCommitting = "relay.park-committing"
	// doneCommitting is before a commit behind a publish: the one that removes a message
	// that was released, if there is one.
	doneCommitting = "relay.done-committing"
)

// serve relays until the context ends, and returns nil then.
func (r relaying) serve(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) error {
	on := ground{Database: r.Database, Broker: r.Broker}
	return on.with(ctx, logger, func(st *store.Store, broker *brokers.Broker) error {
		publisher := broker.Publisher
		if r.Dropping {
			publisher = droppingPublisher{publisher}
		}
		f, err := forwarder.New(st, map[string]message.Publisher{forwarder.DefaultDestination: publisher}, forwarder.Config{
			LeaseTTL: leaseTTL, Logger: logger, RetryBackoff: tick, MaxRetryBackoff: 10 * tick, RescanInterval: 10 * tick,
		})
		if err != nil {
			return err
		}
		return runParts(ctx, watch, part{relay, func(ctx context.Context) error { return f.Run(commits(ctx)) }, f.Running})
	})
}

// commits returns a context with the steps parkCommitting and doneCommitting.
func commits(ctx context.Context) context.Context {
	var parking, confirming atomic.Bool
	return step.With(ctx, func(inner context.Context, name string) {
		reach := func(name string) {
			step.Reach(context.WithValue(ctx, partKey{}, whoIn(inner)), name)
		}
		reach(name)
		switch name {
		case step.RelayBeforePark:
			parking.Store(true)
		case step.RelayBeforeConfirm:
			confirming.Store(true)
		case step.TxBeforeCommit:
			if parking.Swap(false) {
				reach(parkCommitting)
			}
			if confirming.Swap(false) {
				reach(doneCommitting)
			}
		}
	})
}

// droppingPublisher is a relay's that gives up what can't be sent.
type droppingPublisher struct{ message.Publisher }

func (p droppingPublisher) Publish(topic string, msgs ...*message.Message) error {
	err := p.Publisher.Publish(topic, msgs...)
	if refused := (*brokers.RefusedError)(nil); errors.As(err, &refused) {
		return nil
	}
	return err
}
