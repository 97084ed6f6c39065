package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// Short bounds for tests that wait for one to pass.
const (
	shortBound = 300 * time.Millisecond
	cutAfter   = 100 * time.Millisecond
	// lockBound: MySQL counts whole seconds.
	lockBound = time.Second
)

const hint = "pass msg.Context() on so that it joins"

func testTimeouts(t *testing.T, h Harness) {
	each(t, h, []test{
		{"OfALockAreTyped", timeoutLock},
		{"OfALockOutsideOfAnyUnitAreTyped", timeoutOutside},
		{"OfANestedUnitWithoutItsContext", timeoutNested},
		{"OfAStatementWithoutItsContextInAPoolOfOne", timeoutStatement},
		{"OfReadsInAPoolOfOne", timeoutReads},
		{"KeepAShorterBoundOfTheConnection", timeoutInUnit},
	})
}

// requireBounded runs f, which must fail in bounded time with a hint.
func requireBounded(t *testing.T, target error, f func() error) {
	t.Helper()
	start := time.Now()
	err := f()
	require.ErrorIs(t, err, target)
	require.ErrorContains(t, err, hint)
	require.NotContains(t, err.Error(), "nested transaction", "nobody knows that there is one")
	require.Less(t, time.Since(start), 8*time.Second)
}

// whileHeld runs f while another unit holds the row 1 of things.
func whileHeld(t *testing.T, b *bundle, st *store.Store, f func()) {
	t.Helper()
	b.exec(t, "INSERT INTO things (id, n) VALUES (1, 0)")
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	defer u.Rollback(context.Background(), nil)
	_, err = u.Tx().ExecContext(t.Context(), "UPDATE things SET n = 1 WHERE id = 1")
	require.NoError(t, err)
	f()
}

func timeoutLock(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{LockTimeout: lockBound, ConnTimeout: shortBound})
	whileHeld(t, b, st, func() {
		requireBounded(t, store.ErrLockTimeout, func() error {
			return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				_, err := tx.ExecContext(ctx, "UPDATE things SET n = 2 WHERE id = 1")
				return err
			})
		})
	})
}

// A statement that has lost its message's context waits for its own unit.
func timeoutOutside(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{LockTimeout: lockBound, ConnTimeout: shortBound})
	update := b.bind("UPDATE things SET n = ? WHERE id = 1")
	whileHeld(t, b, st, func() {
		requireBounded(t, store.ErrLockTimeout, func() error {
			_, err := store.JoinDB(st).ExecContext(context.Background(), update, 2)
			return err
		})
		requireBounded(t, store.ErrLockTimeout, func() error {
			tx, err := store.JoinDB(st).BeginTx(context.Background(), nil)
			require.NoError(t, err)
			defer tx.Rollback()
			_, err = tx.ExecContext(context.Background(), update, 2)
			return err
		})
	})
	require.Equal(t, 0, b.int(t, "SELECT n FROM things WHERE id = 1"))
	_, err := store.JoinDB(st).ExecContext(context.Background(), update, 3)
	require.NoError(t, err, "the connection is as good as before")
	require.Equal(t, 3, b.int(t, "SELECT n FROM things WHERE id = 1"))
}

func timeoutNested(t *testing.T, b *bundle) {
	if !b.poolOfOne() {
		return
	}
	st := b.store(t, store.Config{ConnTimeout: shortBound})
	want := store.ErrConnTimeout
	if b.h.Dialect == store.SQLite { // which waits for its turn as the writer first
		want = store.ErrLockTimeout
	}
	require.NoError(t, st.InTx(t.Context(), func(context.Context, store.Tx) error {
		requireBounded(t, want, func() error {
			return st.InTx(context.Background(), func(context.Context, store.Tx) error {
				t.Error("it can't have got a connection")
				return nil
			})
		})
		return nil
	}))
}

func timeoutStatement(t *testing.T, b *bundle) {
	if !b.poolOfOne() {
		return
	}
	st := b.store(t, store.Config{ConnTimeout: shortBound})
	require.NoError(t, st.InTx(t.Context(), func(context.Context, store.Tx) error {
		requireBounded(t, store.ErrConnTimeout, func() error {
			_, err := store.JoinDB(st).ExecContext(context.Background(), "INSERT INTO things (id, n) VALUES (1, 1)")
			return err
		})
		return nil
	}))
	require.Zero(t, b.things(t))
}

func timeoutReads(t *testing.T, b *bundle) {
	if !b.poolOfOne() {
		return
	}
	st := b.store(t, store.Config{ConnTimeout: shortBound})
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	defer u.Rollback(context.Background(), nil)
	ctx := context.Background()
	for name, read := range map[string]func() error{
		"ReadOutbox":  func() error { _, err := st.ReadOutbox(ctx, shard(0), 0, 1, 1); return err },
		"CountOutbox": func() error { _, err := st.CountOutbox(ctx); return err },
		"CountInbox":  func() error { _, err := st.CountInbox(ctx); return err },
		"Leases":      func() error { _, err := st.Leases(ctx, ""); return err },
		"Waiting":     func() error { _, err := st.WaitingPartitions(ctx, ""); return err },
	} {
		require.ErrorIs(t, read(), store.ErrConnTimeout, name)
	}
}

func timeoutInUnit(t *testing.T, b *bundle) {
	query := map[store.Dialect]string{
		store.Postgres: "SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'",
		store.MySQL:    "SELECT @@innodb_lock_wait_timeout * 1000",
	}[b.h.Dialect]
	if query == "" {
		return
	}
	st := b.store(t, store.Config{LockTimeout: 7 * time.Second})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		var ms int
		require.NoError(t, tx.GetContext(ctx, &ms, query))
		require.Equal(t, 7000, ms)
		return nil
	}))
}
