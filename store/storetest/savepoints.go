package storetest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testSavepoints(t *testing.T, h Harness) {
	each(t, h, []test{
		{"UndoTheirPart", savepointUndo},
		{"UndoAFailedNestedInTx", savepointNestedInTx},
		{"UndoASwallowedError", savepointSwallowed},
		{"UndoAPanic", savepointPanic},
		{"MakeEveryDeliveryAnAttempt", deliveries},
		{"MakeAPanicAnAttempt", deliveryPanics},
		{"GiveUpTheUnitAfterALostAttempt", deliveryLost},
	})
}

func savepointUndo(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		require.NoError(t, store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, 2))
			return store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 3) })
		}))
		err := store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, 4))
			require.NoError(t, store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
				return insert(ctx, tx, 5)
			}))
			return errBoom
		})
		require.Equal(t, errBoom, err)
		return insert(ctx, tx, 6)
	}))
	require.Equal(t, 1+2+3+6, b.int(t, "SELECT sum(id) FROM things"))
}

func savepointNestedInTx(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		err := store.Savepoint(ctx, func(ctx context.Context, _ store.Tx) error {
			return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				require.NoError(t, insert(ctx, tx, 1))
				return errBoom
			})
		})
		require.ErrorIs(t, err, errBoom)
		return insert(ctx, tx, 2)
	}))
	require.Equal(t, 2, b.int(t, "SELECT sum(id) FROM things"))
}

func savepointSwallowed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		err := store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, insert(ctx, tx, 1))
			require.Error(t, insert(ctx, tx, 1))
			return nil // swallowed
		})
		if b.h.Dialect == store.Postgres {
			require.Error(t, err, "Postgres has aborted what the savepoint holds")
		} else {
			require.NoError(t, err)
		}
		return insert(ctx, tx, 2)
	}))
	want := 1 + 2
	if b.h.Dialect == store.Postgres {
		want = 2
	}
	require.Equal(t, want, b.int(t, "SELECT sum(id) FROM things"))
}

func savepointPanic(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.Panics(t, func() {
			_ = store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
				_ = insert(ctx, tx, 1)
				panic("boom")
			})
		})
		return insert(ctx, tx, 2)
	}))
	require.Equal(t, 2, b.int(t, "SELECT sum(id) FROM things"))
}

// begin is what a subscriber does that delivers again in the same transaction.
func begin(t *testing.T, st *store.Store) (*store.Unit, context.Context) {
	t.Helper()
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	u.Savepoints()
	require.True(t, u.DeliversAgain())
	t.Cleanup(func() { u.Rollback(context.Background(), nil) })
	return u, u.Context(t.Context())
}

// The trap of watermill-sql: the inbox row of a failed attempt must not make the
// next delivery look like a duplicate.
func deliveries(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	u, ctx := begin(t, st)
	after := 0
	attempt := func(id int, outcome error) error {
		return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			_, inserted, err := st.InsertInbox(ctx, inbox("c", "m"))
			require.NoError(t, err)
			require.True(t, inserted)
			require.NoError(t, store.AfterCommit(ctx, func() { after++ }))
			require.NoError(t, insert(ctx, tx, id))
			return outcome
		})
	}
	require.ErrorIs(t, attempt(1, errBoom), errBoom)
	require.ErrorIs(t, attempt(2, errBoom), errBoom)
	require.NoError(t, attempt(3, nil))
	require.Zero(t, after, "nothing is signalled before the commit")
	require.NoError(t, u.Commit(ctx))
	require.Equal(t, 1, after)
	require.Equal(t, 3, b.int(t, "SELECT sum(id) FROM things"))
}

func deliveryPanics(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	u, ctx := begin(t, st)
	require.Panics(t, func() {
		_ = st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			_, _, _ = st.InsertInbox(ctx, inbox("c", "m"))
			_ = insert(ctx, tx, 1)
			panic("boom")
		})
	})
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, inbox("c", "m"))
		require.NoError(t, err)
		require.True(t, inserted)
		return insert(ctx, tx, 2)
	}))
	require.NoError(t, u.Commit(ctx))
	require.Equal(t, 2, b.int(t, "SELECT sum(id) FROM things"))
}

func deliveryLost(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	u, ctx := begin(t, st)
	err := st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		return b.lost()
	})
	require.True(t, st.IsContention(err))
	require.True(t, u.Over(), "every further attempt in it would fail alike")
	require.ErrorIs(t, u.Commit(ctx), store.ErrUnitOver)
	require.Zero(t, b.things(t))
}
