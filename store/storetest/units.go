package storetest

import (
	"context"
	"database/sql"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

var errBoom = errors.New("boom")

func testUnits(t *testing.T, h Harness) {
	each(t, h, []test{
		{"ReturningNilCommitsAndAnErrorRollsBack", unitOutcome},
		{"PanicRollsBackAndGoesOn", unitPanic},
		{"EndingTheGoroutineRollsBack", unitGoexit},
		{"NestedJoins", unitNestedJoins},
		{"NestedFailureCannotBeSwallowed", unitNestedFailure},
		{"FailedStatementCannotLookCommitted", unitSwallowed},
		{"UnitIsOverAfterItsEnd", unitOver},
		{"TwoStoresInOneContext", unitTwoStores},
		{"ManyGoroutinesOnOneUnit", unitGoroutines},
		{"TxRunsEveryKindOfStatement", unitTx},
		{"BeginCommitRollback", unitByHand},
		{"StatementsThatWouldEndItAreRefused", unitEnding},
	})
}

func unitOutcome(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 1) }))
	require.Equal(t, 1, b.things(t))
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 2))
		return errBoom
	})
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, 1, b.things(t))
}

func unitPanic(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.PanicsWithValue(t, "boom", func() {
		_ = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_ = insert(ctx, tx, 1)
			panic("boom")
		})
	})
	require.Zero(t, b.things(t))
	require.Zero(t, b.inUse(), "the connection came back")
}

func unitGoexit(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	var done sync.WaitGroup
	done.Go(func() {
		_ = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_ = insert(ctx, tx, 1)
			runtime.Goexit() // what t.FailNow does in a handler under test
			return nil
		})
	})
	done.Wait()
	require.Zero(t, b.things(t))
	require.Zero(t, b.inUse(), "the connection came back")
}

func unitNestedJoins(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			var n int
			require.NoError(t, tx.GetContext(ctx, &n, "SELECT count(*) FROM things"))
			require.Equal(t, 1, n, "sees what the outer one wrote")
			return insert(ctx, tx, 2)
		})
	})
	require.NoError(t, err)
	require.Equal(t, 2, b.things(t))
}

func unitNestedFailure(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		inner := st.InTx(ctx, func(context.Context, store.Tx) error { return errBoom })
		require.ErrorIs(t, inner, errBoom)
		require.ErrorIs(t, insert(ctx, tx, 2), store.ErrDoomed)
		return nil // swallowed
	})
	require.ErrorIs(t, err, store.ErrDoomed)
	require.ErrorIs(t, err, errBoom)
	require.Zero(t, b.things(t))
}

// Postgres aborts the transaction at a failed statement, and its COMMIT is then a
// ROLLBACK that says nothing. The others undo only the statement.
func unitSwallowed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		require.Error(t, insert(ctx, tx, 1), "a duplicate key")
		return nil // swallowed
	})
	if b.h.Dialect == store.Postgres {
		require.ErrorIs(t, err, store.ErrDoomed)
		require.ErrorContains(t, err, "INSERT INTO things", "the error names what failed")
		require.Zero(t, b.things(t))
		return
	}
	require.NoError(t, err)
	require.Equal(t, 1, b.things(t))
}

func unitOver(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	var leaked context.Context
	var tx store.Tx
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, inner store.Tx) error {
		leaked, tx = ctx, inner
		return insert(ctx, tx, 1)
	}))
	require.ErrorIs(t, insert(leaked, tx, 2), store.ErrUnitOver)
	var n int
	require.ErrorIs(t, tx.GetContext(leaked, &n, "SELECT count(*) FROM things"), store.ErrUnitOver)
	_, err := store.JoinDB(st).ExecContext(leaked, "INSERT INTO things (id, n) VALUES (3, 3)")
	require.ErrorIs(t, err, store.ErrUnitOver)
	_, err = store.JoinDB(st).BeginTx(leaked, nil)
	require.ErrorIs(t, err, store.ErrUnitOver)
	lent, ok := store.SQLTx(leaked)
	require.True(t, ok, "code that got none would turn to its database")
	_, err = lent.ExecContext(leaked, "INSERT INTO things (id, n) VALUES (3, 3)")
	require.ErrorIs(t, err, sql.ErrTxDone)
	require.ErrorIs(t, st.InTx(leaked, func(context.Context, store.Tx) error { return nil }), store.ErrUnitOver)
	require.ErrorIs(t, store.AfterCommit(leaked, func() {}), store.ErrUnitOver)
	require.ErrorIs(t, store.BeforeCommit(leaked, nil), store.ErrUnitOver)
	_, _, err = st.InsertInbox(leaked, inbox("c", "m"))
	require.ErrorIs(t, err, store.ErrUnitOver)
	require.Equal(t, 1, b.things(t))
}

// Two services' tables in two databases: each store joins its own unit.
func unitTwoStores(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	open := b.h.Fresh(t)
	other := &bundle{h: b.h, open: open, db: open(t)}
	otherStore := other.store(t, store.Config{})

	work := func(outcome error) error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, 1))
			return otherStore.InTx(ctx, func(ctx context.Context, otherTx store.Tx) error {
				require.NoError(t, insert(ctx, otherTx, 1))
				require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
					require.NoError(t, insert(ctx, tx, 2))
					// Behind the first one's unit the other's is still found.
					_, err := store.JoinDB(otherStore).ExecContext(ctx, "INSERT INTO things (id, n) VALUES (2, 2)")
					require.NoError(t, err)
					return otherStore.InTx(ctx, func(ctx context.Context, otherTx store.Tx) error {
						return insert(ctx, otherTx, 3)
					})
				}))
				_, err := store.JoinDB(st).ExecContext(ctx, "INSERT INTO things (id, n) VALUES (3, 3)")
				require.NoError(t, err)
				return outcome
			})
		})
	}
	require.ErrorIs(t, work(errBoom), errBoom)
	require.Zero(t, b.things(t))
	require.Zero(t, other.things(t), "all of it ran in its unit")
	require.NoError(t, work(nil))
	require.Equal(t, 3, b.things(t))
	require.Equal(t, 3, other.things(t))
}

