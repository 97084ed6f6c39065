package handlertest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/handlertest"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Commits that fail, before and after they took effect, and a relay that stops
// between a publish and its confirmation.

// careful remembers its messages itself, in the transaction of their effects, so
// that a crash does it no harm. What it does about a failed commit is the test's.
func careful(commit func(begin func() (*sql.Tx, error)) error) func(handlertest.App) message.NoPublishHandlerFunc {
	return func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			ctx := msg.Context()
			var seen int
			err := app.DB.QueryRowContext(ctx, "SELECT count(*) FROM seen WHERE id = '"+string(msg.Payload)+"'").Scan(&seen)
			if seen > 0 || err != nil {
				return err
			}
			return commit(func() (*sql.Tx, error) {
				tx, err := app.DB.BeginTx(ctx, nil)
				if err != nil {
					return nil, err
				}
				for _, statement := range []string{"INSERT INTO seen VALUES ('" + string(msg.Payload) + "')", take, write(msg)} {
					if _, err := tx.ExecContext(ctx, statement); err != nil {
						return nil, errors.Join(err, tx.Rollback())
					}
				}
				return tx, nil
			})
		}
	}
}

func carefulCase(commit func(begin func() (*sql.Tx, error)) error) handlertest.Case {
	c := shop(careful(commit))
	c.Schema = append(c.Schema[:len(c.Schema):len(c.Schema)], "CREATE TABLE seen (id VARCHAR(20))")
	c.Invariant, c.Order = right, handlertest.Total
	c.Runs = 60
	return c
}

// breaksBare expects that a handler breaks by these steps without Headrace, and
// not at all with it.
func breaksBare(t *testing.T, c handlertest.Case, steps ...string) {
	t.Helper()
	report := explore(t, c)
	require.Nil(t, report.Protected.Counterexample)
	require.Equal(t, report.Protected.Of[1], report.Protected.Runs[1], "all sequences with one fault")
	found := report.Naked.Counterexample
	require.NotNil(t, found)
	require.Equal(t, steps, found.Steps)
	require.True(t, found.Repeated)

	c.Replay = found.Replay
	require.Equal(t, steps, explore(t, c).Naked.Counterexample.Steps, "the code replays it")
}

func TestACommitThatFailsBreaksAHandlerThatOnlyNotesIt(t *testing.T) {
	t.Parallel()
	breaksBare(t, carefulCase(func(begin func() (*sql.Tx, error)) error {
		tx, err := begin()
		if err == nil {
			_ = tx.Commit()
		}
		return err
	}),
		"m1 is delivered; the commit of statements 2, 3, 4 fails; it is handled and acked",
		"the invariant is broken: stock is 10, want 9",
	)
}

func TestACommitWithoutAnAnswerBreaksAHandlerThatTriesAgain(t *testing.T) {
	t.Parallel()
	breaksBare(t, carefulCase(func(begin func() (*sql.Tx, error)) error {
		tx, err := begin()
		if err != nil {
			return err
		}
		if tx.Commit() == nil {
			return nil
		}
		if tx, err = begin(); err != nil {
			return err
		}
		return tx.Commit()
	}),
		"m1 is delivered; the commit of statements 2, 3, 4 takes effect, but its connection is lost, "+
			"and it returns an error; it is handled and acked",
		"the invariant is broken: stock is 8, want 9",
	)
}

func TestMemoryThatOutlivesAFailedCommitIsFound(t *testing.T) {
	t.Parallel()
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		handled := map[string]bool{}
		return func(msg *message.Message) error {
			if handled[msg.UUID] {
				return nil
			}
			err := notes(msg.Context(), app.DB, msg)
			handled[msg.UUID] = err == nil
			return err
		}
	})
	c.Invariant = right
	finds(t, c,
		"m1 is delivered; the commit fails; the handler fails: connection lost during commit: outcome unknown: "+
			"handlertest: made to fail: the commit",
		"m1 is delivered again; it is handled and acked",
		"the invariant is broken: stock is 10, want 9",
	)
}

