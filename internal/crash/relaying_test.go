package crash_test

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/dburl"
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
func (r relaying) serve(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) (err error) {
	database, err := dburl.Parse(r.Database)
	if err != nil {
		return err
	}
	db, err := database.ForService().Connect(ctx, connectTimeout)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(maxConnections)
	defer func() { err = errors.Join(err, db.Close()) }()
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(database.Dialect), Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	broker, err := brokers.Open(ctx, r.Broker, brokers.Config{Openers: all.Openers(), Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
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
	go func() {
		select {
		case <-f.Running():
			watch.up()
		case <-ctx.Done():
		}
	}()
	return f.Run(commits(context.WithValue(ctx, partKey{}, relay)))
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
