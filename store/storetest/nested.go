package storetest

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// Transactions that existing code begins and ends within a unit.
func testNested(t *testing.T, h Harness) {
	each(t, h, []test{
		{"CommitAndRollback", nestedOutcome},
		{"UndoesAFailedStatement", nestedFailedStatement},
		{"EndedOutOfOrder", nestedOutOfOrder},
		{"UndoneWithTheOneAround", nestedUndone},
		{"RolledBackAfterTheOneAroundCommitted", nestedLateRollback},
		{"LeftOpen", nestedLeftOpen},
		{"RollbackThatWouldUndoOthersWork", nestedOthers},
		{"RollbackThatWouldUndoACommittedSibling", nestedSibling},
		{"RollbackThatWouldUndoACommittedSiblingOfAnother", nestedSiblingBelow},
		{"RollbackBesideWhatWasUndoneAlready", nestedUndoneBeside},
		{"RollbackOfAParentUndoesItsChildren", nestedChildren},
		{"StricterIsolationIsRefused", nestedIsolation},
	})
}

// nestedIn runs f in a unit with a way to begin nested transactions.
func nestedIn(t *testing.T, b *bundle, f func(ctx context.Context, begin func() *sql.Tx) error) error {
	t.Helper()
	st := b.store(t, store.Config{})
	return st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		return f(ctx, func() *sql.Tx {
			tx, err := store.JoinDB(st).BeginTx(ctx, nil)
			require.NoError(t, err)
			return tx
		})
	})
}

// add runs its statement without a context, as old code does.
func add(t *testing.T, b *bundle, tx *sql.Tx, id int) {
	t.Helper()
	_, err := tx.Exec(b.bind("INSERT INTO things (id, n) VALUES (?, 1)"), id) //nolint:noctx // see above
	require.NoError(t, err)
}

func nestedOutcome(t *testing.T, b *bundle) {
	require.NoError(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		kept := begin()
		add(t, b, kept, 1)
		require.NoError(t, kept.Commit())
		require.ErrorIs(t, kept.Rollback(), sql.ErrTxDone, "the usual deferred one")
		undone := begin()
		add(t, b, undone, 2)
		require.NoError(t, undone.Rollback())
		again := begin()
		add(t, b, again, 2)
		return again.Commit()
	}))
	require.Equal(t, 2, b.things(t))
}

func nestedFailedStatement(t *testing.T, b *bundle) {
	require.NoError(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		tx := begin()
		add(t, b, tx, 1)
		_, err := tx.Exec("INSERT INTO things (id, n) VALUES (1, 1)") //nolint:noctx // as old code does
		require.Error(t, err)
		require.NoError(t, tx.Rollback())
		tx = begin()
		add(t, b, tx, 2)
		return tx.Commit()
	}))
	require.Equal(t, 2, b.int(t, "SELECT sum(id) FROM things"))
}

func nestedOutOfOrder(t *testing.T, b *bundle) {
	require.NoError(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		first, second := begin(), begin()
		add(t, b, second, 2)
		require.NoError(t, first.Commit())
		add(t, b, second, 3)
		require.NoError(t, second.Commit())
		third := begin()
		add(t, b, third, 4)
		return third.Rollback()
	}))
	require.Equal(t, 2+3, b.int(t, "SELECT sum(id) FROM things"))
}

func nestedUndone(t *testing.T, b *bundle) {
	require.NoError(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		first, second := begin(), begin()
		add(t, b, second, 2)
		require.NoError(t, first.Rollback())
		_, err := second.Exec("INSERT INTO things (id, n) VALUES (3, 1)") //nolint:noctx // as old code does
		require.ErrorIs(t, err, store.ErrDoomed)
		require.ErrorIs(t, second.Commit(), store.ErrDoomed, "what it did is gone, and it is told")
		return nil
	}))
	require.Zero(t, b.things(t))
}

func nestedLateRollback(t *testing.T, b *bundle) {
	require.ErrorIs(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		first, second := begin(), begin()
		add(t, b, second, 2)
		require.NoError(t, first.Commit())
		require.ErrorContains(t, second.Rollback(), "reverse order")
		return nil
	}), store.ErrDoomed, "it can't be undone alone")
	require.Zero(t, b.things(t))
}

func nestedLeftOpen(t *testing.T, b *bundle) {
	require.ErrorIs(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		add(t, b, begin(), 1)
		return nil
	}), store.ErrDoomed, "in a database of its own it would never have been committed")
	require.Zero(t, b.things(t))
	require.Zero(t, b.inUse())
}

