package storetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// What a forwarder asks of the outbox.
func testRelay(t *testing.T, h Harness) {
	each(t, h, []test{
		{"ConfirmRemovesRows", confirm},
		{"ConfirmWithALeaseThatWasLostRemovesNothing", confirmLost},
		{"FailuresAreKept", failures},
		{"CountsWhatWaits", counts},
		{"ServicesAreApart", servicesApart},
		{"SaysWhatMayYetComeToLight", openWrites},
	})
}

func confirm(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k"}, store.OutboxRow{MessageID: "2", Key: "k"},
		store.OutboxRow{MessageID: "3", Key: "k"})
	rows := readAll(t, st)
	partition := rows[0].Partition
	lease, _ := acquire(t, st, "outbox/0", "me", time.Minute)
	n, err := st.ConfirmOutbox(t.Context(), lease, shard(partition), []int64{rows[0].ID, rows[2].ID})
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	n, err = st.ConfirmOutbox(t.Context(), lease, shard(partition), []int64{rows[0].ID})
	require.NoError(t, err)
	require.Zero(t, n, "it is gone already")
	n, err = st.ConfirmOutbox(t.Context(), lease, shard((partition+1)%store.OutboxPartitions), []int64{rows[1].ID})
	require.NoError(t, err)
	require.Zero(t, n, "it is in another partition")
	n, err = st.ConfirmOutbox(t.Context(), lease, shard(partition), nil)
	require.NoError(t, err)
	require.Zero(t, n)
	left := readAll(t, st)
	require.Len(t, left, 1)
	require.Equal(t, "2", left[0].MessageID)

	// An id does not come back, even when the last row was removed.
	_, err = st.ConfirmOutbox(t.Context(), lease, shard(partition), []int64{left[0].ID})
	require.NoError(t, err)
	write(t, st, store.OutboxRow{MessageID: "4", Key: "k"})
	require.Greater(t, readAll(t, st)[0].ID, rows[2].ID)
}

// servicesApart has services with odd names share keys, so partitions too.
func servicesApart(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	services := []string{"", "a", "A", "a ", `it's \' 50% ?`, "Lädchen", strings.Repeat("s", store.MaxIdentity)}
	for _, service := range services {
		write(t, st, store.OutboxRow{MessageID: "of " + service, Service: service, Key: "k"})
	}
	number := readAll(t, st)[0].Partition
	for i, service := range services {
		p := store.Partition{Service: service, Number: number}
		waiting, err := st.WaitingPartitions(t.Context(), service)
		require.NoError(t, err)
		require.Equal(t, []store.Partition{p}, waiting)
		rows, err := st.ReadOutbox(t.Context(), p, 0, 100, 1<<20)
		require.NoError(t, err)
		require.Len(t, rows, 1)
		require.Equal(t, service, rows[0].Service)
		require.Equal(t, "of "+service, rows[0].MessageID)
		between, err := st.OutboxBetween(t.Context(), p, 0, rows[0].ID+1000, 100)
		require.NoError(t, err)
		require.Len(t, between, 1)
		_, err = st.OpenOutboxWrites(t.Context(), p, rows[0].ID)
		require.NoError(t, err)

		other := store.Partition{Service: services[(i+1)%len(services)], Number: number}
		lease, _ := acquire(t, st, "outbox/0", "me", time.Minute)
		n, err := st.ConfirmOutbox(t.Context(), lease, other, []int64{rows[0].ID})
		require.NoError(t, err)
		require.Zero(t, n, "it is another service's")
		require.NoError(t, st.FailOutbox(t.Context(), p, rows[0].ID, errBoom))
		n, err = st.ConfirmOutbox(t.Context(), lease, p, []int64{rows[0].ID})
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
		counts, err := st.CountOutbox(t.Context())
		require.NoError(t, err)
		require.Len(t, counts, len(services)-i-1)
	}
}

