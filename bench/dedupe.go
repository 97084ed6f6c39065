package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace-go/headrace/bench/relay"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

const (
	dedupeWorkers = 16
	dedupeFor     = 4 * time.Second
	// dedupeRows is how many rows each worker walks through, so that no two
	// transactions meet at a row.
	dedupeRows = 1000
)

func dedupeVersusBare() comparison {
	return comparison{
		name: "dedupe-vs-bare",
		what: "Transactions a second of BEGIN, Dedupe, one UPDATE on distinct rows, COMMIT, against the same without " +
			"Dedupe: no router, pgx, 16 at once on a pool of 16 whose connections have a lock_timeout (without it, Headrace " +
			"sets one in each transaction, which costs some 0.04), Postgres with fsync",
		unit: "x", rounds: 7, op: ">=", bar: 0.70,
		ours:   side{"with Dedupe", "transactions/s", withDedupe},
		theirs: side{"bare pgx", "transactions/s", bare},
	}
}

// bare is what a handler's transaction costs without Headrace.
func bare(ctx context.Context, env servers) (float64, error) {
	return onPool(ctx, env, func(pool *pgxpool.Pool) (func(ctx context.Context, row int) error, func(), error) {
		return func(ctx context.Context, row int) error {
			tx, err := pool.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "UPDATE bench_rows SET n = n + 1 WHERE id = $1", row); err != nil {
				return errors.Join(err, tx.Rollback(ctx))
			}
			return tx.Commit(ctx)
		}, func() {}, nil
	})
}

// withDedupe runs the same UPDATE in a handler under Dedupe.
func withDedupe(ctx context.Context, env servers) (float64, error) {
	return onPool(ctx, env, func(pool *pgxpool.Pool) (func(ctx context.Context, row int) error, func(), error) {
		g, err := guard(ctx, pool, nil)
		if err != nil {
			return nil, nil, err
		}
		return g.handle, g.close, nil
	})
}

const benchConsumer = "bench.update"

// guarded is a handler that updates one row, behind Dedupe and perhaps Parking.
type guarded struct {
	store   *store.Store
	handler message.HandlerFunc
}

func guard(ctx context.Context, pool *pgxpool.Pool, park *middleware.ParkingConfig) (*guarded, error) {
	st, err := pgxstore.Open(ctx, pool, store.Config{Migrate: true})
	if err != nil {
		return nil, err
	}
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: benchConsumer})
	if err != nil {
		return nil, err
	}
	g := &guarded{store: st, handler: dedupe.Middleware(updateRow)}
	if park != nil {
		park.Consumer = benchConsumer
		parking, err := middleware.NewParking(st, *park)
		if err != nil {
			return nil, err
		}
		g.handler = parking.Middleware(g.handler)
	}
	return g, nil
}

// updateRow is the handler; the message's payload is the row's number.
func updateRow(msg *message.Message) ([]*message.Message, error) {
	ctx := msg.Context()
	tx, ok := pgxstore.Tx(ctx)
	if !ok {
		return nil, errors.New("no transaction in the message's context")
	}
	row, err := strconv.Atoi(string(msg.Payload))
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "UPDATE bench_rows SET n = n + 1 WHERE id = $1", row)
	return nil, err
}

// handle has a new message handled, whose key is its row.
func (g *guarded) handle(ctx context.Context, row int) error {
	number := strconv.Itoa(row)
	msg := message.NewMessageWithContext(ctx, watermill.NewUUID(), []byte(number))
	msgmeta.SetKey(msg, number)
	_, err := g.handler(msg)
	return err
}

func (g *guarded) close() { _ = g.store.Close() }

type setupTransaction func(pool *pgxpool.Pool) (transaction func(ctx context.Context, row int) error, done func(), err error)

// onPool runs transactions for a fixed time in a schema of their own.
func onPool(ctx context.Context, env servers, setup setupTransaction) (perSecond float64, err error) {
	return inSchema(ctx, env, func(pool *pgxpool.Pool) (float64, error) {
		transaction, done, err := setup(pool)
		if err != nil {
			return 0, err
		}
		defer done()
		return hammer(ctx, transaction)
	})
}

// inSchema measures on a pool with a schema of its own, which has the rows.
func inSchema(ctx context.Context, env servers, measure func(pool *pgxpool.Pool) (float64, error)) (float64, error) {
	setting := relaySetting(env)
	schema := relay.NewSchemaName()
	if err := setting.CreateSchema(ctx, schema); err != nil {
		return 0, err
	}
	defer setting.DropSchema(context.WithoutCancel(ctx), schema)
	config, err := pgxpool.ParseConfig(setting.SchemaURL(schema))
	if err != nil {
		return 0, err
	}
	config.MaxConns, config.MinConns = dedupeWorkers, dedupeWorkers
	// Connections that bound their waits for locks spare each transaction a statement
	// that does (store.Config.LockTimeout).
	config.ConnConfig.RuntimeParams["lock_timeout"] = "5000"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	// HOT updates, as a well-kept table has them.
	_, err = pool.Exec(ctx, "CREATE TABLE bench_rows (id int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 50)")
	if err == nil {
		_, err = pool.Exec(ctx, "INSERT INTO bench_rows SELECT i, 0 FROM generate_series(0, $1) i", dedupeWorkers*dedupeRows)
	}
	if err != nil {
		return 0, err
	}
	return measure(pool)
}

// hammer counts the transactions after a short warm-up.
func hammer(ctx context.Context, transaction func(ctx context.Context, row int) error) (perSecond float64, err error) {
	const warmUp = 500 * time.Millisecond
	var (
		count  atomic.Int64
		failed atomic.Pointer[error]
		wg     sync.WaitGroup
	)
	began := time.Now()
	for worker := range dedupeWorkers {
		wg.Go(func() {
			for i := 0; time.Since(began) < warmUp+dedupeFor && failed.Load() == nil; i++ {
				if err := transaction(ctx, worker*dedupeRows+i%dedupeRows); err != nil {
					failed.Store(&err)
					return
				}
				if time.Since(began) > warmUp {
					count.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, fmt.Errorf("transaction failed: %w", *err)
	}
	return float64(count.Load()) / dedupeFor.Seconds(), nil
}
