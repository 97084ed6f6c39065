package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testLeases(t *testing.T, h Harness) {
	each(t, h, []test{
		{"HaveOneOwner", leaseOneOwner},
		{"ChangeHandsWhenOverByTheDatabasesClock", leaseExpiry},
		{"ChangeHandsWhenReleased", leaseRelease},
		{"AreRenewedByPrefix", leaseRenew},
		{"GoToOneOfMany", leaseMany},
		{"AreDeleted", leaseDelete},
		{"RefuseOddNames", leaseNames},
	})
}

func acquire(t *testing.T, st *store.Store, name, owner string, ttl time.Duration) (store.Lease, bool) {
	t.Helper()
	lease, ok, err := st.AcquireLease(t.Context(), name, owner, ttl)
	require.NoError(t, err)
	return lease, ok
}

func leaseOneOwner(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	mine, ok := acquire(t, st, "outbox/1", "me", time.Minute)
	require.True(t, ok)
	require.Equal(t, "outbox/1", mine.Name)
	require.Equal(t, "me", mine.Owner)
	require.EqualValues(t, 1, mine.Epoch)
	require.InDelta(t, time.Minute, mine.ExpiresIn, float64(10*time.Second))
	_, ok = acquire(t, st, "outbox/1", "you", time.Minute)
	require.False(t, ok)
	_, ok = acquire(t, st, "outbox/2", "you", time.Minute)
	require.True(t, ok)

	again, ok := acquire(t, st, "outbox/1", "me", time.Hour)
	require.True(t, ok)
	require.EqualValues(t, 1, again.Epoch, "the same ownership goes on")
	require.Greater(t, again.ExpiresIn, 50*time.Minute, "and is extended")
}

func leaseExpiry(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	first, ok := acquire(t, st, "x", "me", -time.Second)
	require.True(t, ok)
	second, ok := acquire(t, st, "x", "you", time.Minute)
	require.True(t, ok, "it is over")
	require.Equal(t, first.Epoch+1, second.Epoch)
	held, err := st.RenewLeases(t.Context(), "", "me", time.Minute)
	require.NoError(t, err)
	require.Empty(t, held, "the former owner learns that it is gone")
	_, ok = acquire(t, st, "x", "me", time.Minute)
	require.False(t, ok)
	require.NoError(t, st.ReleaseLease(t.Context(), first), "a former owner's release changes nothing")
	held, err = st.RenewLeases(t.Context(), "", "you", time.Minute)
	require.NoError(t, err)
	require.Len(t, held, 1)
}

func leaseRelease(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	first, _ := acquire(t, st, "x", "me", time.Hour)
	require.NoError(t, st.ReleaseLease(t.Context(), first))
	second, ok := acquire(t, st, "x", "you", time.Hour)
	require.True(t, ok)
	require.Equal(t, first.Epoch+1, second.Epoch)
	third, ok := acquire(t, st, "x", "you", time.Hour)
	require.True(t, ok)
	require.Equal(t, second.Epoch, third.Epoch)
}

func leaseRenew(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, name := range []string{"outbox/1", "outbox/2", "OUTBOX/3", "outboxes/4", "purge/1"} {
		acquire(t, st, name, "me", time.Minute)
	}
	acquire(t, st, "outbox/9", "you", time.Minute)
	held, err := st.RenewLeases(t.Context(), "outbox/", "me", time.Hour)
	require.NoError(t, err)
	require.Len(t, held, 2)
	for i, lease := range held {
		require.Equal(t, fmt.Sprintf("outbox/%d", i+1), lease.Name)
		require.Greater(t, lease.ExpiresIn, 50*time.Minute)
		require.EqualValues(t, 1, lease.Epoch)
	}
	all, err := st.Leases(t.Context(), "outbox/")
	require.NoError(t, err)
	require.Len(t, all, 3)
	all, err = st.Leases(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, all, 6)
}

func leaseMany(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const owners = 6
	won := make(chan int64, owners)
	var all sync.WaitGroup
	for i := range owners {
		all.Go(func() {
			lease, ok, err := st.AcquireLease(t.Context(), "x", fmt.Sprintf("owner-%d", i), time.Minute)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won <- lease.Epoch
			}
		})
	}
	all.Wait()
	close(won)
	epochs := []int64{}
	for epoch := range won {
		epochs = append(epochs, epoch)
	}
	require.Equal(t, []int64{1}, epochs)
}

func leaseDelete(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	acquire(t, st, "run/1", "me", time.Minute)
	acquire(t, st, "run/2", "me", -time.Hour)
	acquire(t, st, "keep", "me", -time.Hour)
	require.NoError(t, st.DeleteLease(t.Context(), "run/1", "you"))
	require.NoError(t, st.DeleteExpiredLeases(t.Context(), "run/", time.Minute))
	left, err := st.Leases(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, left, 2)
	require.NoError(t, st.DeleteLease(t.Context(), "run/1", "me"))
	left, err = st.Leases(t.Context(), "run/")
	require.NoError(t, err)
	require.Empty(t, left)
}

func leaseNames(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, name := range []string{"", "a b", "a'b", `a\b`, "ä", "a\x00", strings.Repeat("x", 256)} {
		_, _, err := st.AcquireLease(t.Context(), name, "me", time.Minute)
		require.Error(t, err, "%q", name)
		_, _, err = st.AcquireLease(t.Context(), "x", name, time.Minute)
		require.Error(t, err, "%q", name)
		_, err = st.ConfirmOutbox(t.Context(), store.Lease{Name: name, Owner: "me"}, shard(0), []int64{1})
		require.Error(t, err, "%q", name)
	}
}
