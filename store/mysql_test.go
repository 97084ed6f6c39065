package store_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// MariaDB 11.6 has innodb_snapshot_isolation on: a row that was changed since the
// transaction's snapshot can't be written, and the transaction is rolled back.
func TestMariaDBSnapshotConflictIsRunAgainAndNeverHalfCommitted(t *testing.T) {
	if testing.Short() {
		return // it takes MariaDB
	}
	t.Parallel()
	db := testenv.Open(t, with(testenv.MariaDB(t), "innodb_snapshot_isolation=1"))
	st, err := store.Open(t.Context(), db, store.Config{
		Dialect: store.MySQL, Migrate: true, Isolation: sql.LevelRepeatableRead,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	exec := func(query string) {
		_, err := db.ExecContext(t.Context(), query)
		require.NoError(t, err)
	}
	exec("CREATE TABLE things (id INT NOT NULL PRIMARY KEY, n INT NOT NULL)")
	exec("INSERT INTO things VALUES (1, 0)")

	work := func(swallow bool) (attempts int, err error) {
		err = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			attempts++
			_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (?, 1)", 10*attempts)
			require.NoError(t, err)
			var n int
			require.NoError(t, tx.GetContext(ctx, &n, "SELECT n FROM things WHERE id = 1"))
			if attempts == 1 {
				exec("UPDATE things SET n = n + 1 WHERE id = 1")
			}
			_, err = tx.ExecContext(ctx, "UPDATE things SET n = ? WHERE id = 1", n+100)
			if err != nil && swallow {
				_, err = tx.ExecContext(ctx, "INSERT INTO things VALUES (99, 1)")
				require.ErrorIs(t, err, store.ErrDoomed, "it would be committed at once")
			}
			return err
		})
		return attempts, err
	}
	for _, swallow := range []bool{false, true} {
		attempts, err := work(swallow)
		require.NoError(t, err)
		require.Equal(t, 2, attempts)
		var rows, n int
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM things WHERE id > 1").Scan(&rows))
		require.NoError(t, db.QueryRowContext(t.Context(), "SELECT n FROM things WHERE id = 1").Scan(&n))
		require.Equal(t, 1, rows, "the first attempt left nothing")
		require.Equal(t, 101, n)
		exec("DELETE FROM things WHERE id > 1")
		exec("UPDATE things SET n = 0")
	}
}

func TestConnectionsWithAutocommitOffAreRefused(t *testing.T) {
	if testing.Short() {
		return // it takes MariaDB
	}
	t.Parallel()
	db := testenv.Open(t, with(testenv.MariaDB(t), "autocommit=0"))
	_, err := store.Open(t.Context(), db, store.Config{Dialect: store.MySQL, Migrate: true})
	require.ErrorContains(t, err, "autocommit=0")
}
