package handlertest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/handlertest"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// Handlers with the faults that Headrace can't take away, each with the shortest
// story that shows it.

func finds(t *testing.T, c handlertest.Case, steps ...string) {
	t.Helper()
	report := explore(t, c)
	found := report.Protected.Counterexample
	require.NotNil(t, found)
	require.Equal(t, steps, found.Steps)
	require.True(t, found.Repeated)

	c.Replay = found.Replay
	again := explore(t, c).Protected.Counterexample
	require.NotNil(t, again, "the code replays it")
	require.Equal(t, steps, again.Steps)
}

// notes takes the order's piece and writes it down, as a handler should.
func notes(ctx context.Context, db *sql.DB, msg *message.Message) error {
	if _, err := db.ExecContext(ctx, take); err != nil {
		return err
	}
	_, err := db.ExecContext(ctx, write(msg))
	return err
}

func TestAPublishPastTheOutboxIsFound(t *testing.T) {
	t.Parallel()
	finds(t, shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if err := app.BarePublisher.Publish(reserved, say(msg)); err != nil {
				return err
			}
			return notes(msg.Context(), app.DB, msg)
		}
	}),
		`m1 is delivered; the process stops after the publish to "reserved", before the ack`,
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: order o1 was announced 2 times, want once",
	)
}

func TestAnEffectAfterTheCommitIsFound(t *testing.T) {
	t.Parallel()
	finds(t, shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if err := notes(msg.Context(), app.DB, msg); err != nil {
				return err
			}
			err := store.AfterCommit(msg.Context(), func() { _ = app.BarePublisher.Publish(reserved, say(msg)) })
			if errors.Is(err, store.ErrNoUnit) {
				return app.BarePublisher.Publish(reserved, say(msg))
			}
			return err
		}
	}),
		"m1 is delivered; the process stops after the commit, before the ack",
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: order o1 was announced 0 times, want once",
	)
}

func TestACallToTheOutsideIsFound(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	parcels := map[string]int{}
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if err := notes(msg.Context(), app.DB, msg); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			parcels[string(msg.Payload)]++
			return nil
		}
	})
	c.Setup = func(ctx context.Context, db *sql.DB) error {
		clear(parcels)
		return setup(ctx, db)
	}
	c.Invariant = func(ctx context.Context, s handlertest.State) error {
		if parcels["o1"] > 1 {
			return fmt.Errorf("%d parcels of order o1", parcels["o1"])
		}
		return right(ctx, s)
	}
	finds(t, c,
		"m1 is delivered; the process stops after statement 2 (INSERT INTO orders VALUES ('o1', 'wheel')), before the ack",
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: 2 parcels of order o1",
	)
}

func TestMemoryThatDiesWithItsProcessIsFound(t *testing.T) {
	t.Parallel()
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		number := 0
		return func(msg *message.Message) error {
			number++
			_, err := app.DB.ExecContext(msg.Context(), fmt.Sprintf("INSERT INTO orders VALUES ('no-%d', 'wheel')", number))
			return err
		}
	})
	c.Invariant = func(ctx context.Context, s handlertest.State) error {
		var numbers int
		err := s.DB.QueryRowContext(ctx, "SELECT count(DISTINCT id) FROM orders").Scan(&numbers)
		if err == nil && numbers != len(s.Sent) {
			err = fmt.Errorf("%d orders have %d numbers", len(s.Sent), numbers)
		}
		return err
	}
	finds(t, c,
		"m1 is delivered; the process stops when the handler is done, before the ack",
		"m1 is delivered again; it is handled and acked",
		"m2 is delivered; it is handled and acked",
		"the invariant is broken: 2 orders have 1 numbers",
	)
}

func TestAnErrorThatIsSwallowedIsFound(t *testing.T) {
	t.Parallel()
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			_, _ = app.DB.ExecContext(msg.Context(), take)
			_, err := app.DB.ExecContext(msg.Context(), write(msg))
			return err
		}
	})
	c.Invariant = right
	finds(t, c,
		"m1 is delivered; statement 1 ("+take+") fails; it is handled and acked",
		"the invariant is broken: stock is 10, want 9",
	)
}

