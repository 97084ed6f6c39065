package storetest

import (
	"context"
	"database/sql"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// Existing code with a *sql.DB of its own.
func testJoinDB(t *testing.T, h Harness) {
	each(t, h, []test{
		{"JoinsByContext", joinByContext},
		{"RunsAStatementPerRow", joinPerRow},
		{"PreparedOutsideUsedInside", joinPrepared},
		{"KeepsValuesAndNulls", joinValues},
		{"LendsTransactions", joinLent},
		{"OutlivesAStatementsTimeout", joinTimeout},
		{"ServesManyUnitsAtOnce", joinMany},
		{"ClosesRowsThatWereLeftOpen", joinOpenRows},
		{"KeepsATransactionThatWasBegunByAStatement", joinBegunByHand},
	})
}

func joinByContext(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	db := store.JoinDB(st)
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := db.ExecContext(ctx, "INSERT INTO things (id, n) VALUES (1, 1)")
		require.NoError(t, err)
		var n int
		require.NoError(t, tx.GetContext(ctx, &n, "SELECT count(*) FROM things"))
		require.Equal(t, 1, n)
		require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM things").Scan(&n))
		require.Equal(t, 1, n)
		require.ErrorIs(t, db.QueryRowContext(ctx, "SELECT n FROM things WHERE id = 9").Scan(&n), sql.ErrNoRows)
		conn, err := db.Conn(ctx)
		require.NoError(t, err)
		require.NoError(t, conn.QueryRowContext(ctx, "SELECT count(*) FROM things").Scan(&n))
		require.Equal(t, 1, n)
		require.NoError(t, conn.Close())
		return errBoom
	}), errBoom)
	require.Zero(t, b.things(t))

	_, err := db.ExecContext(t.Context(), "INSERT INTO things (id, n) VALUES (2, 2)")
	require.NoError(t, err, "outside of any unit it is the database as ever")
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "INSERT INTO things (id, n) VALUES (3, 3)")
	require.NoError(t, err)
	require.NoError(t, tx.Rollback())
	require.NoError(t, db.PingContext(t.Context()))
	require.Equal(t, 1, b.things(t))
	require.Zero(t, b.inUse())
}

// A *sql.DB serves the inner statement from a second connection; a transaction
// has but one.
func joinPerRow(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for id := range 50 {
		b.exec(t, "INSERT INTO things (id, n) VALUES (?, ?)", id, id)
	}
	db := store.JoinDBX(st)
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		outer, err := db.QueryxContext(ctx, "SELECT id, n FROM things ORDER BY id")
		require.NoError(t, err)
		defer outer.Close()
		for want := 0; outer.Next(); want++ {
			var row struct {
				ID int `db:"id"`
				N  int `db:"n"`
			}
			require.NoError(t, outer.StructScan(&row))
			require.Equal(t, want, row.ID)
			require.Equal(t, want, row.N)
			inner, err := db.QueryxContext(ctx, db.Rebind("SELECT n FROM things WHERE id >= ? ORDER BY id"), row.ID)
			require.NoError(t, err)
			require.True(t, inner.Next())
			_, err = db.ExecContext(ctx, db.Rebind("UPDATE things SET n = n + 1000 WHERE id = ?"), row.ID)
			require.NoError(t, err)
			require.NoError(t, inner.Close())
		}
		return outer.Err()
	}))
	require.Equal(t, 50, b.int(t, "SELECT count(*) FROM things WHERE n = id + 1000"))
}

