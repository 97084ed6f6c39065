package pgxstore_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

type bundle struct {
	pool *pgxpool.Pool
	st   *store.Store
}

func setup(t *testing.T) *bundle {
	t.Helper()
	if testing.Short() {
		t.Skip("pgx speaks to Postgres only, and -short has no services")
	}
	t.Parallel()
	config, err := pgxpool.ParseConfig(testenv.Postgres(t))
	require.NoError(t, err)
	config.MaxConns = 4
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	st, err := pgxstore.Open(t.Context(), pool, store.Config{Migrate: true, LockTimeout: 300 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	_, err = pool.Exec(t.Context(), "CREATE TABLE things (n int)")
	require.NoError(t, err)
	return &bundle{pool, st}
}

func (b *bundle) count(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT count(*) FROM things").Scan(&n))
	return n
}

func native(ctx context.Context, t *testing.T) pgx.Tx {
	t.Helper()
	tx, ok := pgxstore.Tx(ctx)
	require.True(t, ok)
	return tx
}

func TestNativeStatementsAreTheUnits(t *testing.T) {
	b := setup(t)
	boom := errors.New("boom")
	work := func(outcome error) error {
		return b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			pgxTx := native(ctx, t)
			_, err := pgxTx.Exec(ctx, "INSERT INTO things VALUES ($1)", 1)
			require.NoError(t, err)
			_, err = tx.ExecContext(ctx, "INSERT INTO things VALUES (?)", 2)
			require.NoError(t, err)
			_, err = store.JoinDB(b.st).ExecContext(ctx, "INSERT INTO things VALUES ($1)", 3)
			require.NoError(t, err)
			n, err := pgxTx.CopyFrom(ctx, pgx.Identifier{"things"}, []string{"n"}, pgx.CopyFromRows([][]any{{4}, {5}}))
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
			batch := &pgx.Batch{}
			batch.Queue("INSERT INTO things VALUES (6)")
			require.NoError(t, pgxTx.SendBatch(ctx, batch).Close())
			var sum int
			require.NoError(t, pgxTx.QueryRow(ctx, "SELECT sum(n) FROM things").Scan(&sum))
			require.Equal(t, 21, sum)
			return outcome
		})
	}
	require.ErrorIs(t, work(boom), boom)
	require.Zero(t, b.count(t))
	require.NoError(t, work(nil))
	require.Equal(t, 6, b.count(t))
}

func TestEveryKindOfFirstStatementOpensTheTransaction(t *testing.T) {
	b := setup(t)
	boom := errors.New("boom")
	for name, first := range map[string]func(ctx context.Context, tx store.Tx) error{
		"exec": func(ctx context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (1)")
			return err
		},
		"query": func(ctx context.Context, tx store.Tx) error {
			var n int
			return tx.GetContext(ctx, &n, "INSERT INTO things VALUES (1) RETURNING n")
		},
		"prepared": func(ctx context.Context, _ store.Tx) error {
			stmt, err := store.JoinDB(b.st).PrepareContext(ctx, "INSERT INTO things VALUES ($1)")
			if err != nil {
				return err
			}
			_, err = stmt.ExecContext(ctx, 1)
			return errors.Join(err, stmt.Close())
		},
		"savepoint": func(ctx context.Context, _ store.Tx) error {
			return store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (1)")
				return err
			})
		},
		"native query": func(ctx context.Context, _ store.Tx) error {
			rows, err := native(ctx, t).Query(ctx, "INSERT INTO things VALUES (1) RETURNING n")
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		},
	} {
		err := b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, first(ctx, tx), name)
			return boom
		})
		require.ErrorIs(t, err, boom, name)
		require.Zero(t, b.count(t), "%s ran outside of the transaction", name)
	}
}

func TestATransactionWithoutStatementsLeavesTheConnectionUsable(t *testing.T) {
	b := setup(t)
	require.NoError(t, b.st.InTx(t.Context(), func(context.Context, store.Tx) error { return nil }))
	boom := errors.New("boom")
	require.ErrorIs(t, b.st.InTx(t.Context(), func(context.Context, store.Tx) error { return boom }), boom)
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (1)")
		return err
	}))
	require.Equal(t, 1, b.count(t))
}

func TestAnAbortedTransactionNeverLooksCommitted(t *testing.T) {
	b := setup(t)
	err := b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		tx := native(ctx, t)
		_, err := tx.Exec(ctx, "INSERT INTO things VALUES (1)")
		require.NoError(t, err)
		_, err = tx.Exec(ctx, "INSERT INTO nowhere VALUES (1)")
		require.Error(t, err)
		return nil // swallowed
	})
	require.ErrorIs(t, err, store.ErrDoomed)
	require.Zero(t, b.count(t))
}

func TestAFirstStatementThatFailsLeavesTheConnectionUsable(t *testing.T) {
	b := setup(t)
	for range 10 {
		require.ErrorContains(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
			return err
		}), "nowhere")
	}
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (1)")
		return err
	}))
	require.Equal(t, 1, b.count(t))
}

func TestWaitsForLocksAreBounded(t *testing.T) {
	b := setup(t)
	_, err := b.pool.Exec(t.Context(), "INSERT INTO things VALUES (1)")
	require.NoError(t, err)
	holder, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer holder.Rollback(t.Context()) //nolint:errcheck // only a lock
	_, err = holder.Exec(t.Context(), "UPDATE things SET n = 2")
	require.NoError(t, err)
	require.ErrorIs(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE things SET n = 3")
		return err
	}), store.ErrLockTimeout)
}

