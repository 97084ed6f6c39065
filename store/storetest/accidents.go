package storetest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// What goes wrong in code around a unit must not make half of it stand.
func testAccidents(t *testing.T, h Harness) {
	each(t, h, []test{
		{"NestedPanicThatWasRecoveredCannotBeCommitted", accidentNestedPanic},
		{"FailureBesideANestedTransactionOutlivesItsRollback", accidentBeside},
		{"HookThatPanicsAfterTheCommitKeepsNoneFromRunning", accidentHook},
		{"ConnectionClosedByAPanicIsNotCommitted", accidentConnection},
	})
}

func recovered(f func()) {
	defer func() { _ = recover() }()
	f()
}

func accidentNestedPanic(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		recovered(func() {
			_ = st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				require.NoError(t, insert(ctx, tx, 1))
				panic("boom")
			})
		})
		return nil
	}), store.ErrDoomed)
	require.Zero(t, b.things(t))
}

func accidentBeside(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		nested, err := store.JoinDB(st).BeginTx(ctx, nil)
		require.NoError(t, err)
		require.ErrorIs(t, st.InTx(ctx, func(context.Context, store.Tx) error { return errBoom }), errBoom)
		require.NoError(t, nested.Rollback())
		return nil // swallowed
	}), errBoom)
	require.Zero(t, b.things(t))
}

func accidentHook(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ran := 0
	require.PanicsWithValue(t, "boom", func() {
		_ = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			for range 2 {
				require.NoError(t, store.AfterCommit(ctx, func() { ran++ }))
				require.NoError(t, store.AfterCommit(ctx, func() { panic("boom") }))
			}
			return insert(ctx, tx, 1)
		})
	})
	require.Equal(t, 2, ran)
	require.Equal(t, 1, b.things(t))
	require.Zero(t, b.inUse())
}

// panicking is an argument that panics when the driver asks for its value.
type panicking struct{}

func (panicking) Value() (driver.Value, error) { panic("boom") }

func accidentConnection(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		recovered(func() {
			_, _ = tx.ExecContext(ctx, "UPDATE things SET n = ?", panicking{})
		})
		return nil
	})
	if err != nil { // a driver may ask where a panic costs no connection
		require.NotErrorIs(t, err, store.ErrCommitUnknown)
		require.ErrorIs(t, err, store.ErrDoomed)
		require.ErrorIs(t, err, sql.ErrConnDone)
		require.Zero(t, b.things(t))
	}
	require.Zero(t, b.inUse())
	b.exec(t, "DELETE FROM things")
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 2) }))
}
