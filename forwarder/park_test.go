package forwarder_test

import (
	"context"
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
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// tooLarge is a broker that never takes a message whose payload is "huge".
func tooLarge(_ string, msg *message.Message) error {
	if string(msg.Payload) == "huge" {
		return fmt.Errorf("3 bytes too many: %w", parking.AsPermanent(errors.New("too large")))
	}
	return nil
}

func relaying() forwarder.Config {
	return forwarder.Config{
		RetryBackoff: quick, MaxRetryBackoff: 4 * quick, PollInterval: quick, MaxPollInterval: 2 * quick,
		RescanInterval: 4 * quick,
	}
}

// parked waits until n messages of the outbox are parked and returns them.
func (b *bundle) parked(t *testing.T, n int) []store.ParkedRow {
	t.Helper()
	var ids []int64
	testenv.Eventually(t, deadline, quick, func() (bool, string) {
		ids = b.parkedNow(t)
		return len(ids) == n, fmt.Sprintf("%d are parked", len(ids))
	})
	all := make([]store.ParkedRow, n)
	for i, id := range ids {
		var err error
		all[i], err = b.st.ParkedByID(t.Context(), id)
		require.NoError(t, err)
	}
	return all
}

// parkedNow returns the ids of what is parked.
func (b *bundle) parkedNow(t *testing.T) (ids []int64) {
	t.Helper()
	rows, err := b.db.QueryContext(t.Context(), "SELECT id FROM headrace_parked WHERE status = 'parked' ORDER BY id")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id int64
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	return ids
}

func (b *bundle) inTx(t *testing.T, f func(ctx context.Context, tx store.Tx) error) error {
	t.Helper()
	return b.st.InTx(t.Context(), f)
}

func (b *bundle) release(t *testing.T, id int64) error {
	t.Helper()
	return b.inTx(t, func(ctx context.Context, tx store.Tx) error {
		_, err := b.st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
		return err
	})
}

func (b *bundle) discard(t *testing.T, id int64) error {
	t.Helper()
	return b.inTx(t, func(ctx context.Context, tx store.Tx) error {
		_, err := b.st.DiscardParked(ctx, tx, id, "anna", "", nil)
		return err
	})
}

func (b *bundle) edit(t *testing.T, id int64, payload string) {
	t.Helper()
	require.NoError(t, b.inTx(t, func(ctx context.Context, tx store.Tx) error {
		content := []byte(payload)
		_, err := b.st.EditParked(ctx, tx, id, store.Edit{Payload: &content, Metadata: map[string]string{msgmeta.Key: "k"}})
		return err
	}))
}

// huge publishes a message of the key k that the broker doesn't take.
func (b *bundle) huge(t *testing.T, id string) {
	t.Helper()
	msg := keyed(id)
	msg.Payload = []byte("huge")
	require.NoError(t, b.outbox.Publish(t.Context(), "topic", msg))
}

func TestWhatTheBrokerRefusesForGoodIsParkedAndHoldsOnlyItsLine(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		b.publish(t, "topic", "k", "1")
		b.huge(t, "bad")
		b.publish(t, "topic", "k", "2", "3")
		b.publish(t, "topic", "other", sequence("other", 20)...)
		b.run(t, &to, relaying())

		row := b.parked(t, 1)[0]
		require.Equal(t, "bad", row.MessageID)
		require.Equal(t, store.OriginOutbox, row.Origin)
		require.Equal(t, "k", row.Key)
		require.Equal(t, "topic", row.Topic)
		require.Equal(t, "default", row.Destination)
		require.Equal(t, "huge", string(row.Payload))
		require.Equal(t, string(parking.Permanent), row.Class)
		require.Equal(t, "publish: 3 bytes too many: too large", row.Reason)
		require.Equal(t, 1, row.Attempts)
		require.Len(t, row.Chain, 3)
		require.Len(t, row.History, 1)
		require.Equal(t, "*errors.errorString", row.ErrorType)
		require.NotEmpty(t, row.ErrorGroup)

		b.publish(t, "topic", "k", "4")
		b.publish(t, "topic", "other", "more")
		b.eventuallyWaiting(t, 4)
		require.Equal(t, append(sequence("other", 20), "more"), to.ids("other"))
		require.Equal(t, []string{"1"}, to.ids("k"))
		counts, err := b.st.CountOutbox(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 4, counts[0].Unsent)
		require.EqualValues(t, 1, counts[0].Parked)
		require.Zero(t, counts[0].Failing)
		left, err := b.st.CountParkedInOutbox(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, store.ParkedInOutbox{Parked: 1, Behind: 3}, left)

		// It was released as it is, is refused again, and is the same parked message.
		require.NoError(t, b.release(t, row.ID))
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			again, err := b.st.ParkedByID(t.Context(), row.ID)
			require.NoError(t, err)
			return again.Status == store.StatusParked && again.Attempts == 2, fmt.Sprint(again.Status, again.Attempts)
		})
		require.Equal(t, row.ID, b.parked(t, 1)[0].ID)

		b.edit(t, row.ID, "small")
		require.NoError(t, b.release(t, row.ID))
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"1", "bad", "2", "3", "4"}, to.ids("k"))
		done, err := b.st.ParkedByID(t.Context(), row.ID)
		require.NoError(t, err)
		require.Equal(t, store.StatusDone, done.Status)
		require.Equal(t, "huge", string(done.Payload), "the original is kept")
		require.Equal(t, "anna", done.DecidedBy)
		require.False(t, done.FinishedAt.IsZero())
		to.mu.Lock()
		defer to.mu.Unlock()
		for _, msg := range to.got {
			if msg.UUID == "bad" {
				require.Equal(t, "small", string(msg.Payload))
			}
		}
	})
}

