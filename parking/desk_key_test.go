package parking_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestAKeyIsPausedResumedAndReleased(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		nothing := func(row store.ParkedRow) error {
			k.Errorf("message %d is handled", row.ID)
			return nil
		}
		fine := func(store.ParkedRow) error { return nil }

		_, err := desk.ReleaseKey(ctx, shop, "a", parking.RetryOptions{})
		require.ErrorIs(k, err, store.ErrNotHeld)
		require.ErrorContains(k, err, `"a" of "shop.orders"; what comes for it is handled at once`)
		_, err = desk.ResumeKey(ctx, shop, "a")
		require.ErrorIs(k, err, store.ErrNotHeld)
		_, err = desk.PauseKey(ctx, "shop.odrers", "a")
		require.ErrorIs(k, err, store.ErrUnknownConsumer, "nobody would ever resume it")
		state, err := desk.Key(ctx, shop, "a")
		require.NoError(k, err)
		require.Nil(k, state.Gate)

		bad := k.park("a", "1", store.StatusParked, parking.Permanent, errBad)
		late := k.park("a", "2", store.StatusDelayed, parking.Transient, errDown)
		k.park("a", "3", store.StatusWaiting, "", nil)
		_, err = desk.ResumeKey(ctx, shop, "a")
		require.ErrorIs(k, err, parking.ErrNotPaused)
		state, err = desk.PauseKey(ctx, shop, "a")
		require.NoError(k, err)
		require.True(k, state.Gate.Paused)
		require.Equal(k, bad, state.Head.ID)
		require.Equal(k, 2, state.Head.Behind)
		require.Equal(k, "pause", state.Audit[0].Action)
		require.Equal(k, "a", state.Audit[0].Subject)

		freed, err := desk.ReleaseKey(ctx, shop, "a", parking.RetryOptions{})
		require.ErrorIs(k, err, parking.ErrNeedsEdit)
		require.Empty(k, freed.Released, "nothing behind it would move")
		require.Zero(k, k.drain(nothing), "it is paused as before")
		freed, err = desk.ReleaseKey(ctx, shop, "a", parking.RetryOptions{Force: true})
		require.NoError(k, err)
		require.Equal(k, []int64{bad, late}, freed.Released)
		require.True(k, freed.Resumed)
		require.EqualValues(k, 3, freed.Waiting)
		var order []int64
		require.Equal(k, 3, k.drain(func(row store.ParkedRow) error {
			order = append(order, row.ID)
			return nil
		}))
		require.IsIncreasing(k, order)
		state, err = desk.Key(ctx, shop, "a")
		require.NoError(k, err)
		require.Nil(k, state.Gate)
		require.Len(k, state.Audit, 2, "pause and resume")

		// A key may be paused before anything is wrong with it.
		_, err = desk.PauseKey(ctx, shop, "b")
		require.NoError(k, err)
		first := k.park("b", "4", store.StatusWaiting, "", nil)
		require.Zero(k, k.drain(nothing))
		state, err = desk.ResumeKey(ctx, shop, "b")
		require.NoError(k, err)
		require.Equal(k, first, state.Head.ID)
		require.Equal(k, 1, k.drain(fine))
	})
}