func joinPrepared(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	db := store.JoinDB(st)
	insertion, err := db.PrepareContext(t.Context(), b.bind("INSERT INTO things (id, n) VALUES (?, ?)"))
	require.NoError(t, err)
	defer func() { require.NoError(t, insertion.Close()) }()
	count, err := db.PrepareContext(t.Context(), b.bind("SELECT count(*) FROM things WHERE n > ?"))
	require.NoError(t, err)
	defer func() { require.NoError(t, count.Close()) }()
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for id := range 3 {
			_, err := insertion.ExecContext(ctx, id, 10)
			require.NoError(t, err)
		}
		var n int
		require.NoError(t, count.QueryRowContext(ctx, 5).Scan(&n))
		require.Equal(t, 3, n)
		nested, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		_, err = nested.StmtContext(ctx, insertion).ExecContext(ctx, 7, 10)
		require.NoError(t, err)
		require.NoError(t, nested.Commit())
		require.NoError(t, count.QueryRowContext(ctx, 5).Scan(&n))
		require.Equal(t, 4, n)
		return errBoom
	}), errBoom)
	require.Zero(t, b.things(t))
	_, err = insertion.ExecContext(t.Context(), 1, 1)
	require.NoError(t, err)
	require.Equal(t, 1, b.things(t))
}

func joinValues(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	b.exec(t, map[store.Dialect]string{
		store.Postgres: "CREATE TABLE vals (id int, s text, bin bytea, at timestamptz, ok boolean, f double precision)",
		store.MySQL:    "CREATE TABLE vals (id int, s varchar(100), bin blob, at datetime(6), ok boolean, f double)",
		store.SQLite:   "CREATE TABLE vals (id int, s text, bin blob, at timestamp, ok boolean, f real)",
	}[b.h.Dialect])
	at := time.Date(2024, 2, 29, 12, 30, 15, 123456000, time.UTC)
	write := func(db *sql.DB, ctx context.Context, id int, values ...any) {
		_, err := db.ExecContext(ctx, b.bind("INSERT INTO vals (id, s, bin, at, ok, f) VALUES (?, ?, ?, ?, ?, ?)"),
			append([]any{id}, values...)...)
		require.NoError(t, err)
	}
	read := func(db *sql.DB, ctx context.Context, id int) []any {
		var s sql.NullString
		var bin []byte
		var moment any
		var ok sql.NullBool
		var f sql.NullFloat64
		require.NoError(t, db.QueryRowContext(ctx, b.bind("SELECT s, bin, at, ok, f FROM vals WHERE id = ?"), id).
			Scan(&s, &bin, &moment, &ok, &f))
		if m, isTime := moment.(time.Time); isTime {
			moment = m.UTC()
		}
		return []any{s, bin, moment, ok, f}
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		db := store.JoinDB(st)
		write(db, ctx, 1, "text 'ü", []byte{0, 1, 255}, at, true, 1.5)
		write(db, ctx, 2, nil, nil, nil, nil, nil)
		write(db, ctx, 3, sql.NullString{String: "x", Valid: true}, []byte{}, sql.NullTime{}, sql.NullBool{}, sql.NullFloat64{})
		var nilText *string
		write(db, ctx, 4, nilText, []byte("b"), &at, false, float32(0.5))
		return nil
	}))
	// What the driver alone makes of them is the measure.
	for id := 1; id <= 4; id++ {
		plain := read(b.db, t.Context(), id)
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			require.Equal(t, plain, read(store.JoinDB(st), ctx, id))
			return nil
		}))
		require.Equal(t, plain, read(store.JoinDB(st), t.Context(), id))
	}
	first := read(b.db, t.Context(), 1)
	require.Equal(t, sql.NullString{String: "text 'ü", Valid: true}, first[0])
	require.Equal(t, []byte{0, 1, 255}, first[1])
	require.Equal(t, sql.NullBool{Bool: true, Valid: true}, first[3])
	if moment, ok := first[2].(time.Time); ok {
		require.Equal(t, at, moment)
	}
	require.Equal(t, sql.NullString{}, read(b.db, t.Context(), 2)[0])
}