func unitGoroutines(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const goroutines, each = 8, 10
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		var all sync.WaitGroup
		errs := make(chan error, goroutines*each*2)
		for g := range goroutines {
			all.Go(func() {
				for i := range each {
					id := g*each + i
					if id%2 == 0 {
						errs <- insert(ctx, tx, id)
						continue
					}
					_, err := store.JoinDB(st).ExecContext(ctx, b.bind("INSERT INTO things (id, n) VALUES (?, ?)"), id, 1)
					errs <- err
					var n int
					errs <- store.JoinDB(st).QueryRowContext(ctx, b.bind("SELECT n FROM things WHERE id = ?"), id).Scan(&n)
				}
			})
		}
		all.Wait()
		close(errs)
		var failed []error
		for err := range errs {
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	})
	require.NoError(t, err)
	require.Equal(t, goroutines*each, b.things(t))
}

func unitTx(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.NamedExecContext(ctx, "INSERT INTO things (id, n) VALUES (:id, :n)", map[string]any{"id": 1, "n": 10})
		require.NoError(t, err)
		type thing struct {
			ID int `db:"id"`
			N  int `db:"n"`
		}
		_, err = tx.NamedExecContext(ctx, "INSERT INTO things (id, n) VALUES (:id, :n)", thing{2, 20})
		require.NoError(t, err)

		var one thing
		require.NoError(t, tx.GetContext(ctx, &one, "SELECT id, n FROM things WHERE id = ?", 2))
		require.Equal(t, thing{2, 20}, one)
		var all []thing
		require.NoError(t, tx.SelectContext(ctx, &all, "SELECT id, n FROM things ORDER BY id"))
		require.Equal(t, []thing{{1, 10}, {2, 20}}, all)

		rows, err := tx.QueryContext(ctx, "SELECT id, n FROM things WHERE n > ? ORDER BY id", 5)
		require.NoError(t, err)
		columns, err := rows.Columns()
		require.NoError(t, err)
		require.Equal(t, []string{"id", "n"}, columns)
		for want := 1; rows.Next(); want++ {
			var got thing
			require.NoError(t, rows.Scan(&got.ID, &got.N))
			require.Equal(t, thing{want, want * 10}, got)
			_, err := tx.ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = ?", got.ID)
			require.NoError(t, err, "while rows are being read")
		}
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())

		fromContext, ok := store.TxFromContext(ctx)
		require.True(t, ok)
		return insert(ctx, fromContext, 3)
	})
	require.NoError(t, err)
	require.Equal(t, 33, b.int(t, "SELECT sum(n) FROM things"))
	_, ok := store.TxFromContext(t.Context())
	require.False(t, ok)
}

func unitByHand(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	ctx := u.Context(t.Context())
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 1) }))
	require.False(t, u.Over())
	require.NoError(t, u.Commit(ctx))
	require.True(t, u.Over())
	require.ErrorIs(t, u.Commit(ctx), store.ErrUnitOver)
	u.Rollback(ctx, nil) // does nothing
	require.Equal(t, 1, b.things(t))

	u, err = st.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, insert(ctx, u.Tx(), 2))
	u.Rollback(ctx, errBoom)
	require.Equal(t, 1, b.things(t))
	require.Zero(t, b.inUse(), "the connections came back")
}

// Behind the unit's back it would be over, and the rest committed one by one.
func unitEnding(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ending := []string{
		"COMMIT", " commit ;", "BEGIN", "START TRANSACTION", "ROLLBACK", "rollback;", "END",
		"/* why */ COMMIT", "-- why\nCOMMIT", "SELECT 1; COMMIT", "INSERT INTO things (id, n) VALUES (9, 9); /* ; */ COMMIT;",
	}
	if b.h.Dialect == store.MySQL { // which commits because of them
		ending = append(ending, "TRUNCATE TABLE things", "CREATE TABLE others (id INT)", "alter table things add x int",
			"# why\nCOMMIT", "/*! COMMIT */", "/*M!100100 COMMIT */", "SET autocommit = 1")
	}
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		for _, statement := range ending {
			_, err := tx.ExecContext(ctx, statement)
			require.ErrorIs(t, err, store.ErrOwned, statement)
			_, err = store.JoinDB(st).ExecContext(ctx, statement)
			require.ErrorIs(t, err, store.ErrOwned, statement)
		}
		for _, statement := range []string{"SAVEPOINT mine", "ROLLBACK TO SAVEPOINT mine", "RELEASE SAVEPOINT mine"} {
			_, err := tx.ExecContext(ctx, statement)
			require.NoError(t, err, statement)
		}
		_, err := tx.ExecContext(ctx, "CREATE TEMPORARY TABLE passing (id INT)")
		require.NoError(t, err)
		_, err = tx.ExecContext(ctx, "/* ; COMMIT; */ UPDATE things SET n = 2 WHERE 'x; COMMIT' <> 'y' -- ; COMMIT")
		require.NoError(t, err)
		return errBoom
	}), errBoom)
	require.Zero(t, b.things(t))
}
