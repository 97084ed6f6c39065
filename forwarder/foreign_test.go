package forwarder_test

import (
	"fmt"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/store"
)

func (b *bundle) exec(t *testing.T, query string) {
	t.Helper()
	_, err := b.db.ExecContext(t.Context(), query)
	require.NoError(t, err, query)
}

func TestRowsThatCannotBeSentAreReportedAndHoldNoOther(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		const key, bad = "good", 40 // more than it takes to hold a whole topic
		partition := xxhash.Sum64String(key) % store.OutboxPartitions
		for i := range bad {
			b.exec(t, fmt.Sprintf("INSERT INTO headrace_outbox (partition_no, message_id, destination, topic, metadata) "+
				`VALUES (%d, 'bad %d', 'default', 'topic', '{"a": 1}')`, partition, i))
		}
		b.publish(t, "topic", key, sequence("good", 20)...)
		var to broker
		b.run(t, &to, forwarder.Config{
			BatchSize: 7, RetryBackoff: quick, MaxRetryBackoff: 4 * quick, KeepPermanent: true,
		})
		b.eventuallyWaiting(t, bad)
		b.publish(t, "topic", key, sequence("more", 20)...)
		b.eventuallyWaiting(t, bad)
		require.Equal(t, append(sequence("good", 20), sequence("more", 20)...), to.ids(key))
		require.Len(t, to.ids(""), 40)
		counts, err := b.st.CountOutbox(t.Context())
		require.NoError(t, err)
		require.Len(t, counts, 1)
		require.EqualValues(t, bad, counts[0].Failing, "they are reported")
		require.Contains(t, counts[0].LastError, "not a JSON object of strings")
	})
}

func TestRowsNumberedByHandAreSent(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		overriding := ""
		if b.st.Dialect() == store.Postgres {
			overriding = "OVERRIDING SYSTEM VALUE "
		}
		row := func(id int) {
			b.exec(t, fmt.Sprintf("INSERT INTO headrace_outbox (id, partition_no, message_id, destination, topic) "+
				"%sVALUES (%d, 3, 'by hand %d', 'default', 'topic')", overriding, id, id))
		}
		var to broker
		row(-1)
		row(-7)
		b.run(t, &to, forwarder.Config{})
		b.eventuallyWaiting(t, 0)
		row(1 << 40)
		b.eventuallyWaiting(t, 0)
		row(-3)
		row(77)
		b.eventuallyWaiting(t, 0)
		want := []string{"by hand -7", "by hand -1", "by hand 1099511627776", "by hand -3", "by hand 77"}
		require.ElementsMatch(t, want, to.ids(""))
	})
}