func TestAParkedRowHoldsItsLineAfterFailover(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		b.huge(t, "bad 1")
		b.publish(t, "topic", "k", "1")
		b.huge(t, "bad 2")
		b.publish(t, "topic", "k", "2")
		stop := b.run(t, &to, relaying())
		first := b.parked(t, 1)[0]
		stop()

		b.publish(t, "topic", "k", "3")
		stop = b.run(t, &to, relaying())
		b.publish(t, "topic", "other", "proof")
		b.eventuallyWaiting(t, 5)
		require.Empty(t, to.ids("k"))
		stop()

		// Released and edited while nobody relays.
		b.edit(t, first.ID, "small")
		require.NoError(t, b.release(t, first.ID))
		stop = b.run(t, &to, relaying())
		second := b.parked(t, 1)[0]
		require.Equal(t, "bad 2", second.MessageID)
		require.Equal(t, []string{"bad 1", "1"}, to.ids("k"))
		stop()
		b.run(t, &to, relaying())
		require.NoError(t, b.discard(t, second.ID))
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"bad 1", "1", "2", "3"}, to.ids("k"))
	})
}

// Rescans are as rare as they are costly. What a person has judged is found all the
// same.
func TestWhatIsJudgedIsFoundWithoutARescan(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		cfg := relaying()
		cfg.RescanInterval = time.Hour
		b.run(t, &to, cfg)
		b.huge(t, "bad 1")
		b.publish(t, "topic", "k", "1")
		b.huge(t, "bad 2")
		b.publish(t, "topic", "k", "2")
		first := b.parked(t, 1)[0]
		require.Equal(t, "bad 1", first.MessageID)
		require.NoError(t, b.discard(t, first.ID))
		second := b.parked(t, 1)[0]
		b.edit(t, second.ID, "small")
		require.NoError(t, b.release(t, second.ID))
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"1", "bad 2", "2"}, to.ids("k"))
	})
}

// What waits behind a parked message for a night may be more than can be read between
// two rescans.
func TestALongLineBehindAParkedMessageKeepsNobodyFromWhatFollows(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		keys := siblings(2)
		msg := keyed("bad")
		msg.Payload = []byte("huge")
		msgmeta.SetKey(msg, keys[0])
		require.NoError(t, b.outbox.Publish(t.Context(), "topic", msg))
		const behind = 200
		b.publish(t, "topic", keys[0], sequence("behind", behind)...)
		b.publish(t, "topic", keys[1], "1", "2")
		cfg := relaying()
		cfg.BatchSize, cfg.RescanInterval = 5, time.Nanosecond
		b.run(t, &to, cfg)
		b.eventuallyWaiting(t, behind+1)
		b.publish(t, "topic", keys[1], "3")
		b.eventuallyWaiting(t, behind+1)
		require.Equal(t, []string{"1", "2", "3"}, to.ids(""))
	})
}

func TestWhoDecidesOnAParkedMessageTwiceIsTold(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		b.huge(t, "bad")
		stop := b.run(t, &to, relaying())
		row := b.parked(t, 1)[0]
		stop()
		require.NoError(t, b.release(t, row.ID))
		var status *store.StatusError
		require.ErrorAs(t, b.release(t, row.ID), &status)
		require.Equal(t, store.StatusError{ID: row.ID, Status: store.StatusReleased, By: "anna"}, *status)
		require.ErrorIs(t, b.discard(t, row.ID), store.ErrStatus)
		require.ErrorIs(t, b.discard(t, row.ID+1), store.ErrNotParked)

		b.run(t, &to, relaying())
		b.parked(t, 1)
		b.exec(t, "DELETE FROM headrace_outbox")
		require.ErrorIs(t, b.release(t, row.ID), store.ErrOutboxGone)
		require.NoError(t, b.discard(t, row.ID))
		require.ErrorIs(t, b.discard(t, row.ID), store.ErrStatus)
	})
}

