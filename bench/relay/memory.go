package relay

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Backlog fills the outbox of a new schema with n rows.
func (s Setting) Backlog(ctx context.Context, schema string, n int) error {
	return s.prepare(ctx, schema, func(db *sql.DB) error {
		return inChunks(n, func(first, last int) error {
			_, err := db.ExecContext(ctx, `INSERT INTO headrace_outbox
				(partition_no, message_id, destination, topic, message_key, payload)
				SELECT i % 100 % $1, gen_random_uuid()::text, $2, $3, 'key-' || i % 100, (
					SELECT decode(string_agg(md5(random()::text || i || j), ''), 'hex') FROM generate_series(1, 16) j)
				FROM generate_series($4::int, $5::int) i`,
				store.OutboxPartitions, forwarder.DefaultDestination, "memory-"+schema, first, last)
			return err
		})
	})
}

// Seen fills the inbox of a new schema with n messages from long ago.
func (s Setting) Seen(ctx context.Context, schema string, n int) error {
	return s.prepare(ctx, schema, func(db *sql.DB) error {
		return inChunks(n, func(first, last int) error {
			_, err := db.ExecContext(ctx, `INSERT INTO headrace_inbox (consumer, message_id, verdict, processed_at)
				SELECT $1, gen_random_uuid()::text, 'applied', now() - interval '30 days'
				FROM generate_series($2::int, $3::int) i`, purged, first, last)
			return err
		})
	})
}

// inChunks keeps transactions short: whoever reads in the order of commits on the
// same server waits for the longest.
func inChunks(n int, insert func(first, last int) error) error {
	const chunk = 20_000
	for first := 1; first <= n; first += chunk {
		if err := insert(first, min(first+chunk-1, n)); err != nil {
			return err
		}
	}
	return nil
}

const purged = "bench.purged"

func (s Setting) prepare(ctx context.Context, schema string, fill func(db *sql.DB) error) error {
	db, err := s.open(ctx, schema)
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Postgres, Migrate: true})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	err = fill(db)
	if err == nil {
		_, err = db.ExecContext(ctx, "VACUUM ANALYZE headrace_outbox, headrace_inbox")
	}
	return errors.Join(err, st.Close(), db.Close())
}

// RelayAll relays everything in the schema's outbox to Kafka.
func (s Setting) RelayAll(ctx context.Context, schema string) error {
	return s.in(ctx, schema, func(db *sql.DB, st *store.Store) error {
		var n int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM headrace_outbox").Scan(&n); err != nil {
			return err
		}
		publisher, done, err := s.publisher(n)
		if err != nil {
			return err
		}
		f, err := forwarder.New(st, map[string]message.Publisher{forwarder.DefaultDestination: publisher}, forwarder.Config{})
		if err != nil {
			return err
		}
		_, err = timed(ctx, n, done, f.Run, func(ctx context.Context) error {
			return eventuallyEmpty(ctx, db, "headrace_outbox")
		}, publisher.Close)
		return err
	})
}

// PurgeAll purges everything in the schema's inbox.
func (s Setting) PurgeAll(ctx context.Context, schema string) error {
	return s.in(ctx, schema, func(db *sql.DB, st *store.Store) error {
		purge, err := middleware.NewPurge(st, middleware.PurgeConfig{
			Consumers: []string{purged}, Pause: time.Millisecond,
		})
		if err != nil {
			return err
		}
		purge.PurgeNow(ctx)
		var left int
		if err := db.QueryRowContext(ctx, "SELECT count(*) FROM headrace_inbox").Scan(&left); err != nil {
			return err
		}
		if left > 0 {
			return fmt.Errorf("purge left %d rows", left)
		}
		return nil
	})
}

func (s Setting) in(ctx context.Context, schema string, f func(db *sql.DB, st *store.Store) error) error {
	db, err := sql.Open("pgx", s.SchemaURL(schema))
	if err != nil {
		return err
	}
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Postgres})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	return errors.Join(f(db, st), st.Close(), db.Close())
}
