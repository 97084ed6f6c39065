package forwarder_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// soon is a forwarder that looks often for what is due.
func soon() forwarder.Config {
	return forwarder.Config{PollInterval: quick, MaxPollInterval: 2 * quick}
}

// keyed is a message of the key k.
func keyed(id string) *message.Message {
	msg := message.NewMessage(id, []byte(id))
	msgmeta.SetKey(msg, "k")
	return msg
}

// elapse lets time pass for what is scheduled: the database's clock can't be set.
func (b *bundle) elapse(t *testing.T, d time.Duration) {
	t.Helper()
	us := d.Microseconds()
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE headrace_scheduled SET due_at = "+map[store.Dialect]string{
			store.Postgres: fmt.Sprintf("due_at - %d * interval '1 microsecond'", us),
			store.MySQL:    fmt.Sprintf("due_at - INTERVAL %d MICROSECOND", us),
			store.SQLite:   fmt.Sprintf("due_at - %d", us),
		}[b.st.Dialect()]+" WHERE state = 'waiting'")
		return err
	}))
}

// arrive has everything that is scheduled be due now.
func (b *bundle) arrive(t *testing.T) {
	t.Helper()
	now := map[store.Dialect]string{
		store.Postgres: "now()", store.MySQL: "UTC_TIMESTAMP(6)", store.SQLite: "unixepoch('now') * 1000000",
	}[b.st.Dialect()]
	require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE headrace_scheduled SET due_at = "+now+
			" WHERE state = 'waiting' AND due_at > "+now)
		return err
	}))
}

func (b *bundle) scheduled(t *testing.T) []store.ScheduledRow {
	t.Helper()
	rows, err := b.st.ListScheduled(t.Context(), 0, 1000)
	require.NoError(t, err)
	return rows
}

func eventually(t *testing.T, to *broker, ids ...string) {
	t.Helper()
	testenv.Eventually(t, deadline, quick, func() (bool, string) {
		got := to.ids("")
		return len(got) >= len(ids), fmt.Sprintf("%v, want %v", got, ids)
	})
	require.Equal(t, ids, to.ids(""))
}

func TestMessagesForLaterAreSentWhenTheyAreDueInTheOrderOfTheirTimes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		now, err := b.st.Now(ctx)
		require.NoError(t, err)
		require.NoError(t, b.outbox.PublishAt(ctx, now.Add(2*time.Hour), "topic", keyed("third")))
		require.NoError(t, b.outbox.PublishAfter(ctx, time.Hour, "topic", keyed("first"), keyed("second")))
		require.NoError(t, b.outbox.PublishAfter(ctx, 30*time.Hour, "topic", keyed("last")))
		require.NoError(t, b.outbox.PublishAt(ctx, now.Add(-time.Hour), "topic", keyed("past")))

		var to broker
		b.run(t, &to, soon())
		eventually(t, &to, "past")
		b.elapse(t, 59*time.Minute)
		require.Equal(t, []string{"past"}, to.ids(""))
		b.elapse(t, 2*time.Hour)
		eventually(t, &to, "past", "first", "second", "third")
		left := b.scheduled(t)
		require.Len(t, left, 1)
		require.Equal(t, "last", left[0].MessageID)
		require.Equal(t, map[string]string{msgmeta.Key: "k"}, left[0].Metadata)

		// What is sent is as it was written.
		to.mu.Lock()
		defer to.mu.Unlock()
		require.Equal(t, message.Payload("third"), to.got[3].Payload)
	})
}

func TestAMessageForLaterBelongsToItsTransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		refused := errors.New("refused")
		err := b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			require.NoError(t, b.outbox.PublishAfter(ctx, 0, "topic", keyed("undone")))
			_, err := b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s"}, "topic")
			require.NoError(t, err)
			return refused
		})
		require.ErrorIs(t, err, refused)
		require.Empty(t, b.scheduled(t))
	})
}