func TestTheUnitDecidesAndNestedTransactionsAreSavepoints(t *testing.T) {
	b := setup(t)
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		tx := native(ctx, t)
		require.ErrorIs(t, tx.Commit(ctx), store.ErrOwned)
		require.ErrorIs(t, tx.Rollback(ctx), store.ErrOwned)
		undone, err := tx.Begin(ctx)
		require.NoError(t, err)
		_, err = undone.Exec(ctx, "INSERT INTO things VALUES (1)")
		require.NoError(t, err)
		require.NoError(t, undone.Rollback(ctx))
		kept, err := tx.Begin(ctx)
		require.NoError(t, err)
		_, err = kept.Exec(ctx, "INSERT INTO things VALUES (2)")
		require.NoError(t, err)
		return kept.Commit(ctx)
	}))
	require.Equal(t, 1, b.count(t))
}

func TestAUnitThatIsOverGivesATransactionThatSaysSo(t *testing.T) {
	b := setup(t)
	var (
		leaked context.Context
		tx     pgx.Tx
	)
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		leaked, tx = ctx, native(ctx, t)
		return nil
	}))
	late, ok := pgxstore.Tx(leaked)
	require.True(t, ok, "code that then uses its pool would escape the unit")
	_, err := late.Exec(leaked, "INSERT INTO things VALUES (1)")
	require.ErrorIs(t, err, store.ErrUnitOver)
	_, err = late.Begin(leaked)
	require.ErrorIs(t, err, store.ErrUnitOver)
	require.Nil(t, late.Conn())
	_, ok = pgxstore.Tx(t.Context())
	require.False(t, ok)
	_, err = tx.Exec(t.Context(), "INSERT INTO things VALUES (1)")
	require.ErrorIs(t, err, store.ErrUnitOver)
	require.ErrorIs(t, tx.QueryRow(t.Context(), "SELECT 1").Scan(new(int)), store.ErrUnitOver)
	require.Zero(t, b.count(t))
}

// Code called within a nested transaction asks for the unit's and reads by it.
func TestReadingBesideANestedTransactionIsHarmless(t *testing.T) {
	b := setup(t)
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		nested, err := native(ctx, t).Begin(ctx)
		require.NoError(t, err)
		_, err = nested.Exec(ctx, "INSERT INTO things VALUES (1)")
		require.NoError(t, err)
		var n int
		require.NoError(t, native(ctx, t).QueryRow(ctx, "SELECT count(*) FROM things").Scan(&n))
		require.Equal(t, 1, n)
		return nested.Rollback(ctx)
	}))
	require.Zero(t, b.count(t))
}

func TestABatchCannotEndTheTransaction(t *testing.T) {
	b := setup(t)
	boom := errors.New("boom")
	require.ErrorIs(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue("INSERT INTO things VALUES (1)")
		batch.Queue("/* done */ COMMIT")
		require.ErrorIs(t, native(ctx, t).SendBatch(ctx, batch).Close(), store.ErrOwned)
		return boom
	}), boom)
	require.Zero(t, b.count(t))
}

func TestADeferredRollbackBehindACommitDoesNothing(t *testing.T) {
	b := setup(t)
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for range 2 {
			nested, err := native(ctx, t).Begin(ctx)
			require.NoError(t, err)
			_, err = nested.Exec(ctx, "INSERT INTO things VALUES (1)")
			require.NoError(t, err)
			require.NoError(t, nested.Commit(ctx))
			require.ErrorIs(t, nested.Rollback(ctx), pgx.ErrTxClosed)
			require.ErrorIs(t, nested.Commit(ctx), pgx.ErrTxClosed)
		}
		return nil
	}))
	require.Equal(t, 2, b.count(t))
}

func TestAForeignTransactionCarriesHeadracesRows(t *testing.T) {
	b := setup(t)
	for _, commit := range []bool{false, true} {
		tx, err := b.pool.Begin(t.Context())
		require.NoError(t, err)
		ctx := pgxstore.Join(t.Context(), b.st, tx)
		require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
			message := store.InboxRow{Consumer: "c", MessageID: "m", Verdict: store.Applied}
			_, inserted, err := b.st.InsertInbox(ctx, message)
			require.NoError(t, err)
			require.True(t, inserted)
			row, inserted, err := b.st.InsertInbox(ctx, message)
			require.NoError(t, err)
			require.False(t, inserted)
			require.Equal(t, store.Applied, row.Verdict)
			require.WithinDuration(t, time.Now(), row.ProcessedAt, time.Minute)
			require.ErrorIs(t, native(ctx, t).Commit(ctx), store.ErrOwned)
			_, err = store.JoinDB(b.st).ExecContext(ctx, "INSERT INTO things VALUES ($1)", 1)
			return err
		}))
		if commit {
			require.NoError(t, tx.Commit(t.Context()))
		} else {
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
	require.Equal(t, 1, b.count(t))
}

func TestOpenRefusesWhatItCannotServe(t *testing.T) {
	b := setup(t)
	_, err := pgxstore.Open(t.Context(), nil, store.Config{})
	require.ErrorContains(t, err, "pool")
	_, err = pgxstore.Open(t.Context(), b.pool, store.Config{Dialect: store.MySQL})
	require.ErrorContains(t, err, "Postgres")
	_, err = pgxstore.Open(t.Context(), b.pool, store.Config{Prefix: "absent_"})
	require.ErrorIs(t, err, store.ErrSchemaMissing)
}