// The hook is not run when nobody knows whether there was a commit.
func TestAnEffectAfterACommitWithoutAnAnswerIsFound(t *testing.T) {
	t.Parallel()
	c := shop(func(app handlertest.App) message.NoPublishHandlerFunc {
		return func(msg *message.Message) error {
			if err := notes(msg.Context(), app.DB, msg); err != nil {
				return err
			}
			return store.AfterCommit(msg.Context(), func() { _ = app.BarePublisher.Publish(reserved, say(msg)) })
		}
	})
	c.Replay = "with 1 4=unanswered"
	found := explore(t, c).Protected.Counterexample
	require.NotNil(t, found)
	require.Contains(t, found.Steps[0],
		"the commit takes effect, but its connection is lost, and it returns an error; the handler fails")
	require.ErrorContains(t, found.Broken, "order o1 was announced 0 times")
}

const resent = `the relay sends a message to "reserved" and stops before it has confirmed that; ` +
	"the next one sends the message again, with the same UUID"

func TestARelayThatSendsTwiceIsFoundByWhoeverCountsMessages(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Invariant = func(_ context.Context, s handlertest.State) error {
		if len(s.Published) != len(s.Sent) {
			return fmt.Errorf("%d messages, want %d", len(s.Published), len(s.Sent))
		}
		return nil
	}
	finds(t, c, "m1 is delivered; it is handled and acked", resent, "the invariant is broken: 2 messages, want 1")
}

// The next service books what the shop announces.
func booked(t *testing.T, dedupe bool) handlertest.Case {
	t.Helper()
	c := shop(plain)
	c.Schema = append(c.Schema[:len(c.Schema):len(c.Schema)], "CREATE TABLE booked (id VARCHAR(20))")
	c.Runs = 60
	c.Invariant = func(ctx context.Context, s handlertest.State) (err error) {
		st, err := store.Open(ctx, s.DB, store.Config{Dialect: store.SQLite})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, st.Close()) }()
		joined := store.JoinDB(st)
		book := func(msg *message.Message) ([]*message.Message, error) {
			_, err := joined.ExecContext(msg.Context(), "INSERT INTO booked VALUES ('"+string(msg.Payload)+"')")
			return nil, err
		}
		if dedupe {
			mw, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: "books"})
			if err != nil {
				return err
			}
			book = mw.Middleware(book)
		}
		for _, p := range s.Published {
			arriving := p.Message.Copy()
			arriving.SetContext(ctx)
			if _, err := book(arriving); err != nil {
				return err
			}
		}
		var rows int
		err = joined.QueryRowContext(ctx, "SELECT count(*) FROM booked").Scan(&rows)
		if err == nil && rows != len(s.Sent) {
			err = fmt.Errorf("%d bookings, want %d", rows, len(s.Sent))
		}
		return err
	}
	return c
}

func TestARelayThatSendsTwiceBreaksTheNextServiceWithoutDedupeAndNotWithIt(t *testing.T) {
	t.Parallel()
	t.Run("without", func(t *testing.T) {
		t.Parallel()
		finds(t, booked(t, false),
			"m1 is delivered; it is handled and acked", resent, "the invariant is broken: 2 bookings, want 1")
	})
	t.Run("with", func(t *testing.T) {
		t.Parallel()
		report := explore(t, booked(t, true))
		require.Nil(t, report.Protected.Counterexample)
		require.Equal(t, report.Protected.Of[1], report.Protected.Runs[1], "all sequences with one fault")
	})
}

// What was sent before and not confirmed is sent again too, behind its successor.
func TestARelayThatStopsSendsAllAgainThatItHasNotConfirmed(t *testing.T) {
	t.Parallel()
	c := shop(plain)
	c.Invariant = func(_ context.Context, s handlertest.State) error {
		var order []string
		for _, p := range s.Published {
			order = append(order, string(p.Message.Payload))
		}
		if got := strings.Join(order, " "); got == "o1 o2 o1 o2" {
			return errors.New(got)
		}
		return nil
	}
	finds(t, c,
		"m1 is delivered; it is handled and acked",
		"m2 is delivered; it is handled and acked",
		strings.Replace(resent, "sends the message", "sends the last 2 messages", 1),
		"the invariant is broken: o1 o2 o1 o2",
	)
}