func TestCancelTakesBackWhatIsNotSent(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		var to broker
		require.NoError(t, b.outbox.PublishAfter(ctx, time.Hour, "topic", keyed("1"), keyed("2")))
		require.NoError(t, b.outbox.Cancel(ctx, "1"))
		require.ErrorIs(t, b.outbox.Cancel(ctx, "1"), forwarder.ErrNotScheduled)
		require.ErrorIs(t, b.outbox.Cancel(ctx, "never"), forwarder.ErrNotScheduled)
		other, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Service: "other"})
		require.NoError(t, err)
		require.ErrorIs(t, other.Cancel(ctx, "2"), forwarder.ErrNotScheduled, "it is another service's")
		b.elapse(t, 2*time.Hour)
		b.run(t, &to, soon())
		eventually(t, &to, "2")
		require.ErrorIs(t, b.outbox.Cancel(ctx, "2"), forwarder.ErrNotScheduled)
	})
}

func TestASlotHasOneMessageForASubjectHoweverManyAsk(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		slot := func(subject string) forwarder.Slot {
			return forwarder.Slot{Cron: "0 17 * * *", Subject: subject, Zone: berlin(t)}
		}
		var asking sync.WaitGroup
		for n := range 20 {
			asking.Go(func() {
				if _, err := b.outbox.PublishInSlot(ctx, slot(fmt.Sprintf("supplier %d", n%2)), "topic"); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		rows := b.scheduled(t)
		require.Len(t, rows, 2)
		found, err := b.outbox.PublishInSlot(ctx, slot("supplier 0"), "topic")
		require.NoError(t, err)
		require.Equal(t, 17, found.At.In(berlin(t)).Hour())
		other := slot("supplier 0")
		other.Name = "reminder"
		_, err = b.outbox.PublishInSlot(ctx, other, "topic")
		require.NoError(t, err)
		require.Len(t, b.scheduled(t), 3, "another name is another message")
		require.NoError(t, b.outbox.Cancel(ctx, found.ID))
		require.Len(t, b.scheduled(t), 2)
		again, err := b.outbox.PublishInSlot(ctx, slot("supplier 0"), "topic")
		require.NoError(t, err)
		require.Equal(t, found, again, "who asks again has it back")

		var to broker
		b.run(t, &to, soon())
		b.elapse(t, 25*time.Hour)
		testenv.Eventually(t, deadline, quick, func() (bool, string) { return len(to.ids("")) == 3, fmt.Sprint(to.ids("")) })
		require.Len(t, to.ids("supplier 0"), 2)
		to.mu.Lock()
		for _, msg := range to.got {
			subject, at, ok, err := msgmeta.GetSlot(msg)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, msgmeta.GetKey(msg), subject)
			require.JSONEq(t, fmt.Sprintf(`{"subject": %q, "slot": %q}`, subject, at.Format(time.RFC3339)), string(msg.Payload))
		}
		to.mu.Unlock()

		late, err := b.outbox.PublishInSlot(ctx, slot("supplier 0"), "topic")
		require.NoError(t, err)
		require.Equal(t, found.At.In(berlin(t)).AddDate(0, 0, 1), late.At.In(berlin(t)), "this one is sent")
		require.NotEqual(t, found.ID, late.ID)
	})
}

// Actions that are committed while slots are being sent: the handler of a slot's
// message reads what stands, and nothing is ever left without a message.
func TestAnActionIsInItsSlotOrInTheNext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		_, err := b.db.ExecContext(ctx, "CREATE TABLE actions (id INT NOT NULL PRIMARY KEY, done INT NOT NULL)")
		require.NoError(t, err)
		handled := 0
		to := broker{refuse: func(string, *message.Message) error {
			return b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				res, err := tx.ExecContext(ctx, "UPDATE actions SET done = 1 WHERE done = 0")
				if err != nil {
					return err
				}
				n, err := res.RowsAffected()
				handled += int(n)
				return err
			})
		}}
		stop := b.run(t, &to, soon())
		second := b.run(t, &to, soon())
		var acting sync.WaitGroup
		const actors, most, enough = 4, 2000, 5
		actions := make([]int, actors)
		var sent atomic.Int64
		for actor := range actors {
			acting.Go(func() {
				for ; actions[actor] < most && sent.Load() < enough; actions[actor]++ {
					err := b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
						// The order in which careless code does it.
						_, err := tx.ExecContext(ctx, "INSERT INTO actions (id, done) VALUES (?, 0)", actor*most+actions[actor])
						if err == nil {
							_, err = b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s"}, "topic")
						}
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		over := make(chan struct{})
		go func() { acting.Wait(); close(over) }()
		for running := true; running; {
			select {
			case <-over:
				running = false
			default:
				var n int64
				const count = "SELECT count(*) FROM headrace_scheduled WHERE state = 'sent'"
				require.NoError(t, b.db.QueryRowContext(ctx, count).Scan(&n))
				if sent.Store(n); n < enough {
					b.arrive(t)
				}
			}
		}
		b.arrive(t)
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			var left int
			require.NoError(t, b.db.QueryRowContext(ctx, "SELECT count(*) FROM actions WHERE done = 0").Scan(&left))
			rows := len(b.scheduled(t))
			return left == 0 && rows == 0, fmt.Sprintf("%d actions are left, %d messages wait", left, rows)
		})
		stop()
		second()
		require.Equal(t, actions[0]+actions[1]+actions[2]+actions[3], handled)
		require.GreaterOrEqual(t, len(to.ids("")), enough, "one slot after the other")
		require.Len(t, to.ids(""), len(unique(to.ids(""))), "each slot once")
	})
}

