package parking_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const testTTL = time.Minute

func TestTwoOperatorsRetryEachMessageOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		const many = 20
		var ids []int64
		for i := range many {
			ids = append(ids, k.park(fmt.Sprint(i%7), fmt.Sprint(i), store.StatusParked, parking.Transient, errDown))
		}
		runs := map[int64]int{}
		failing := func(row store.ParkedRow) error { runs[row.ID]++; return errDown }
		drainAll := func() {
			for more := 1; more > 0; {
				more = k.drain(failing)
			}
		}
		// Bert begins first and is slow. While he is at his first message anna retries
		// the others, and they are handled and fail again.
		var anna, bert parking.Progress
		var refused []error
		bert, err := k.desk("bert").RetryAll(k.Context(), store.ParkedFilter{}, parking.GroupOptions{
			Progress: func(p parking.Progress) {
				if p.Released+p.Refused > 1 {
					return
				}
				var err error
				anna, err = k.desk("anna").RetryAll(k.Context(), store.ParkedFilter{}, parking.GroupOptions{})
				require.NoError(k, err)
				drainAll()
			},
			Refused: func(_ int64, why error) { refused = append(refused, why) },
		})
		require.NoError(k, err)
		drainAll()
		require.Equal(k, many, anna.Released+bert.Released)
		require.Equal(k, many-1, anna.Released)
		require.Equal(k, parking.Progress{Total: many, Released: 1, Refused: many - 1}, bert)
		require.ErrorContains(k, refused[0], "was retried by anna meanwhile")
		for _, id := range ids {
			require.Len(k, k.audit(id), 1)
			require.LessOrEqual(k, runs[id], 1)
		}

		// Both at once.
		var group sync.WaitGroup
		progress := make([]parking.Progress, 2)
		for i, actor := range []string{"anna", "bert"} {
			group.Go(func() {
				var err error
				progress[i], err = k.desk(actor).RetryAll(context.WithoutCancel(k.Context()),
					store.ParkedFilter{IDs: ids}, parking.GroupOptions{})
				if err != nil {
					k.Error(err)
				}
			})
		}
		group.Wait()
		waiting := 0
		for _, id := range ids {
			waiting += 2 - min(len(k.audit(id)), 2)
			require.LessOrEqual(k, len(k.audit(id)), 2)
		}
		require.Equal(k, many, progress[0].Released+progress[1].Released+waiting)
	})
}

func TestARateIsKept(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		for i := range 5 {
			k.park(fmt.Sprint(i), fmt.Sprint(i), store.StatusParked, parking.Transient, errDown)
		}
		clock := clockwork.NewFakeClock()
		desk := parking.NewDesk(k.Store, parking.DeskConfig{Actor: "anna", Clock: clock})
		told := make(chan parking.Progress, 10)
		ended := make(chan error, 1)
		go func() {
			_, err := desk.RetryAll(k.Context(), store.ParkedFilter{}, parking.GroupOptions{
				Rate: 10, Limit: 4, Progress: func(p parking.Progress) { told <- p },
			})
			ended <- err
		}()
		released := func(want int, left time.Duration) {
			k.Helper()
			p := <-told
			require.Equal(k, want, p.Released)
			require.Equal(k, 4, p.Total)
			require.Equal(k, left, p.Left)
		}
		sleeps := func() {
			k.Helper()
			require.NoError(k, clock.BlockUntilContext(k.Context(), 1))
			require.Empty(k, told)
		}
		released(1, 300*time.Millisecond)
		sleeps()
		clock.Advance(99 * time.Millisecond)
		sleeps()
		clock.Advance(time.Millisecond)
		released(2, 200*time.Millisecond)
		sleeps()
		clock.Advance(time.Hour) // a laptop's lid
		released(3, 100*time.Millisecond)
		sleeps() // nothing is made up for
		clock.Advance(100 * time.Millisecond)
		released(4, 0)
		require.NoError(k, <-ended)

		_, err := desk.RetryAll(k.Context(), store.ParkedFilter{}, parking.GroupOptions{Rate: -1})
		require.ErrorContains(k, err, "not negative")
		ctx, cancel := context.WithCancel(k.Context())
		cancel()
		_, err = desk.RetryAll(ctx, store.ParkedFilter{}, parking.GroupOptions{})
		require.ErrorIs(k, err, context.Canceled)
	})
}

func TestProgressTellsWhatReallyHappened(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ids := map[string]int64{}
		for _, key := range []string{"done", "fails", "discarded", "later"} {
			ids[key] = k.park(key, key, store.StatusParked, parking.Transient, errDown)
		}
		k.park("bad", "bad", store.StatusParked, parking.Permanent, errBad)
		k.park("judged", "judged", store.StatusReview, parking.Conflict, errPlain)
		clock := clockwork.NewFakeClock()
		desk := parking.NewDesk(k.Store, parking.DeskConfig{Actor: "anna", Clock: clock})
		var last parking.Progress
		type end struct {
			p   parking.Progress
			err error
		}
		ended := make(chan end, 1)
		go func() {
			p, err := desk.RetryAll(k.Context(), store.ParkedFilter{}, parking.GroupOptions{
				Follow: true, Progress: func(p parking.Progress) { last = p },
			})
			ended <- end{p, err}
		}()
		looked := func(want parking.Progress) {
			k.Helper()
			require.NoError(k, clock.BlockUntilContext(k.Context(), 1))
			want.Total, want.Released, want.Refused = 5, 4, 1
			require.Equal(k, want, last)
			clock.Advance(time.Second)
		}
		looked(parking.Progress{Open: 4}) // nobody has handled them yet
		bert := k.desk("bert")
		_, err := bert.PauseKey(k.Context(), shop, "later")
		require.NoError(k, err)
		require.NoError(k, bert.Discard(k.Context(), ids["discarded"], "not wanted any more"))
		require.Equal(k, 2, k.drain(func(row store.ParkedRow) error {
			if row.ID == ids["fails"] {
				return errDown
			}
			return nil
		}))
		require.NoError(k, clock.BlockUntilContext(k.Context(), 1))
		clock.Advance(time.Second)
		looked(parking.Progress{Open: 1, Done: 1, FailedAgain: 1, Discarded: 1})
		_, err = bert.ResumeKey(k.Context(), shop, "later")
		require.NoError(k, err)
		require.Equal(k, 1, k.drain(func(store.ParkedRow) error { return nil }))
		var e end
		for over := false; !over; {
			select {
			case e = <-ended:
				over = true
			default:
				clock.Advance(time.Second)
				runtime.Gosched()
			}
		}
		require.NoError(k, e.err)
		require.Equal(k, parking.Progress{Total: 5, Released: 4, Refused: 1, Done: 2, FailedAgain: 1, Discarded: 1}, e.p)
	})
}
