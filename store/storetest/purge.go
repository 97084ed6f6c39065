package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testPurge(t *testing.T, h Harness) {
	each(t, h, []test{
		{"OnlyFinalRowsOlderThanTheWindow", purgeDue},
		{"InBatches", purgeBatches},
		{"BesideItself", purgeConcurrently},
		{"OfWhatWasParkedAndOfTheAudit", purgeParked},
	})
}

// age makes rows of the inbox an hour older by the database's clock.
func (b *bundle) age(t *testing.T, ids string) {
	t.Helper()
	set := map[store.Dialect]string{
		store.Postgres: "processed_at - interval '%d seconds'",
		store.MySQL:    "processed_at - INTERVAL %d SECOND",
		store.SQLite:   "processed_at - %d * 1000000",
	}[b.h.Dialect]
	b.exec(t, "UPDATE headrace_inbox SET processed_at = "+fmt.Sprintf(set, 3600)+" WHERE message_id LIKE ?", ids)
}

func purgeDue(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	verdicts := []store.Verdict{
		store.Applied, store.Duplicate, store.Stale, store.Protected, store.Discarded, store.Expired,
		store.Accepted, store.Gap, store.Parked, store.Conflict,
	}
	for _, v := range verdicts {
		for _, age := range []string{"old", "young"} {
			record(t, st, store.InboxRow{Consumer: "c", MessageID: age + "-" + string(v), Verdict: v})
		}
	}
	record(t, st, inbox("other", "old"))
	b.age(t, "old%")

	purged, err := st.PurgeInbox(t.Context(), "c", 59*time.Minute, 1000)
	require.NoError(t, err)
	require.EqualValues(t, 6, purged)
	for _, v := range verdicts {
		_, inserted := record(t, st, store.InboxRow{Consumer: "c", MessageID: "old-" + string(v), Verdict: v})
		require.Equal(t, !v.Open(), inserted, "old and %s: open ones are never purged", v)
		_, inserted = record(t, st, store.InboxRow{Consumer: "c", MessageID: "young-" + string(v), Verdict: v})
		require.False(t, inserted, "young and %s", v)
	}
	_, inserted := record(t, st, inbox("other", "old"))
	require.False(t, inserted, "another consumer's stay")
}

func purgeBatches(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for i := range 25 {
			_, _, err := st.InsertInbox(ctx, inbox("c", fmt.Sprintf("m-%02d", i)))
			require.NoError(t, err)
		}
		return nil
	}))
	b.age(t, "m-%")
	b.age(t, "m-2%") // 20 to 24 are the oldest
	purged, err := st.PurgeInbox(t.Context(), "c", time.Minute, 5)
	require.NoError(t, err)
	require.EqualValues(t, 5, purged)
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_inbox WHERE message_id LIKE 'm-2%'"), "the oldest first")
	purged, err = st.PurgeInbox(t.Context(), "c", time.Minute, 1_000_000)
	require.NoError(t, err)
	require.EqualValues(t, 20, purged)
	purged, err = st.PurgeInbox(t.Context(), "c", time.Minute, 10)
	require.NoError(t, err)
	require.Zero(t, purged)
}

func purgeConcurrently(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const rows = 60
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for i := range rows {
			_, _, err := st.InsertInbox(ctx, inbox("c", fmt.Sprintf("m-%d", i)))
			require.NoError(t, err)
		}
		return nil
	}))
	b.age(t, "m-%")
	var mu sync.Mutex
	var total int64
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				n, err := st.PurgeInbox(t.Context(), "c", time.Minute, 7)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				total += n
				done := total >= rows
				mu.Unlock()
				if done || err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, rows, total, "each row is counted by one of them")
}