// A slot waits for whoever has asked for it and not committed yet. (SQLite has one
// writer at a time, so there everything waits.)
func TestASlotWaitsForActionsThatAreNotCommitted(t *testing.T) {
	eachServer(t, func(t *testing.T, b *bundle, _ string) {
		ctx := t.Context()
		ask := func(ctx context.Context) {
			_, err := b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s"}, "topic")
			require.NoError(t, err)
		}
		ask(ctx)
		b.elapse(t, 25*time.Hour)
		row := b.scheduled(t)[0]
		name := forwarder.PartitionLease(store.Partition{Number: row.Partition})
		lease, ok, err := b.st.AcquireLease(ctx, name, "me", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		move := func() int {
			n, err := b.st.MoveScheduled(ctx, map[int]store.Lease{row.Partition: lease}, []int64{row.ID},
				func(row store.ScheduledRow, _ time.Time) (*store.ScheduledRow, error) { return nil, row.Problem })
			require.NoError(t, err)
			return n
		}
		require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
			ask(ctx)
			require.Zero(t, move())
			return nil
		}))
		require.Equal(t, 1, move())
		ask(ctx)
		require.Len(t, b.scheduled(t), 1, "what comes too late is in the next slot")
	})
}

func unique(ids []string) map[string]bool {
	set := map[string]bool{}
	for _, id := range ids {
		set[id] = true
	}
	return set
}

// A slot that was missed, because no forwarder ran, is left to the next one where
// that is wanted.
func TestAMissedSlotIsSentLateOrLeftToTheNext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		// A slot that was a year ago, as far as its message knows.
		missed := func(subject, late string) {
			require.NoError(t, b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				plan := fmt.Sprintf(`{"cron": "0 17 * * *", "zone": "Europe/Berlin", "at": %q%s}`,
					time.Now().AddDate(-1, 0, 0).Format(time.RFC3339), late)
				msg := store.OutboxRow{MessageID: subject, Destination: "default", Topic: "topic", Key: subject}
				_, err := b.st.TouchSlot(ctx, tx, store.ScheduledRow{
					OutboxRow: msg, Slot: "missed by " + subject, Subject: subject, Plan: plan, DueIn: time.Microsecond,
				})
				return err
			}))
		}
		missed("always", "")
		missed("soon", `, "late": "9000h"`)
		missed("never", `, "late": "1h"`)
		var to broker
		b.run(t, &to, soon())
		testenv.Eventually(t, deadline, quick, func() (bool, string) {
			rows := b.scheduled(t)
			return len(rows) == 1 && rows[0].MessageID != "never" && len(to.ids("")) == 2, fmt.Sprint(rows)
		})
		require.ElementsMatch(t, []string{"always", "soon"}, to.ids(""))
		left := b.scheduled(t)[0]
		require.Equal(t, 17, left.DueAt.In(berlin(t)).Hour())
		require.True(t, left.DueAt.After(time.Now()))
		found, err := b.outbox.PublishInSlot(ctx,
			forwarder.Slot{Cron: "0 17 * * *", Subject: "never", Zone: berlin(t), Late: time.Hour}, "topic")
		require.NoError(t, err)
		require.Equal(t, left.MessageID, found.ID, "it is the one that others ask for")
	})
}

