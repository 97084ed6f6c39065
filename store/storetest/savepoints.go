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
