package storetest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// Transactions that the caller began.
func testJoined(t *testing.T, h Harness) {
	each(t, h, []test{
		{"TheOwnerCommits", joinedCommit},
		{"TheOwnerRollsBack", joinedRollback},
		{"AFailureSaysThatItIsDoomed", joinedFailure},
		{"SavepointsWork", joinedSavepoints},
		{"AFailedAttemptIsUndoneAndTheNextOneIsNoDuplicate", joinedAttempts},
		{"HandlesAreLent", joinedHandles},
		{"SeesTheDuplicateDespiteAnOlderSnapshot", joinedSnapshot},
	})
}

func joinedCommit(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO things (id, n) VALUES (1, 10)")
	require.NoError(t, err)
	ctx := st.Join(t.Context(), tx)
	hooks := 0
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, inner store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, inbox("c", "m"))
		require.NoError(t, err)
		require.True(t, inserted)
		_, inserted, err = st.InsertInbox(ctx, inbox("c", "m"))
		require.NoError(t, err)
		require.False(t, inserted)
		require.NoError(t, store.BeforeCommit(ctx, func(ctx context.Context, inner store.Tx) error {
			hooks++
			return insert(ctx, inner, 3)
		}))
		require.NoError(t, store.AfterCommit(ctx, func() { t.Error("the commit can't be seen") }))
		return insert(ctx, inner, 2)
	}))
	require.Equal(t, 1, hooks)
	rows, err := store.JoinDB(st).QueryContext(ctx, b.bind("SELECT id, n FROM things WHERE id < ? ORDER BY id"), 3)
	require.NoError(t, err)
	types, err := rows.ColumnTypes()
	require.NoError(t, err)
	require.Contains(t, types[0].DatabaseTypeName(), "INT")
	ids := []int{}
	for rows.Next() {
		var id, n int
		require.NoError(t, rows.Scan(&id, &n))
		ids = append(ids, id)
		_, err := store.JoinDB(st).ExecContext(ctx, b.bind("UPDATE things SET n = 0 WHERE id = ?"), id)
		require.NoError(t, err, "while rows are being read")
	}
	require.NoError(t, rows.Err())
	require.NoError(t, rows.Close())
	require.Equal(t, []int{1, 2}, ids)
	require.ErrorIs(t, st.UnitFromContext(ctx).Commit(ctx), store.ErrOwned)
	require.NoError(t, tx.Commit())
	require.Equal(t, 3, b.things(t))
	_, inserted := record(t, st, inbox("c", "m"))
	require.False(t, inserted)
	require.Error(t, st.InTx(ctx, func(ctx context.Context, inner store.Tx) error { return insert(ctx, inner, 9) }), "it is over")
	require.Equal(t, 3, b.things(t))
}

func joinedRollback(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, st.InTx(st.Join(t.Context(), tx), func(ctx context.Context, inner store.Tx) error {
		_, _, err := st.InsertInbox(ctx, inbox("c", "m"))
		require.NoError(t, err)
		require.NoError(t, st.InsertOutbox(ctx, inner, []store.OutboxRow{{MessageID: "1", Destination: "d", Topic: "t"}}))
		return insert(ctx, inner, 1)
	}))
	require.NoError(t, tx.Rollback())
	require.Zero(t, b.things(t))
	require.Empty(t, readAll(t, st))
	_, inserted := record(t, st, inbox("c", "m"))
	require.True(t, inserted)
}

func joinedFailure(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	ctx := st.Join(t.Context(), tx)
	require.True(t, st.IsContention(st.InTx(ctx, func(context.Context, store.Tx) error { return b.lost() })))
	require.ErrorIs(t, st.UnitFromContext(ctx).Doomed(), store.ErrDoomed)
	require.ErrorIs(t, st.InTx(ctx, func(context.Context, store.Tx) error { return nil }), store.ErrDoomed)
}

func joinedSavepoints(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	ctx := st.Join(t.Context(), tx)
	require.ErrorIs(t, store.Savepoint(ctx, func(ctx context.Context, inner store.Tx) error {
		require.NoError(t, insert(ctx, inner, 1))
		return errBoom
	}), errBoom)
	nested, err := store.JoinDB(st).BeginTx(ctx, nil)
	require.NoError(t, err)
	_, err = nested.Exec("INSERT INTO things (id, n) VALUES (2, 2)") //nolint:noctx // as old code does
	require.NoError(t, err)
	require.NoError(t, nested.Commit())
	require.NoError(t, tx.Commit())
	require.Equal(t, 2, b.int(t, "SELECT sum(id) FROM things"))
}

// The trap of watermill-sql: the inbox row of a failed attempt must not make the
// next delivery, in the same transaction, look like a duplicate.
func joinedAttempts(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	hooks := 0
	attempt := func(id int, outcome func() error) error {
		ctx := st.Join(t.Context(), tx)
		return st.InTx(ctx, func(ctx context.Context, inner store.Tx) error {
			_, inserted, err := st.InsertInbox(ctx, inbox("c", "m"))
			require.NoError(t, err)
			require.True(t, inserted)
			require.NoError(t, store.BeforeCommit(ctx, func(context.Context, store.Tx) error { hooks++; return nil }))
			require.NoError(t, insert(ctx, inner, id))
			return outcome()
		})
	}
	require.Equal(t, errBoom, attempt(1, func() error { return errBoom }))
	require.Panics(t, func() { _ = attempt(2, func() error { panic("boom") }) })
	require.Zero(t, hooks)
	require.NoError(t, attempt(3, func() error { return nil }))
	require.Equal(t, 1, hooks)
	require.NoError(t, tx.Commit())
	require.Equal(t, 3, b.int(t, "SELECT sum(id) FROM things"))
	_, inserted := record(t, st, inbox("c", "m"))
	require.False(t, inserted)
}

func joinedHandles(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	ctx := st.Join(t.Context(), tx)
	handle, ok := store.SQLXTx(ctx)
	require.True(t, ok)
	_, err = handle.NamedExecContext(ctx, "INSERT INTO things (id, n) VALUES (:id, :n)", map[string]any{"id": 1, "n": 1})
	require.NoError(t, err, "it knows the database's placeholders")
	_, err = handle.ExecContext(ctx, handle.Rebind("UPDATE things SET n = ? WHERE id = ?"), 5, 1)
	require.NoError(t, err)
	require.ErrorIs(t, handle.Commit(), store.ErrOwned)
	require.NoError(t, tx.Commit())
	require.Equal(t, 5, b.int(t, "SELECT n FROM things"))
}

// watermill-sql reads at REPEATABLE READ: what was committed since is not in its
// snapshot. MySQL's unique key still sees it; Postgres gives up the transaction,
// which must look like any other that lost against a concurrent one.
func joinedSnapshot(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite { // one writer: nothing is committed meanwhile
		return
	}
	st := b.store(t, store.Config{})
	tx, err := b.db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
	require.NoError(t, err)
	defer tx.Rollback()
	var n int
	require.NoError(t, tx.QueryRowContext(t.Context(), "SELECT count(*) FROM headrace_inbox").Scan(&n))
	record(t, st, inbox("c", "m"))

	existing, inserted, err := st.InsertInbox(st.Join(t.Context(), tx), inbox("c", "m"))
	if b.h.Dialect == store.Postgres {
		require.True(t, st.IsContention(err))
		return
	}
	require.NoError(t, err)
	require.False(t, inserted)
	require.Equal(t, store.Applied, existing.Verdict)
}