// A message that is refused with an error that says nothing is parked once the
// broker has taken others of its topic between so many tries.
func TestParkAfterCountsWhatIsTheMessagesOwnFault(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var down atomic.Bool
		down.Store(true)
		var tries atomic.Int64
		to := broker{refuse: func(_ string, msg *message.Message) error {
			if msg.UUID == "bad" {
				tries.Add(1)
			}
			if down.Load() || msg.UUID == "bad" {
				return errors.New("no")
			}
			return nil
		}}
		const most = 100
		keys := siblings(most)
		b.publish(t, "topic", keys[0], "bad")
		cfg := relaying()
		cfg.ParkAfter = 3
		b.run(t, &to, cfg)
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			n := tries.Load()
			return n > 10, fmt.Sprintf("%d tries", n)
		})
		b.parked(t, 0) // nothing else of its topic was taken: it may be down
		down.Store(false)
		for _, key := range keys[1:] {
			if len(b.parkedNow(t)) > 0 {
				break
			}
			b.publish(t, "topic", key, key)
			b.eventuallyWaiting(t, 1)
		}
		require.Equal(t, "bad", b.parked(t, 1)[0].MessageID)
	})
}

// An application's own knowledge of its broker's errors, and the wish to keep
// trying.
func TestPolicyOfParking(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: func(_ string, msg *message.Message) error {
			if strings.HasPrefix(msg.UUID, "bad") {
				return errors.New("ORA-00600")
			}
			return nil
		}}
		cfg := relaying()
		cfg.Classify = []parking.Classifier{func(err error) parking.Class {
			if strings.Contains(err.Error(), "ORA-00600") {
				return parking.Permanent
			}
			return ""
		}}
		cfg.KeepPermanent = true
		b.publish(t, "topic", "k", "bad")
		stop := b.run(t, &to, cfg)
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			var n int
			require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT attempts FROM headrace_outbox").Scan(&n))
			return n > 5, fmt.Sprintf("%d tries", n)
		})
		b.parked(t, 0)
		stop()
		cfg.KeepPermanent = false
		b.run(t, &to, cfg)
		b.parked(t, 1)
	})
}

// Rows that foreign SQL wrote wrongly can be mended by who edits them.
func TestARowThatCannotBeSentIsParkedAndMended(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		b.exec(t, "INSERT INTO headrace_outbox (partition_no, message_id, destination, topic, metadata) "+
			`VALUES (3, 'foreign', 'default', 'topic', '{"a": 1}')`)
		var to broker
		b.run(t, &to, relaying())
		row := b.parked(t, 1)[0]
		require.Contains(t, row.Reason, "not a JSON object of strings")
		b.edit(t, row.ID, "mended")
		require.NoError(t, b.release(t, row.ID))
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"foreign"}, to.ids(""))
	})
}

// A thousand refused messages of a topic, each with a key of its own, hold no other.
func TestManyParkedRowsHoldNoOtherKeys(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		to := broker{refuse: tooLarge}
		const many = 100
		keys := siblings(2 * many)
		for i, key := range keys[:many] {
			msg := keyed(fmt.Sprintf("bad %d", i))
			msg.Payload = []byte("huge")
			msgmeta.SetKey(msg, key)
			require.NoError(t, b.outbox.Publish(t.Context(), "topic", msg))
			b.publish(t, "topic", key, "behind "+key)
		}
		for _, key := range keys[many:] {
			b.publish(t, "topic", key, sequence(key, 3)...)
		}
		cfg := relaying()
		cfg.RescanInterval, cfg.RetryBackoff, cfg.MaxRetryBackoff = 20*time.Millisecond, time.Hour, time.Hour
		b.run(t, &to, cfg)
		all := b.parked(t, many)
		b.eventuallyWaiting(t, 2*many)
		require.Len(t, to.ids(""), 3*many)
		for i, row := range all {
			if i%2 == 0 {
				require.NoError(t, b.discard(t, row.ID))
			} else {
				b.edit(t, row.ID, "small")
				require.NoError(t, b.release(t, row.ID))
			}
		}
		b.eventuallyWaiting(t, 0)
		require.Len(t, to.ids(""), 3*many+many+many/2)
	})
}

// What is sent in place of a discarded message says that its number is none any more, and
// the others keep theirs.
func TestADiscardedNumberIsSkipped(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		outbox, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Sequences: true})
		require.NoError(t, err)
		b.outbox = outbox
		to := broker{refuse: tooLarge}
		b.publish(t, "topic", "k", "1")
		b.huge(t, "bad")
		b.huge(t, "mended")
		b.publish(t, "topic", "k", "2")
		b.run(t, &to, relaying())
		require.NoError(t, b.discard(t, b.parked(t, 1)[0].ID))
		second := b.parked(t, 1)[0]
		b.edit(t, second.ID, "small")
		require.NoError(t, b.release(t, second.ID))
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"1", "bad.skip", "mended", "2"}, to.ids("k"))
	})
}
