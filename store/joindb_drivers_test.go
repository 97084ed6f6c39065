package store_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// What one driver can do beyond the others reaches it through JoinDB, in a unit
// as outside of any.

func inUnitAndOutside(t *testing.T, db *sql.DB, dialect store.Dialect, use func(ctx context.Context, joined *sql.DB)) {
	t.Helper()
	st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	use(t.Context(), db) // as it is without Headrace
	use(t.Context(), store.JoinDB(st))
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		use(ctx, store.JoinDB(st))
		return nil
	}))
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer tx.Rollback()
	use(st.Join(t.Context(), tx), store.JoinDB(st))
}

func TestPGXTypesPassThroughJoinDB(t *testing.T) {
	if testing.Short() {
		return // it takes Postgres
	}
	t.Parallel()
	db := testenv.Open(t, testenv.Postgres(t))
	inUnitAndOutside(t, db, store.Postgres, func(ctx context.Context, joined *sql.DB) {
		id := uuid.New()
		var (
			gotID   uuid.UUID
			texts   []string
			numbers []int64
			m       = pgtype.NewMap()
			price   string
			raw     []byte
		)
		err := joined.QueryRowContext(ctx, "SELECT $1::uuid, $2::text[], $3::bigint[], $4::numeric, $5::jsonb",
			id, []string{"a", "b,\"c"}, []int64{1, 2}, "12.50", map[string]any{"a": 1}).
			Scan(&gotID, m.SQLScanner(&texts), m.SQLScanner(&numbers), &price, &raw)
		require.NoError(t, err)
		require.Equal(t, id, gotID)
		require.Equal(t, []string{"a", "b,\"c"}, texts)
		require.Equal(t, []int64{1, 2}, numbers)
		require.Equal(t, "12.50", price)
		require.JSONEq(t, `{"a": 1}`, string(raw))

		var n int
		require.NoError(t, joined.QueryRowContext(ctx, "SELECT @a::int + @b::int", pgx.NamedArgs{"a": 1, "b": 2}).Scan(&n))
		require.Equal(t, 3, n)
		require.NoError(t, joined.QueryRowContext(ctx, "SELECT count(*) FROM generate_series(1, 9) AS s(i) WHERE i = ANY($1)",
			[]int{2, 3, 77}).Scan(&n))
		require.Equal(t, 2, n)
	})
}

func TestPQTypesPassThroughJoinDB(t *testing.T) {
	if testing.Short() {
		return // it takes Postgres
	}
	t.Parallel()
	db := openWith(t, "postgres", testenv.Postgres(t))
	inUnitAndOutside(t, db, store.Postgres, func(ctx context.Context, joined *sql.DB) {
		id := uuid.New()
		var (
			gotID uuid.UUID
			texts []string
			moved pq.NullTime
		)
		err := joined.QueryRowContext(ctx, "SELECT $1::uuid, $2::text[], $3::timestamptz", id, pq.Array([]string{"a", "b"}), nil).
			Scan(&gotID, pq.Array(&texts), &moved)
		require.NoError(t, err)
		require.Equal(t, id, gotID)
		require.Equal(t, []string{"a", "b"}, texts)
		require.False(t, moved.Valid)
		twoResults(ctx, t, joined)
	})
}

func TestMySQLTypesPassThroughJoinDB(t *testing.T) {
	if testing.Short() {
		return // it takes MariaDB
	}
	t.Parallel()
	db := testenv.Open(t, with(testenv.MariaDB(t), "multiStatements=true&parseTime=true"))
	inUnitAndOutside(t, db, store.MySQL, func(ctx context.Context, joined *sql.DB) {
		at := time.Date(2024, 2, 29, 1, 2, 3, 0, time.UTC)
		var (
			gotAt time.Time
			huge  uint64
			raw   sql.RawBytes
		)
		require.NoError(t, joined.QueryRowContext(ctx, "SELECT CAST(? AS DATETIME), CAST(? AS UNSIGNED)", at, uint64(1<<63)).
			Scan(&gotAt, &huge))
		require.Equal(t, at, gotAt)
		require.Equal(t, uint64(1<<63), huge)
		rows, err := joined.QueryContext(ctx, "SELECT 'raw'")
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.NoError(t, rows.Scan(&raw))
		require.Equal(t, "raw", string(raw))
		require.NoError(t, rows.Close())
		twoResults(ctx, t, joined)
	})
}

func TestSQLiteNamedArgumentsPassThroughJoinDB(t *testing.T) {
	t.Parallel()
	db := testenv.Open(t, testenv.SQLite(t))
	inUnitAndOutside(t, db, store.SQLite, func(ctx context.Context, joined *sql.DB) {
		var n int
		require.NoError(t, joined.QueryRowContext(ctx, "SELECT :a - :b", sql.Named("b", 1), sql.Named("a", 10)).Scan(&n))
		require.Equal(t, 9, n)
	})
}

// twoResults reads two result sets, once as they come, once with another
// statement in between.
func twoResults(ctx context.Context, t *testing.T, joined *sql.DB) {
	t.Helper()
	for _, between := range []bool{false, true} {
		rows, err := joined.QueryContext(ctx, "SELECT 1 AS a; SELECT 2 AS b UNION ALL SELECT 3")
		require.NoError(t, err)
		require.True(t, rows.Next())
		if between {
			_, err := joined.ExecContext(ctx, "SELECT 7")
			require.NoError(t, err)
		}
		var n int
		require.NoError(t, rows.Scan(&n))
		require.Equal(t, 1, n)
		require.False(t, rows.Next())
		require.True(t, rows.NextResultSet())
		columns, err := rows.Columns()
		require.NoError(t, err)
		require.Equal(t, []string{"b"}, columns)
		for want := 2; want <= 3; want++ {
			require.True(t, rows.Next())
			require.NoError(t, rows.Scan(&n))
			require.Equal(t, want, n)
		}
		require.False(t, rows.Next())
		require.False(t, rows.NextResultSet())
		require.NoError(t, rows.Err())
		require.NoError(t, rows.Close())
	}
}
