package forwarder_test

import (
	"database/sql"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cespare/xxhash/v2"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// neighbour returns a key in the same partition of the outbox.
func neighbour(key string) string {
	for n := 0; ; n++ {
		if other := fmt.Sprintf("neighbour %d", n); samePartition(other, key) {
			return other
		}
	}
}

func samePartition(a, b string) bool {
	return xxhash.Sum64String(a)%store.OutboxPartitions == xxhash.Sum64String(b)%store.OutboxPartitions
}

func TestARowCommittedLateIsNotOvertakenByItsKeysNext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // one writer: ids are committed in order
		}
		var to broker
		b.run(t, &to, forwarder.Config{RescanInterval: time.Hour})
		const key = "key"
		sent := 0
		for round := range 20 {
			// The key's own transactions follow one another; another key's, with a
			// higher id, is committed before the slow one of them.
			slow, err := b.db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			msg := message.NewMessage(fmt.Sprintf("%02d slow", round), nil)
			msgmeta.SetKey(msg, key)
			require.NoError(t, b.outbox.PublishTx(t.Context(), slow, "topic", msg))
			b.publish(t, "topic", neighbour(key), fmt.Sprintf("%02d quick", round))
			sent++
			testenv.Eventually(t, deadline, time.Millisecond, func() (bool, string) {
				return len(to.ids("")) == sent, "the neighbour's was not sent"
			})
			require.NoError(t, slow.Commit())
			b.publish(t, "topic", key, fmt.Sprintf("%02d then", round))
			sent += 2
			b.eventuallyWaiting(t, 0)
		}
		require.IsIncreasing(t, to.ids(key))
		require.Len(t, to.ids(key), 40)
	})
}

// slow writes a row of a key in a transaction that stays open.
func (b *bundle) slow(t *testing.T, key, id string) *sql.Tx {
	t.Helper()
	tx, err := b.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	msg := message.NewMessage(id, nil)
	msgmeta.SetKey(msg, key)
	require.NoError(t, b.outbox.PublishTx(t.Context(), tx, "topic", msg))
	return tx
}

// However long a transaction stays open, and though looking at all that lies
// behind is too slow to be done each time: its row comes before its key's next.
func TestARowCommittedVeryLateIsNotOvertakenByItsKeysNext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // one writer: ids are committed in order
		}
		var to broker
		var window time.Duration
		clock := clockwork.NewFakeClock()
		b.run(t, &to, forwarder.Config{RescanInterval: 1000 * time.Hour, LeaseTTL: time.Hour, Clock: clock},
			func(f *forwarder.Forwarder) { window = f.LookBehindLittle() })
		const key = "key"
		sent := 0
		quick := func() {
			t.Helper()
			b.publish(t, "topic", neighbour(key), fmt.Sprintf("%02d", sent))
			sent++
			testenv.Eventually(t, deadline, time.Millisecond, func() (bool, string) {
				return len(to.ids("")) == sent, "the neighbour's was not sent"
			})
		}
		for round := range 3 {
			slow := b.slow(t, key, fmt.Sprintf("%d slow", round))
			given := b.slow(t, key, "never") // and one that is given up meanwhile
			for range 6 {
				clock.Advance(window / 2)
				quick()
			}
			require.NoError(t, given.Rollback())
			quick()
			require.NoError(t, slow.Commit())
			b.publish(t, "topic", key, fmt.Sprintf("%d then", round))
			sent += 2
			b.eventuallyWaiting(t, 0)
		}
		require.Equal(t, []string{"0 slow", "0 then", "1 slow", "1 then", "2 slow", "2 then"}, to.ids(key))
	})
}

// Where nothing follows it, the rescan finds it.
func TestARowCommittedVeryLateIsSentWithoutASuccessor(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // one writer: ids are committed in order
		}
		var to broker
		clock := clockwork.NewFakeClock()
		cfg := forwarder.Config{RescanInterval: time.Minute, LeaseTTL: 10 * time.Hour, Clock: clock}
		b.run(t, &to, cfg, func(f *forwarder.Forwarder) { f.LookBehindLittle() })
		slow := b.slow(t, "key", "slow")
		for n := range 10 {
			clock.Advance(cfg.RescanInterval / 4)
			b.publish(t, "topic", neighbour("key"), fmt.Sprint(n))
			b.eventuallyWaiting(t, 0)
		}
		require.NoError(t, slow.Commit())
		b.eventuallyWaiting(t, 1)
		testenv.Eventually(t, deadline, 10*time.Millisecond, func() (bool, string) {
			clock.Advance(cfg.RescanInterval / 10)
			return len(to.ids("key")) == 1, "not sent"
		})
		b.eventuallyWaiting(t, 0)
	})
}
