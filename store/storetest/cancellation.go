package storetest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testCancellation(t *testing.T, h Harness) {
	each(t, h, []test{
		{"AfterTheHandlerReturnedNilStillCommits", cancelledAfterReturn},
		{"BeforeTheUnitBegins", cancelledBefore},
		{"OfAStatementRollsBackEvenWhenItsErrorIsSwallowed", cancelledStatement},
		{"OfReadingRollsBackEvenWhenItsErrorIsSwallowed", cancelledRows},
		{"OfANestedTransactionUndoesIt", cancelledNested},
	})
}

// A router's shutdown cancels the context of every message at any moment.
func cancelledAfterReturn(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	err := st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, ctx.Err(), "what belongs to the commit goes on")
			return insert(ctx, tx, 2)
		}))
		require.NoError(t, insert(ctx, tx, 1))
		cancel()
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 2, b.things(t))
}

func cancelledBefore(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := st.InTx(ctx, func(context.Context, store.Tx) error {
		t.Error("must not run")
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, b.inUse())
}

// slow is a statement that writes and takes longer than anyone waits.
func (b *bundle) slow() string {
	switch b.h.Dialect {
	case store.Postgres:
		return "INSERT INTO things (id, n) SELECT 100, 1 FROM pg_sleep(60)"
	case store.MySQL:
		return "INSERT INTO things (id, n) SELECT 100, SLEEP(60)"
	case store.SQLite:
	}
	return "INSERT INTO things (id, n) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) " +
		"SELECT x + 100, 1 FROM c"
}

// SQLite rolls an interrupted transaction back by itself, the other drivers give
// up the connection: a statement after it must not run outside of the unit.
func cancelledStatement(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	row := 0
	for name, run := range map[string]func(ctx, cut context.Context, tx store.Tx) error{
		"Tx": func(_, cut context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(cut, b.slow())
			return err
		},
		"JoinDB": func(_, cut context.Context, _ store.Tx) error {
			_, err := store.JoinDB(st).ExecContext(cut, b.slow())
			return err
		},
		"SQLTx": func(ctx, cut context.Context, _ store.Tx) error {
			tx, ok := store.SQLTx(ctx)
			require.True(t, ok)
			_, err := tx.ExecContext(cut, b.slow())
			return err
		},
	} {
		// Rows of its own: MariaDB notices up to 5 s later that the client is gone,
		// and holds the locks until then.
		row += 2
		err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, row))
			cut, cancel := context.WithTimeout(ctx, cutAfter)
			defer cancel()
			require.Error(t, run(ctx, cut, tx), name)
			require.ErrorIs(t, insert(ctx, tx, row+1), store.ErrDoomed, name)
			return nil // swallowed
		})
		require.ErrorIs(t, err, store.ErrDoomed, name)
		require.Zero(t, b.things(t), name)
	}
}

func cancelledRows(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	query := map[store.Dialect]string{
		store.Postgres: "SELECT i, pg_sleep(i / 3 * 60) FROM generate_series(1, 5) AS s(i)",
		store.MySQL:    "SELECT 1 UNION ALL SELECT SLEEP(60)",
	}[b.h.Dialect]
	if query == "" { // SQLite's driver can't be cut off between two rows
		return
	}
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		cut, cancel := context.WithTimeout(ctx, cutAfter)
		defer cancel()
		rows, err := tx.QueryContext(cut, query)
		if err == nil {
			for rows.Next() {
			}
			require.Error(t, rows.Err())
			require.NoError(t, rows.Close())
		}
		return nil // swallowed
	})
	if err == nil { // only reading was cut off, and the connection survived it
		require.Equal(t, 1, b.things(t))
		return
	}
	require.Zero(t, b.things(t))
}

// database/sql rolls a transaction back from a goroutine of its own when the
// context that it was begun with is cancelled.
func cancelledNested(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		cut, cancel := context.WithCancel(ctx)
		nested, err := store.JoinDB(st).BeginTx(cut, nil)
		require.NoError(t, err)
		_, err = nested.ExecContext(ctx, "INSERT INTO things (id, n) VALUES (2, 2)")
		require.NoError(t, err)
		cancel()
		require.Error(t, nested.Commit())
		return nil // swallowed
	})
	if err != nil { // it was still open when the unit was about to commit
		require.ErrorIs(t, err, store.ErrDoomed)
		require.Zero(t, b.things(t))
		return
	}
	require.Equal(t, 1, b.things(t), "only what was not in it")
}