func confirmLost(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k"})
	row := readAll(t, st)[0]
	lost, _ := acquire(t, st, "outbox/0", "me", -time.Second)
	current, ok := acquire(t, st, "outbox/0", "you", time.Minute)
	require.True(t, ok)
	other, _ := acquire(t, st, "outbox/1", "me", time.Minute)
	other.Name = "outbox/0"
	for name, lease := range map[string]store.Lease{
		"the former owner's": lost,
		"another epoch":      {Name: current.Name, Owner: current.Owner, Epoch: current.Epoch - 1},
		"another owner":      other,
		"one that never was": {Name: "outbox/7", Owner: "you", Epoch: 1},
	} {
		n, err := st.ConfirmOutbox(t.Context(), lease, shard(row.Partition), []int64{row.ID})
		require.NoError(t, err, name)
		require.Zero(t, n, name)
	}
	n, err := st.ConfirmOutbox(t.Context(), current, shard(row.Partition), []int64{row.ID})
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
}

func failures(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k"})
	row := readAll(t, st)[0]
	require.NoError(t, st.FailOutbox(t.Context(), shard(row.Partition), row.ID, errors.New("broker is down")))
	odd := errors.New("odd \x00\xff" + strings.Repeat("ü", 3000))
	require.NoError(t, st.FailOutbox(t.Context(), shard(row.Partition), row.ID, odd))
	got := readAll(t, st)[0]
	require.Equal(t, 2, got.Attempts)
	require.True(t, strings.HasPrefix(got.LastError, "odd "))
	require.LessOrEqual(t, len(got.LastError), 2000)
}

func counts(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st,
		store.OutboxRow{MessageID: "1", Destination: "d", Topic: "a", Key: "k"},
		store.OutboxRow{MessageID: "2", Destination: "d", Topic: "a", Key: "k"},
		store.OutboxRow{MessageID: "3", Destination: "d", Topic: "b"},
	)
	for _, row := range readAll(t, st) {
		if row.MessageID == "2" {
			require.NoError(t, st.FailOutbox(t.Context(), shard(row.Partition), row.ID, errBoom))
		}
	}
	counts, err := st.CountOutbox(t.Context())
	require.NoError(t, err)
	require.Len(t, counts, 2)
	require.Equal(t, "a", counts[0].Topic)
	require.EqualValues(t, 2, counts[0].Unsent)
	require.EqualValues(t, 1, counts[0].Failing)
	require.Equal(t, "boom", counts[0].LastError)
	require.GreaterOrEqual(t, counts[0].OldestAge, time.Duration(0))
	require.Less(t, counts[0].OldestAge, time.Minute)
	require.EqualValues(t, 1, counts[1].Unsent)
	require.Zero(t, counts[1].Failing)

	partitions, err := st.CountOutboxPartitions(t.Context())
	require.NoError(t, err)
	var unsent int64
	for _, p := range partitions {
		unsent += p.Unsent
	}
	require.EqualValues(t, 3, unsent)
}

func openWrites(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	none, err := st.OpenOutboxWrites(t.Context(), shard(0), 1<<40)
	require.NoError(t, err)
	if b.h.Dialect == store.SQLite {
		_, ended, err := st.EndedOutboxWrites(t.Context(), shard(0), none)
		require.NoError(t, err)
		require.False(t, ended, "one writer leaves nothing behind")
		return
	}
	write(t, st, store.OutboxRow{MessageID: "before", Key: "k"})
	partition := readAll(t, st)[0].Partition
	// More than are asked about one by one, too.
	for _, rows := range []int{3, 1100} {
		tx, err := b.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		for range rows {
			_, err := tx.ExecContext(t.Context(), foreignInsert(partition, nil))
			require.NoError(t, err)
		}
		open, err := st.OpenOutboxWrites(t.Context(), shard(partition), 1<<40)
		require.NoError(t, err)
		if rows < 1000 {
			// Other tests' transactions may end meanwhile, this one doesn't.
			eventually(t, "none of what is left has ended", func() (still bool) {
				left, ended, err := st.EndedOutboxWrites(t.Context(), shard(partition), open)
				require.NoError(t, err)
				open = left
				return !ended
			})
		}
		require.NoError(t, tx.Commit())
		_, ended, err := st.EndedOutboxWrites(t.Context(), shard(partition), open)
		require.NoError(t, err)
		require.True(t, ended)
	}
}