// A publish, for instance, that a handler makes while its own transaction is
// open: the rollback must not take it along in silence.
func nestedOthers(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		nested, err := store.JoinDB(st).BeginTx(ctx, nil)
		require.NoError(t, err)
		var n int
		require.NoError(t, store.JoinDB(st).QueryRowContext(ctx, "SELECT count(*) FROM things").Scan(&n), "reading is harmless")
		require.NoError(t, st.InsertOutbox(ctx, tx, []store.OutboxRow{{MessageID: "1", Destination: "d", Topic: "t"}}))
		require.ErrorContains(t, nested.Rollback(), "would undo 1 statements")
		return nil
	})
	require.ErrorIs(t, err, store.ErrDoomed)

	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		nested, err := store.JoinDB(st).BeginTx(ctx, nil)
		require.NoError(t, err)
		require.NoError(t, insert(ctx, tx, 1))
		return nested.Commit()
	}), "a commit undoes nothing")
	require.Equal(t, 1, b.things(t))
}

// Code that was told that its transaction is committed must not lose it because
// other code's, which was begun earlier, is rolled back.
func nestedSibling(t *testing.T, b *bundle) {
	require.ErrorIs(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		older, later := begin(), begin()
		add(t, b, older, 1)
		add(t, b, later, 2)
		add(t, b, later, 3)
		require.NoError(t, later.Commit())
		require.Error(t, older.Rollback())
		return nil
	}), store.ErrDoomed)
	require.Zero(t, b.things(t))
}

// The released one's writes count for all that lie below it, also when it was
// released as a part of another.
func nestedSiblingBelow(t *testing.T, b *bundle) {
	require.ErrorIs(t, nestedIn(t, b, func(_ context.Context, begin func() *sql.Tx) error {
		oldest, older, later := begin(), begin(), begin()
		add(t, b, later, 1)
		require.NoError(t, older.Commit())
		require.NoError(t, later.Commit())
		require.ErrorContains(t, oldest.Rollback(), "would undo 1 statements")
		return nil
	}), store.ErrDoomed)
	require.Zero(t, b.things(t))
}

func nestedUndoneBeside(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		begin := func() *sql.Tx {
			tx, err := store.JoinDB(st).BeginTx(ctx, nil)
			require.NoError(t, err)
			return tx
		}
		older := begin()
		add(t, b, older, 1)
		reader := begin()
		var n int
		require.NoError(t, reader.QueryRowContext(ctx, "SELECT count(*) FROM things").Scan(&n))
		require.NoError(t, reader.Commit())
		later := begin()
		add(t, b, later, 2)
		require.NoError(t, later.Rollback())
		require.ErrorIs(t, store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, 3))
			inner := begin()
			add(t, b, inner, 4)
			require.NoError(t, inner.Commit())
			return errBoom
		}), errBoom)
		require.NoError(t, older.Rollback(), "nothing is left that it would undo")
		last := begin()
		add(t, b, last, 5)
		return last.Commit()
	}))
	require.Equal(t, 5, b.int(t, "SELECT sum(id) FROM things"))
}

func nestedChildren(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	// Only counted: what would be sent is a driver's own.
	write := func(ctx context.Context, n *store.Nested) {
		require.NoError(t, n.Raw(ctx, "INSERT", func(any) error { return nil }))
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		u := store.CurrentUnit(ctx)
		parent, err := u.BeginNested(ctx)
		require.NoError(t, err)
		child, err := parent.BeginNested(ctx)
		require.NoError(t, err)
		grandchild, err := child.BeginNested(ctx)
		require.NoError(t, err)
		write(ctx, grandchild)
		require.NoError(t, child.Commit(ctx))
		write(ctx, grandchild) // as a part of its parent
		require.NoError(t, grandchild.Commit(ctx))
		write(ctx, parent)
		require.NoError(t, parent.Rollback(ctx))
		return insert(ctx, tx, 1)
	}))
	require.Equal(t, 1, b.things(t))
}

func nestedIsolation(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite { // always serializable
		return
	}
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, err := store.JoinDB(st).BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
		require.ErrorIs(t, err, store.ErrIsolation)
		tx, err := store.JoinDB(st).BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: true})
		require.NoError(t, err)
		return tx.Commit()
	}))
}
