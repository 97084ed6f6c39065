package handlertest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/handlertest"
	"github.com/headrace-go/headrace/internal/testenv"
)

// Every handler here is right behind Headrace, in each of the ways in which
// handlers use a database and publish.
func TestARightHandlerPasses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]handlertest.Case{
		"plain":     shop(plain),
		"own tx":    shop(ownTx),
		"returning": returning(),
		"prepared":  shop(prepared),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kinds := testenv.Databases(t)
			if name == "returning" || name == "prepared" {
				kinds = []string{"sqlite"}
			}
			for _, kind := range kinds {
				t.Run(kind, func(t *testing.T) {
					t.Parallel()
					c := c
					c.Runs, c.Within = 60, 2*time.Minute
					if kind != "sqlite" {
						c.DB = testenv.Open(t, testenv.Database(t, kind))
					}
					report := explore(t, c)
					require.Nil(t, report.Protected.Counterexample)
					require.Equal(t, report.Protected.Of[1], report.Protected.Runs[1], "all sequences with one fault")
					require.NotNil(t, report.Naked.Counterexample)
				})
			}
		})
	}
}

// ownTx has a transaction of its own, and publishes when that is committed.
func ownTx(app handlertest.App) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		tx, err := app.DB.BeginTx(msg.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		if _, err := tx.ExecContext(msg.Context(), take); err != nil {
			return err
		}
		if _, err := tx.ExecContext(msg.Context(), write(msg)); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		return app.Publisher.Publish(reserved, say(msg))
	}
}

// prepared has its statements prepared when it is made.
func prepared(app handlertest.App) message.NoPublishHandlerFunc {
	stmt, broken := app.DB.PrepareContext(context.Background(), take)
	return func(msg *message.Message) error {
		if broken != nil {
			return broken
		}
		if _, err := stmt.ExecContext(msg.Context()); err != nil {
			return err
		}
		if _, err := app.DB.ExecContext(msg.Context(), write(msg)); err != nil {
			return err
		}
		return app.Publisher.Publish(reserved, say(msg))
	}
}

func returning() handlertest.Case {
	c := shop(nil)
	c.ReturnTopic = reserved
	c.Returning = func(app handlertest.App) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			return []*message.Message{say(msg)}, notes(msg.Context(), app.DB, msg)
		}
	}
	return c
}

// guarded remembers its messages itself, as careful handlers do: only the crash
// between its commit and its publish is beyond it.
func guarded(app handlertest.App) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		tx, err := app.DB.BeginTx(msg.Context(), nil)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		res, err := tx.ExecContext(msg.Context(), "INSERT OR IGNORE INTO seen VALUES ('"+string(msg.Payload)+"')")
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); n == 0 || err != nil {
			return err
		}
		if _, err := tx.ExecContext(msg.Context(), take); err != nil {
			return err
		}
		if _, err := tx.ExecContext(msg.Context(), write(msg)); err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		return app.Publisher.Publish(reserved, say(msg))
	}
}

func guardedCase() handlertest.Case {
	c := shop(guarded)
	c.Schema = append(c.Schema[:len(c.Schema):len(c.Schema)], "CREATE TABLE seen (id VARCHAR(20) PRIMARY KEY)")
	c.Order = handlertest.Unordered
	return c
}

func TestTheCrashBetweenCommitAndPublishIsFoundWithoutHeadrace(t *testing.T) {
	t.Parallel()
	c := guardedCase()
	c.Runs = 100
	report := explore(t, c)
	require.Nil(t, report.Protected.Counterexample)
	require.Equal(t, []string{
		"m1 is delivered; the process stops after the commit, before the ack",
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: order o1 was announced 0 times, want once",
	}, report.Naked.Counterexample.Steps)
}

// recorded is a test that Run may fail.
type recorded struct {
	testing.TB

	failed bool
	output strings.Builder
}

func (r *recorded) Helper() {}

func (r *recorded) Log(args ...any) { fmt.Fprintln(&r.output, args...) }

func (r *recorded) Logf(format string, args ...any) { fmt.Fprintf(&r.output, format+"\n", args...) }

func (r *recorded) Error(args ...any) { r.failed = true; r.Log(args...) }

func (r *recorded) Errorf(format string, args ...any) { r.failed = true; r.Logf(format, args...) }

func (r *recorded) Fatal(args ...any) { r.Error(args...) }

func TestRunFailsWithTheStoryAndItsCode(t *testing.T) {
	t.Parallel()
	rec := &recorded{TB: t}
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if err := app.BarePublisher.Publish(reserved, say(msg)); err != nil {
				return err
			}
			return notes(msg.Context(), app.DB, msg)
		}
	})
	handlertest.Run(rec, c)
	require.True(t, rec.failed)
	for _, want := range []string{
		"without Headrace this breaks:", "with Headrace this breaks",
		`1. m1 is delivered; the process stops after the publish to "reserved", before the ack`,
		"3. the invariant is broken: order o1 was announced 2 times", `Replay: "with 1 3=crash"`, `m1 is message "order-1"`,
	} {
		require.Contains(t, rec.output.String(), want)
	}
}

func TestAnInvariantThatCannotFailIsFound(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Runs, c.MustBreak = 10, true
	rec := &recorded{TB: t}
	handlertest.Run(rec, c)
	require.False(t, rec.failed, rec.output.String())

	c.Invariant = func(context.Context, handlertest.State) error { return nil }
	handlertest.Run(rec, c)
	require.True(t, rec.failed)
	require.Contains(t, rec.output.String(), "MustBreak")
}

