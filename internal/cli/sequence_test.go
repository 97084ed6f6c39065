package cli

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestWhatConsumersHaveHadIsShown(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		for _, key := range []string{"a", "b"} {
			require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				p, err := st.LockPosition(ctx, tx, store.Place{Consumer: "shop.orders", Stream: "s/d/t", Key: key, Epoch: 1})
				if err != nil {
					return err
				}
				p.Start(4)
				p.Add(5)
				p.Add(7)
				return st.PutPosition(ctx, tx, p)
			}))
		}
		all := result[positionsJSON](t, exitOK, "sequence", "show", "shop.orders", "--db", url)
		require.Len(t, all.Positions, 2)
		one := result[positionsJSON](t, exitOK, "sequence", "show", "shop.orders", "--key", "b", "--db", url)
		require.Equal(t, all.Positions[1:], one.Positions)
		got := one.Positions[0]
		require.False(t, got.UpdatedAt.IsZero())
		got.UpdatedAt = all.Positions[0].UpdatedAt
		require.Equal(t, positionJSON{
			Stream: "s/d/t", Key: "b", Epoch: 1, Base: 4, Mark: 5, Ahead: 1, UpdatedAt: all.Positions[0].UpdatedAt,
		}, got)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "sequence", "show", "shop.orders", "--db", url), term.err.String())
		require.Contains(t, term.out.String(), "s/d/t")
		require.Equal(t, exitProblem, term.run(t, "sequence", "show", "nobody", "--db", url))
		require.Contains(t, term.out.String(), "nobody has had no numbered messages")

		begun := result[epochJSON](t, exitOK, "sequence", "new-epoch", "--as", "anna", "--yes", "--db", url)
		require.Greater(t, begun.Epoch, int64(1))
		audit, err := st.AuditOf(t.Context(), store.TargetSequences, "epoch", 10)
		require.NoError(t, err)
		require.Len(t, audit, 1)
		require.Equal(t, "anna", audit[0].Actor)
	})
}
