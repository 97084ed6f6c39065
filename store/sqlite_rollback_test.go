package store_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// SQLite alone lets a statement roll the whole transaction back. A handler that
// takes the error for a duplicate key's and goes on would write outside of it.
func TestSQLiteStatementsThatRollTheTransactionBackDoomTheUnit(t *testing.T) {
	t.Parallel()
	exec := func(query string) func(context.Context, *sql.DB) error {
		return func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, query)
			return err
		}
	}
	for name, ending := range map[string]func(context.Context, *sql.DB) error{
		"InsertOrRollback":   exec("INSERT OR ROLLBACK INTO things VALUES (1)"),
		"OnConflictRollback": exec("INSERT INTO strict_things VALUES (1)"),
		"RaiseRollback":      exec("INSERT INTO guarded_things VALUES (1)"),
		"Returning": func(ctx context.Context, db *sql.DB) error {
			var n int
			return db.QueryRowContext(ctx, "INSERT OR ROLLBACK INTO things VALUES (2), (1) RETURNING n").Scan(&n)
		},
		"WhileRowsAreRead": func(ctx context.Context, db *sql.DB) error {
			rows, err := db.QueryContext(ctx, "SELECT n FROM things")
			if err != nil {
				return err
			}
			defer rows.Close()
			rows.Next()
			_, err = db.ExecContext(ctx, "INSERT OR ROLLBACK INTO things VALUES (1)")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, testenv.SQLite(t))
			st, err := store.Open(t.Context(), db, store.Config{Dialect: store.SQLite, Migrate: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			for _, statement := range []string{
				"CREATE TABLE things (n INTEGER PRIMARY KEY)", "INSERT INTO things VALUES (1)",
				"CREATE TABLE strict_things (n INTEGER PRIMARY KEY ON CONFLICT ROLLBACK)", "INSERT INTO strict_things VALUES (1)",
				"CREATE TABLE guarded_things (n INTEGER)",
				"CREATE TRIGGER guard BEFORE INSERT ON guarded_things BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
			} {
				_, err := db.ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			work := func(ctx context.Context) error {
				return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
					_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (7)")
					require.NoError(t, err)
					require.Error(t, ending(ctx, store.JoinDB(st)))
					_, err = tx.ExecContext(ctx, "INSERT INTO things VALUES (8)")
					require.ErrorIs(t, err, store.ErrDoomed)
					return nil // swallowed
				})
			}
			rows := func() (n int) {
				require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM things").Scan(&n))
				return n
			}
			require.ErrorIs(t, work(t.Context()), store.ErrDoomed)
			require.Equal(t, 1, rows())

			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			require.ErrorIs(t, work(st.Join(t.Context(), tx)), store.ErrDoomed)
			require.Error(t, tx.Commit())
			require.Equal(t, 1, rows())
		})
	}
}

// Any other error leaves the transaction as it is.
func TestSQLiteStatementsThatFailAloneLeaveTheUnitUsable(t *testing.T) {
	t.Parallel()
	db := testenv.Open(t, testenv.SQLite(t))
	st, err := store.Open(t.Context(), db, store.Config{Dialect: store.SQLite, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	_, err = db.ExecContext(t.Context(), "CREATE TABLE things (n INTEGER PRIMARY KEY); INSERT INTO things VALUES (0)")
	require.NoError(t, err)
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for _, failing := range []string{
			"INSERT INTO things VALUES (0)", "INSERT OR ABORT INTO things VALUES (0)", "INSERT INTO nowhere VALUES (0)",
			"nonsense",
		} {
			_, err := tx.ExecContext(ctx, failing)
			require.Error(t, err, failing)
			_, err = tx.ExecContext(ctx, "INSERT INTO things SELECT max(n) + 1 FROM things")
			require.NoError(t, err, failing)
		}
		return nil
	}))
	var n int
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM things").Scan(&n))
	require.Equal(t, 5, n)
}
