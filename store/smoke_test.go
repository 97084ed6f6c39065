package store_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

var dialects = map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}

func setup(t *testing.T, kind string, cfg store.Config) (*store.Store, *sql.DB) {
	t.Helper()
	db := testenv.Open(t, testenv.Database(t, kind))
	cfg.Dialect, cfg.Migrate = dialects[kind], true
	st, err := store.Open(t.Context(), db, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st, db
}

func TestSmoke(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			st, db := setup(t, kind, store.Config{})
			ctx := t.Context()
			_, err := db.ExecContext(ctx, "CREATE TABLE things (id int primary key, n int)")
			require.NoError(t, err)

			require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				_, inserted, err := st.InsertInbox(ctx, store.InboxRow{Consumer: "c", MessageID: "m", Verdict: store.Applied})
				require.NoError(t, err)
				require.True(t, inserted)
				joined := store.JoinDBX(st)
				_, err = joined.ExecContext(ctx, joined.Rebind("INSERT INTO things VALUES (?, ?)"), 1, 1)
				require.NoError(t, err)
				inner, err := joined.BeginTxx(ctx, nil)
				require.NoError(t, err)
				_, err = inner.Exec("INSERT INTO things VALUES (2, 2)")
				require.NoError(t, err)
				require.NoError(t, inner.Rollback())
				sqlxTx, ok := store.SQLXTx(ctx)
				require.True(t, ok)
				var n int
				require.NoError(t, sqlxTx.Get(&n, "SELECT count(*) FROM things"))
				require.Equal(t, 1, n)
				require.NoError(t, tx.GetContext(ctx, &n, "SELECT n FROM things WHERE id = ?", 1))
				return nil
			}))
			require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				row, inserted, err := st.InsertInbox(ctx, store.InboxRow{Consumer: "c", MessageID: "m", Verdict: store.Applied})
				require.NoError(t, err)
				require.False(t, inserted)
				require.WithinDuration(t, time.Now(), row.ProcessedAt, time.Minute)
				return st.InsertOutbox(ctx, tx, []store.OutboxRow{{MessageID: "1", Destination: "d", Topic: "t", Payload: []byte("x"), Metadata: map[string]string{"a": "b"}}})
			}))
			boom := errors.New("boom")
			require.ErrorIs(t, st.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
				_, err := store.JoinDB(st).ExecContext(ctx, "INSERT INTO things VALUES (3, 3)")
				require.NoError(t, err)
				return boom
			}), boom)
			var n int
			require.NoError(t, db.QueryRow("SELECT count(*) FROM things").Scan(&n))
			require.Equal(t, 1, n)

			lease, ok, err := st.AcquireLease(ctx, "outbox/0", "me", time.Minute)
			require.NoError(t, err)
			require.True(t, ok)
			_, ok, err = st.AcquireLease(ctx, "outbox/0", "you", time.Minute)
			require.NoError(t, err)
			require.False(t, ok)
			held, err := st.RenewLeases(ctx, "outbox/", "me", time.Minute)
			require.NoError(t, err)
			require.Len(t, held, 1)
			require.InDelta(t, time.Minute, held[0].ExpiresIn, float64(5*time.Second))

			counts, err := st.CountOutbox(ctx)
			require.NoError(t, err)
			require.Len(t, counts, 1)
			for p := range store.OutboxPartitions {
				rows, err := st.ReadOutbox(ctx, p, 0, 10, 1000)
				require.NoError(t, err)
				for _, row := range rows {
					require.Equal(t, "b", row.Metadata["a"])
					n, err := st.ConfirmOutbox(ctx, lease, p, []int64{row.ID})
					require.NoError(t, err)
					require.EqualValues(t, 1, n)
				}
			}
			purged, err := st.PurgeInbox(ctx, "c", -time.Minute, 10)
			require.NoError(t, err)
			require.EqualValues(t, 1, purged)
			require.NoError(t, st.Migrator().Down(ctx))
			require.ErrorIs(t, st.CheckSchema(ctx), store.ErrSchemaMissing)
			require.NoError(t, st.Migrator().Up(ctx))
		})
	}
}
