package pgxstore_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

// Code that gets no transaction turns to its pool, where nothing protects it.
func TestEachStoreFindsTheTransactionThatItJoined(t *testing.T) {
	b := setup(t)
	other, err := pgxstore.Open(t.Context(), b.pool, store.Config{Migrate: true, Prefix: "other_"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close()) })
	first, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer first.Rollback(context.Background()) //nolint:errcheck // the other one is committed
	second, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer second.Rollback(context.Background()) //nolint:errcheck // for a test that fails

	ctx := pgxstore.Join(pgxstore.Join(t.Context(), b.st, first), other, second)
	require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
		_, err := native(ctx, t).Exec(ctx, "INSERT INTO things VALUES (1)")
		require.NoError(t, err)
		return other.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
			_, err := native(ctx, t).Exec(ctx, "INSERT INTO things VALUES (2)")
			return err
		})
	}))
	require.NoError(t, second.Commit(t.Context()))
	require.Equal(t, 1, b.count(t), "the first wasn't committed")
}