// A forwarder whose partitions were taken moves nothing.
func TestWhoLostItsPartitionsMovesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		require.NoError(t, b.outbox.PublishAfter(ctx, 0, "topic", keyed("1")))
		row := b.scheduled(t)[0]
		name := forwarder.PartitionLease(store.Partition{Number: row.Partition})
		mine, ok, err := b.st.AcquireLease(ctx, name, "me", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		late := mine
		late.Epoch--
		for _, lease := range []store.Lease{late, {Name: name, Owner: "somebody", Epoch: mine.Epoch}} {
			n, err := b.st.MoveScheduled(ctx, map[int]store.Lease{row.Partition: lease}, []int64{row.ID}, nil)
			require.NoError(t, err)
			require.Zero(t, n)
		}
		elsewhere := (row.Partition + 1) % store.OutboxPartitions
		n, err := b.st.MoveScheduled(ctx, map[int]store.Lease{elsewhere: mine}, []int64{row.ID}, nil)
		require.NoError(t, err)
		require.Zero(t, n, "it is of another partition")
		n, err = b.st.MoveScheduled(ctx, map[int]store.Lease{row.Partition: mine}, []int64{row.ID}, nil)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		n, err = b.st.MoveScheduled(ctx, map[int]store.Lease{row.Partition: mine}, []int64{row.ID}, nil)
		require.NoError(t, err)
		require.Zero(t, n, "it is moved once")
	})
}

func TestSentSlotsAreForgottenADayLater(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		found, err := b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s"}, "topic")
		require.NoError(t, err)
		b.elapse(t, 49*time.Hour)
		n, err := b.st.PurgeScheduled(ctx, "", 24*time.Hour, 10)
		require.NoError(t, err)
		require.Zero(t, n, "it isn't sent")
		require.NoError(t, b.outbox.Cancel(ctx, found.ID))
		n, err = b.st.PurgeScheduled(ctx, "", 100*time.Hour, 10)
		require.NoError(t, err)
		require.Zero(t, n, "it is of today")
		n, err = b.st.PurgeScheduled(ctx, "", 24*time.Hour, 10)
		require.NoError(t, err)
		require.EqualValues(t, 1, n)
	})
}

func TestWhatCannotBeScheduledIsRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		for says, slot := range map[string]forwarder.Slot{
			"Slot.Subject is required": {Cron: "0 17 * * *"},
			"no cron expression":       {Cron: "at five", Subject: "s"},
			"names a time zone":        {Cron: "TZ=Europe/Berlin 0 17 * * *", Subject: "s"},
			"must not be negative":     {Cron: "0 17 * * *", Subject: "s", Late: -1},
			"must be one that":         {Cron: "0 17 * * *", Subject: "s", Zone: time.FixedZone("mine", 60)},
			"never comes":              {Cron: "0 0 30 2 *", Subject: "s"},
			"is not UTF-8":             {Cron: "0 17 * * *", Subject: "\xff"},
		} {
			_, err := b.outbox.PublishInSlot(ctx, slot, "topic")
			require.ErrorContains(t, err, says)
		}
		_, err := b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 17 * * *", Subject: "s"}, "")
		require.ErrorContains(t, err, "topic is empty")
		_, err = b.outbox.PublishInSlot(ctx, forwarder.Slot{Cron: "0 0 31 4 *", Subject: "s"}, "topic")
		require.ErrorIs(t, err, forwarder.ErrNeverFires)
		require.ErrorContains(t, b.outbox.PublishAt(ctx, time.Time{}, "topic", keyed("1")), "zero time")
		require.ErrorIs(t, b.outbox.PublishAt(ctx, time.Unix(-1, 0), "topic", keyed("1")), store.ErrContent)
		require.ErrorIs(t, b.outbox.PublishAfter(ctx, 0, "topic", keyed("")), forwarder.ErrNoUUID)
		require.NoError(t, b.outbox.PublishAfter(ctx, 0, "topic"), "nothing is nothing")
		require.Empty(t, b.scheduled(t))
		strict, err := store.Open(ctx, b.db, store.Config{Dialect: b.st.Dialect(), Strict: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, strict.Close()) }()
		outbox, err := forwarder.NewOutbox(strict, forwarder.OutboxConfig{})
		require.NoError(t, err)
		require.ErrorIs(t, outbox.PublishAfter(ctx, 0, "topic", keyed("1")), store.ErrOutside)
	})
}