func joinLent(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	_, ok := store.SQLTx(t.Context())
	require.False(t, ok)
	var kept *sql.Tx
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		kept, ok = store.SQLTx(ctx)
		require.True(t, ok)
		_, err := kept.Exec("INSERT INTO things (id, n) VALUES (1, 1)") //nolint:noctx // as old code does
		require.NoError(t, err)
		require.ErrorIs(t, kept.Commit(), store.ErrOwned)
		return insert(ctx, tx, 2)
	}))
	require.Equal(t, 2, b.things(t))
	_, err := kept.ExecContext(t.Context(), "INSERT INTO things (id, n) VALUES (3, 3)")
	require.Error(t, err, "it is over")

	err = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 4))
		lent, ok := store.SQLTx(ctx)
		require.True(t, ok)
		require.NoError(t, lent.Rollback())
		require.ErrorIs(t, insert(ctx, tx, 5), store.ErrDoomed, "whoever rolls back wants nothing of it to stand")
		return nil
	})
	require.ErrorIs(t, err, store.ErrOwned)
	require.Equal(t, 2, b.things(t))
}

// joinTimeout: outside of a unit a cancelled statement costs its own connection
// at most.
func joinTimeout(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	cut, cancel := context.WithTimeout(t.Context(), cutAfter)
	defer cancel()
	_, err := store.JoinDB(st).ExecContext(cut, b.slow())
	require.Error(t, err)
	_, err = store.JoinDB(st).ExecContext(t.Context(), "INSERT INTO things (id, n) VALUES (1, 1)")
	require.NoError(t, err)
	eventually(t, "the connections come back", func() bool { return b.inUse() == 0 })
}

func joinMany(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	db := store.JoinDB(st)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 5 {
				id := g*5 + i
				err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
					if _, err := db.ExecContext(ctx, b.bind("INSERT INTO things (id, n) VALUES (?, ?)"), id, id); err != nil {
						return err
					}
					if id%2 == 1 {
						return errBoom
					}
					return nil
				})
				if (err == nil) != (id%2 == 0) {
					t.Error(id, err)
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, 20, b.things(t))
	require.Zero(t, b.int(t, "SELECT count(*) FROM things WHERE n % 2 = 1"))
}

func joinOpenRows(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	b.exec(t, "INSERT INTO things (id, n) VALUES (1, 1), (2, 2), (3, 3)")
	var left *sql.Rows
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) (err error) {
		left, err = store.JoinDB(st).QueryContext(ctx, "SELECT id FROM things ORDER BY id")
		require.NoError(t, err)
		require.True(t, left.Next())
		return nil
	}), "rows that were left open don't hold up the commit")
	require.False(t, left.Next())
	require.ErrorIs(t, left.Err(), store.ErrUnitOver, "and don't look as if they had ended")
	require.NoError(t, left.Close())
	require.Zero(t, b.inUse())
}

// Old code that takes a *sql.Conn and speaks to it as to a console.
func joinBegunByHand(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	conn, err := store.JoinDB(st).Conn(t.Context())
	require.NoError(t, err)
	run := func(ctx context.Context, query string) {
		_, err := conn.ExecContext(ctx, query)
		require.NoError(t, err, query)
	}
	run(t.Context(), "/* by hand */ BEGIN")
	run(t.Context(), "INSERT INTO things (id, n) VALUES (1, 1)")
	run(t.Context(), "UPDATE things SET n = 2")
	run(t.Context(), "ROLLBACK")
	require.Zero(t, b.things(t), "no statement has ended it")
	run(t.Context(), "BEGIN")
	run(t.Context(), "INSERT INTO things (id, n) VALUES (2, 1)")
	run(t.Context(), "COMMIT")
	require.Equal(t, 1, b.things(t))
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		run(ctx, "INSERT INTO things (id, n) VALUES (3, 1)") // it is over: the statement joins
		return nil
	}))
	require.Equal(t, 2, b.things(t))

	run(t.Context(), "BEGIN")
	run(t.Context(), "INSERT INTO things (id, n) VALUES (4, 1)")
	require.NoError(t, conn.Close())
	for range 10 {
		require.NoError(t, st.InTx(t.Context(), func(context.Context, store.Tx) error { return nil }))
	}
	require.Equal(t, 2, b.things(t), "whoever gets its connection doesn't commit what was left open")
}