func TestAReplayOfAMendedHandlerPasses(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Replay, c.MustBreak = "with 1", true
	rec := &recorded{TB: t}
	handlertest.Run(rec, c)
	require.False(t, rec.failed, rec.output.String())
	require.Contains(t, rec.output.String(), `the sequence "with 1" breaks nothing`)

	c.Invariant = func(context.Context, handlertest.State) error { return errors.New("never right") }
	handlertest.Run(rec, c)
	require.True(t, rec.failed)
	require.Contains(t, rec.output.String(), "with Headrace this breaks:\n")
}

func TestWhatAlwaysHoldsIsAskedInTheMiddle(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Always = func(ctx context.Context, s handlertest.State) error {
		var pieces, written int
		err := s.DB.QueryRowContext(ctx, "SELECT (SELECT pieces FROM stock), (SELECT count(*) FROM orders)").
			Scan(&pieces, &written)
		if err == nil && pieces+written != full {
			err = fmt.Errorf("%d pieces and %d orders", pieces, written)
		}
		return err
	}
	c.Runs = 20
	report := explore(t, c)
	require.Nil(t, report.Protected.Counterexample)
	require.Equal(t, []string{
		"m1 is delivered",
		"the invariant that always holds is broken: 9 pieces and 0 orders",
	}, report.Naked.Counterexample.Steps)
}

// A lock that is none of the database's can't be seen from outside: the instance
// that waits for it is left alone until the other one has let go.
func TestInstancesThatShareALockAreNotStuck(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		h := plain(app)
		return func(msg *message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			return h(msg)
		}
	})
	c.Messages, c.Runs = orders(1), 9
	require.Nil(t, explore(t, c).Protected.Counterexample)
}

func TestWhatBreaksOnlyOnceIsSaidToBe(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	asked := 0
	c.Invariant = func(context.Context, handlertest.State) error {
		if asked++; asked == 5 {
			return errors.New("for the fifth time")
		}
		return nil
	}
	found := explore(t, c).Naked.Counterexample
	require.False(t, found.Repeated)
	require.Contains(t, found.String(), "did not break when it was run again")
}

func TestACodeThatNoLongerFitsIsSaidTo(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Replay = "with 1 40=crash"
	_, err := handlertest.Explore(t.Context(), c, nil)
	require.ErrorContains(t, err, "no longer fits")
}

func TestTheSearchEndsInTime(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Within = time.Nanosecond
	report := explore(t, c)
	require.Equal(t, []int{1}, report.Protected.Runs)
	require.Equal(t, []int{2}, report.Protected.Of)
}

func TestAPanicIsAFailureAndNothingMore(t *testing.T) {
	t.Parallel()
	panics := true
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		h := plain(app)
		return func(msg *message.Message) error {
			err := h(msg)
			if panics = !panics; panics {
				panic("every second time")
			}
			return err
		}
	})
	c.Setup = func(ctx context.Context, db *sql.DB) error {
		panics = false
		return setup(ctx, db)
	}
	c.Runs = 20
	require.Nil(t, explore(t, c).Protected.Counterexample)
}

func TestTablesThatHadRowsAreLeftAlone(t *testing.T) {
	t.Parallel()
	db := testenv.Open(t, testenv.SQLite(t))
	ctx := t.Context()
	for _, statement := range append(schema[:len(schema):len(schema)],
		"CREATE TABLE precious (id BIGINT)", "INSERT INTO precious VALUES (1)") {
		_, err := db.ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	c := shop(plain)
	c.DB, c.Schema, c.Runs = db, nil, 10
	explore(t, c)
	var precious, left int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM precious), (SELECT count(*) FROM stock)").
		Scan(&precious, &left))
	require.Equal(t, 1, precious)
	require.Zero(t, left, "the last run's rows would be taken for precious by the next case")
}

func TestBadInputIsRefused(t *testing.T) {
	t.Parallel()
	msg := message.NewMessage("a", nil)
	for says, change := range map[string]func(*handlertest.Case){
		"one of them":                                func(c *handlertest.Case) { c.Handler = nil },
		"Case.Messages is empty":                     func(c *handlertest.Case) { c.Messages = nil },
		"Case.Invariant is required":                 func(c *handlertest.Case) { c.Invariant = nil },
		"Case.Runs and Case.Within must be positive": func(c *handlertest.Case) { c.Runs = -1 },
		"none of Unordered":                          func(c *handlertest.Case) { c.Order = 7 },
		"message 2 of Case.Messages is nil": func(c *handlertest.Case) {
			c.Messages, c.Order = []*message.Message{msg, nil}, handlertest.Unordered
		},
		"has no UUID":      func(c *handlertest.Case) { c.Messages = []*message.Message{message.NewMessage("", nil)} },
		"leave copies out": func(c *handlertest.Case) { c.Messages = []*message.Message{msg, msg}; c.Order = 0 },
		"each needs a key": func(c *handlertest.Case) { c.Messages = []*message.Message{msg} },
		"Case.Schema":      func(c *handlertest.Case) { c.Schema = []string{"CREATE TABBLE"} },
		"Case.Setup: no": func(c *handlertest.Case) {
			c.Setup = func(context.Context, *sql.DB) error { return errors.New("no") }
		},
		"is no code that a failure": func(c *handlertest.Case) { c.Replay = "with 3" },
		`"9=sleep"`:                 func(c *handlertest.Case) { c.Replay = "without 1 9=sleep" },
		`"upside 1"`:                func(c *handlertest.Case) { c.Replay = "upside 1" },
	} {
		c := shop(plain)
		change(&c)
		_, err := handlertest.Explore(t.Context(), c, nil)
		require.ErrorContains(t, err, says)
	}
}
