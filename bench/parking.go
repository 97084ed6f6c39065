package main

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func parkingIdleCost() comparison {
	return comparison{
		name: "parking-idle-cost",
		what: "Transactions a second of dedupe-vs-bare's handler behind Parking and Dedupe with nothing parked, against Dedupe alone",
		unit: "x", rounds: 5, op: ">=", bar: 0.85,
		ours:   side{"with Parking", "transactions/s", withParking},
		theirs: side{"Dedupe alone", "transactions/s", withDedupe},
	}
}

func withParking(ctx context.Context, env servers) (float64, error) {
	return onPool(ctx, env, func(pool *pgxpool.Pool) (func(ctx context.Context, row int) error, func(), error) {
		g, err := guard(ctx, pool, &middleware.ParkingConfig{})
		if err != nil {
			return nil, nil, err
		}
		return g.handle, g.close, nil
	})
}

const lined = 10_000

func parkingDrain() comparison {
	return comparison{
		name: "parking-drain",
		what: "Messages a second of draining 10,000 that have lined up behind one that was parked, through parking.Subscriber, " +
			"against handling as many new ones of one key one after another; the handler of parking-idle-cost",
		unit: "x", rounds: 3, op: ">=", bar: 0.5,
		ours:   side{"drained", "messages/s", drained},
		theirs: side{"direct", "messages/s", direct},
	}
}

// direct handles messages of one key, one after another.
func direct(ctx context.Context, env servers) (float64, error) {
	return inSchema(ctx, env, func(pool *pgxpool.Pool) (float64, error) {
		g, err := guard(ctx, pool, &middleware.ParkingConfig{})
		if err != nil {
			return 0, err
		}
		defer g.close()
		began := time.Now()
		for range lined {
			if err := g.handle(ctx, 1); err != nil {
				return 0, err
			}
		}
		return lined / time.Since(began).Seconds(), nil
	})
}

// drained parks one message, has the others line up, and lets them go.
func drained(ctx context.Context, env servers) (float64, error) {
	return inSchema(ctx, env, func(pool *pgxpool.Pool) (float64, error) {
		g, err := guard(ctx, pool, &middleware.ParkingConfig{Delays: []time.Duration{}})
		if err != nil {
			return 0, err
		}
		defer g.close()
		if err := g.lineUp(ctx); err != nil {
			return 0, err
		}
		sub, err := parking.NewSubscriber(g.store, nil, parking.SubscriberConfig{Consumer: benchConsumer})
		if err != nil {
			return 0, err
		}
		defer func() { _ = sub.Close() }()
		messages, err := sub.Subscribe(ctx, "bench")
		if err != nil {
			return 0, err
		}
		began := time.Now()
		err = g.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			_, err := g.store.ReleaseParked(ctx, tx, 1, store.Release{By: "bench"})
			return err
		})
		if err != nil {
			return 0, err
		}
		for range lined {
			msg := <-messages
			if _, err := g.handler(msg); err != nil {
				return 0, err
			}
			msg.Ack()
		}
		return lined / time.Since(began).Seconds(), nil
	})
}

// lineUp parks the first message, which its payload is the reason for, and the rest
// behind it. It is mended then.
func (g *guarded) lineUp(ctx context.Context) error {
	send := func(ctx context.Context, payload string) error {
		msg := message.NewMessageWithContext(ctx, watermill.NewUUID(), []byte(payload))
		msgmeta.SetKey(msg, "1")
		_, err := g.handler(msg)
		return err
	}
	if err := send(ctx, "no number"); err != nil {
		return err
	}
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(dedupeWorkers)
	for range lined - 1 {
		group.Go(func() error { return send(sending, "1") })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	mended := []byte("1")
	return g.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := g.store.EditParked(ctx, tx, 1, store.Edit{Payload: &mended})
		return err
	})
}
