package store

import (
	"context"
	"database/sql/driver"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// meddling runs something between two statements of a transaction.
type meddling struct {
	Session

	before map[string]func()
}

func (m meddling) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	m.meddle(query)
	return m.Session.Query(ctx, query, args)
}

func (m meddling) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	m.meddle(query)
	return m.Session.Exec(ctx, query, args)
}

func (m meddling) meddle(query string) {
	for text, f := range m.before {
		if strings.Contains(query, text) {
			delete(m.before, text)
			f()
		}
	}
}

// The purge removes the row that stood in the way before it could be read: then
// the message is new again. MySQL and SQLite have the row or the database locked
// by then.
func TestInboxRowThatIsPurgedInBetweenMakesTheMessageNew(t *testing.T) {
	if testing.Short() {
		return // it takes Postgres
	}
	t.Parallel()
	db := testenv.Open(t, testenv.Postgres(t))
	st, err := Open(t.Context(), db, Config{Dialect: Postgres, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	row := InboxRow{Consumer: "c", MessageID: "m", Verdict: Applied}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ Tx) error {
		_, _, err := st.InsertInbox(ctx, row)
		return err
	}))

	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	ctx := st.JoinSession(t.Context(), meddling{txSession{tx}, map[string]func(){"SELECT verdict": func() {
		purged, err := st.PurgeInbox(t.Context(), "c", 0, 10)
		require.NoError(t, err)
		require.EqualValues(t, 1, purged)
	}}})
	_, inserted, err := st.InsertInbox(ctx, row)
	require.NoError(t, err)
	require.True(t, inserted)
	require.NoError(t, tx.Commit())
	counts, err := st.CountInbox(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, counts[0].Count)
}

// A row that was due when the purge looked may have been purged by another one
// and written anew, for a message that came again.
func TestPurgeLeavesARowThatWasWrittenAnewInBetween(t *testing.T) {
	if testing.Short() {
		return // it takes Postgres
	}
	t.Parallel()
	db := testenv.Open(t, testenv.Postgres(t))
	st, err := Open(t.Context(), db, Config{Dialect: Postgres, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	exec := func(query string) {
		_, err := db.ExecContext(t.Context(), query)
		require.NoError(t, err)
	}
	for _, id := range []string{"again", "old"} {
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ Tx) error {
			_, _, err := st.InsertInbox(ctx, InboxRow{Consumer: "c", MessageID: id, Verdict: Applied})
			return err
		}))
	}
	exec("UPDATE headrace_inbox SET processed_at = processed_at - interval '1 hour'")

	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	ctx := st.JoinSession(t.Context(), meddling{txSession{tx}, map[string]func(){"DELETE": func() {
		exec("UPDATE headrace_inbox SET processed_at = statement_timestamp() WHERE message_id = 'again'")
	}}})
	purged, err := st.PurgeInbox(ctx, "c", time.Minute, 10)
	require.NoError(t, err)
	require.EqualValues(t, 1, purged)
	require.NoError(t, tx.Commit())
	counts, err := st.CountInbox(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, counts[0].Count, "the one that was written anew")
}
