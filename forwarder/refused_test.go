package forwarder_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
)

// siblings returns keys of one partition of the outbox.
func siblings(n int) (keys []string) {
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprintf("sibling %d", i); samePartition(key, "sibling 0") {
			keys = append(keys, key)
		}
	}
	return keys
}

// More messages than it takes to hold a whole topic are refused one by one, each
// for a reason of its own: too large, perhaps. The topic's other keys flow, then
// and later.
func TestManyRefusedMessagesHoldNoOtherKeysOfTheirTopic(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var refused atomic.Int64
		to := broker{refuse: func(_ string, msg *message.Message) error {
			if strings.HasPrefix(msg.UUID, "bad") {
				refused.Add(1)
				return errors.New("too large")
			}
			return nil
		}}
		const bad, good = 20, 10
		keys := siblings(bad + good)
		for i, key := range keys[:bad] {
			b.publish(t, "topic", key, fmt.Sprintf("bad %d", i))
		}
		for _, key := range keys[bad:] {
			b.publish(t, "topic", key, sequence(key, 3)...)
		}
		b.run(t, &to, forwarder.Config{RetryBackoff: quick, MaxRetryBackoff: time.Hour})
		b.eventuallyWaiting(t, bad)
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			var untried int
			row := b.db.QueryRowContext(t.Context(), "SELECT count(*) FROM headrace_outbox WHERE attempts = 0")
			require.NoError(t, row.Scan(&untried))
			return untried == 0, fmt.Sprintf("%d were not tried", untried)
		})
		b.publish(t, "topic", keys[bad], "proof")
		b.eventuallyWaiting(t, bad)
		// They are refused so often that a topic which is down would be left alone for
		// longer than the test waits.
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			n := refused.Load()
			return n > 8*bad, fmt.Sprintf("%d refused", n)
		})
		for round := range 5 {
			b.publish(t, "topic", keys[bad], fmt.Sprintf("later %d", round))
			b.eventuallyWaiting(t, bad)
		}
		require.Len(t, to.ids(""), 3*good+1+5)
		for _, key := range keys[bad+1:] {
			require.Equal(t, sequence(key, 3), to.ids(key))
		}
	})
}

// A moment's outage fails as many publishes as are under way. It is one failure of
// the topic all the same, and its pause is the first, not the longest.
func TestATopicThatWasDownForAMomentIsTriedAgainSoon(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		const many = 60
		var calls atomic.Int64
		together := make(chan struct{})
		to := broker{refuse: func(string, *message.Message) error {
			n := calls.Add(1)
			if n > many {
				return nil
			}
			if n == many {
				close(together)
			}
			<-together
			return errors.New("connection reset")
		}}
		for _, key := range siblings(2 * many) {
			b.publish(t, "topic", key, key)
		}
		b.run(t, &to, forwarder.Config{RetryBackoff: quick, MaxRetryBackoff: time.Hour})
		b.eventuallyWaiting(t, 0)
		require.Len(t, to.ids(""), 2*many)
	})
}