func TestTheLastOneWinsIsFoundWhereNothingIsOrdered(t *testing.T) {
	t.Parallel()
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			_, err := app.DB.ExecContext(msg.Context(), fmt.Sprintf("UPDATE stock SET product = '%s'", msg.Payload))
			return err
		}
	})
	c.Invariant = func(ctx context.Context, s handlertest.State) error {
		var last string
		err := s.DB.QueryRowContext(ctx, "SELECT product FROM stock").Scan(&last)
		if want := string(s.Sent[len(s.Sent)-1].Payload); err == nil && last != want {
			err = fmt.Errorf("it is %s, want %s", last, want)
		}
		return err
	}
	t.Run("ordered", func(t *testing.T) {
		t.Parallel()
		c := c
		c.Runs = 60
		require.Nil(t, explore(t, c).Protected.Counterexample)
	})
	t.Run("unordered", func(t *testing.T) {
		t.Parallel()
		c := c
		c.Order = handlertest.Unordered
		finds(t, c,
			"m2 is delivered; it is handled and acked",
			"m1 is delivered; it is handled and acked",
			"the invariant is broken: it is o1, want o2",
		)
	})
}

func TestAHandlerThatNeverSucceedsIsFound(t *testing.T) {
	t.Parallel()
	c := shop(func(handlertest.App) message.NoPublishHandlerFunc {
		return func(*message.Message) error { return errors.New("out of wheels") }
	})
	finds(t, c,
		"m1 is delivered; the handler fails: out of wheels",
		"m1 is delivered again; the handler fails: out of wheels",
		"m1 is delivered again; the handler fails: out of wheels",
		"m1 is never handled: out of wheels",
	)
}

// forgetful loses the message's context on the way to the order's row.
func forgetful(app handlertest.App) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		if _, err := app.DB.ExecContext(context.Background(), write(msg)); err != nil {
			return err
		}
		_, err := app.DB.ExecContext(msg.Context(), take)
		return err
	}
}

func TestAStatementWithoutTheMessagesContextIsFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("Postgres: SQLite has one writer, and doesn't let it in (see below)")
	}
	c := shop(forgetful)
	c.Invariant = right
	c.DB = testenv.Open(t, testenv.Postgres(t))
	finds(t, c,
		"m1 is delivered; the process stops after the commit of statement 1, before the ack",
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: 1 orders are written 2 times, want 1 once",
	)
}

func TestAStatementWithoutTheMessagesContextIsExplainedOnSQLite(t *testing.T) {
	t.Parallel()
	c := shop(forgetful)
	c.Invariant = right
	c.Store.ConnTimeout = 100 * time.Millisecond
	found := explore(t, c).Protected.Counterexample
	require.NotNil(t, found)
	require.ErrorContains(t, found.Broken, "msg.Context()")
}

func TestALostUpdateIsFound(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("Postgres: on SQLite a unit of work is the only writer from its begin")
	}
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			var pieces int
			if err := app.DB.QueryRowContext(msg.Context(), "SELECT pieces FROM stock").Scan(&pieces); err != nil {
				return err
			}
			_, err := app.DB.ExecContext(msg.Context(), fmt.Sprintf("UPDATE stock SET pieces = %d", pieces-1))
			if err != nil {
				return err
			}
			_, err = app.DB.ExecContext(msg.Context(), write(msg))
			return err
		}
	})
	c.Invariant, c.Order = right, handlertest.Unordered
	c.DB = testenv.Open(t, testenv.Postgres(t))
	finds(t, c,
		"m1 is delivered; after statement 1 (SELECT pieces FROM stock), meanwhile:",
		"m2 is delivered to the second instance; it is handled and acked",
		"the first instance goes on with m1; it is handled and acked",
		"the invariant is broken: stock is 9, want 8",
	)
}
