package forwarder_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// neighbour returns a key in the same partition of the outbox.
func neighbour(key string) string {
	for n := 0; ; n++ {
		other := fmt.Sprintf("neighbour %d", n)
		if xxhash.Sum64String(other)%store.OutboxPartitions == xxhash.Sum64String(key)%store.OutboxPartitions {
			return other
		}
	}
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
