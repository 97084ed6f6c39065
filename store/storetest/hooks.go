package storetest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testHooks(t *testing.T, h Harness) {
	each(t, h, []test{
		{"RunAroundTheCommitInOrder", hooksOrder},
		{"AHooksErrorRollsBack", hooksError},
		{"AHookMayRegisterHooks", hooksNested},
		{"ARollbackRunsNoneOfThem", hooksRollback},
		{"GoWithTheirSavepoint", hooksSavepoint},
		{"APanicRollsBack", hooksPanic},
		{"NeedAUnit", hooksOutside},
	})
}

func hooksOrder(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	var order []string
	note := func(what string) func() { return func() { order = append(order, what) } }
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		require.NoError(t, store.AfterCommit(ctx, func() {
			note("after 1")()
			require.Equal(t, 2, b.things(t), "it is committed")
		}))
		for id, what := range map[int]string{1: "before 1"} {
			require.NoError(t, store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
				note(what)()
				return insert(ctx, tx, id)
			}))
		}
		require.NoError(t, store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
			note("before 2")()
			return insert(ctx, tx, 2)
		}))
		require.NoError(t, store.AfterCommit(ctx, note("after 2")))
		note("handler")()
		return nil
	}))
	require.Equal(t, []string{"handler", "before 1", "before 2", "after 1", "after 2"}, order)
}

func hooksError(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, store.BeforeCommit(ctx, func(context.Context, store.Tx) error { return errBoom }))
		require.NoError(t, store.AfterCommit(ctx, func() { t.Error("it was not committed") }))
		return insert(ctx, tx, 1)
	})
	require.ErrorIs(t, err, errBoom)
	require.Zero(t, b.things(t))
}

func hooksNested(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	after := 0
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		return store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, store.AfterCommit(ctx, func() { after++ }))
			require.NoError(t, store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
				return insert(ctx, tx, 2)
			}))
			return insert(ctx, tx, 1)
		})
	}))
	require.Equal(t, 2, b.things(t))
	require.Equal(t, 1, after)
}

func hooksRollback(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		require.NoError(t, store.BeforeCommit(ctx, func(context.Context, store.Tx) error {
			t.Error("it is not going to be committed")
			return nil
		}))
		require.NoError(t, store.AfterCommit(ctx, func() { t.Error("it was not committed") }))
		return errBoom
	})
	require.ErrorIs(t, err, errBoom)
}

func hooksSavepoint(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	var ran []string
	hook := func(ctx context.Context, name string) {
		require.NoError(t, store.BeforeCommit(ctx, func(context.Context, store.Tx) error {
			ran = append(ran, "before "+name)
			return nil
		}))
		require.NoError(t, store.AfterCommit(ctx, func() { ran = append(ran, "after "+name) }))
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		hook(ctx, "unit")
		require.NoError(t, store.Savepoint(ctx, func(ctx context.Context, _ store.Tx) error {
			hook(ctx, "kept")
			return nil
		}))
		require.ErrorIs(t, store.Savepoint(ctx, func(ctx context.Context, _ store.Tx) error {
			hook(ctx, "undone")
			return errBoom
		}), errBoom)
		nested, err := store.JoinDB(st).BeginTx(ctx, nil)
		require.NoError(t, err)
		hook(ctx, "in a nested transaction that was undone")
		require.NoError(t, nested.Rollback())
		return nil
	}))
	require.Equal(t, []string{"before unit", "before kept", "after unit", "after kept"}, ran)
}

func hooksPanic(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	ctx := u.Context(t.Context())
	require.NoError(t, insert(ctx, u.Tx(), 1))
	require.NoError(t, store.BeforeCommit(ctx, func(context.Context, store.Tx) error { panic("boom") }))
	require.PanicsWithValue(t, "boom", func() { _ = u.Commit(ctx) })
	require.True(t, u.Over())
	require.Zero(t, b.things(t))
	require.Zero(t, b.inUse())
}

func hooksOutside(t *testing.T, _ *bundle) {
	require.ErrorIs(t, store.AfterCommit(t.Context(), func() {}), store.ErrNoUnit)
	require.ErrorIs(t, store.BeforeCommit(t.Context(), nil), store.ErrNoUnit)
	require.ErrorIs(t, store.Savepoint(t.Context(), nil), store.ErrNoUnit)
}
