package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

func testSequences(t *testing.T, h Harness) {
	each(t, h, []test{
		{"HaveNoGaps", sequencesGapless},
		{"AreGivenForWhatIsCommitted", sequencesUndone},
		{"OfHooksComeWithTheOthers", sequencesOfHooks},
		{"OfJoinedTransactions", sequencesJoined},
		{"RefuseContentAtOnce", sequencesContent},
		{"AreGivenWhenDue", sequencesScheduled},
		{"AreSkippedWhenDiscarded", sequencesDiscarded},
		{"StayWhenEdited", sequencesEdited},
		{"BeginANewEpoch", sequencesEpoch},
		{"NoticeAnotherServer", sequencesServer},
	})
}

func numbered(key, id string) store.OutboxRow {
	return store.OutboxRow{MessageID: id, Key: key, Destination: "default", Topic: "orders", Service: ""}
}

func sequence(t *testing.T, st *store.Store, rows ...store.OutboxRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertSequenced(ctx, tx, rows)
	}))
}

// numbers are those of each key in the order in which they are sent; each row's metadata
// says the same as its column.
func numbers(t *testing.T, st *store.Store) map[string][]int64 {
	t.Helper()
	all := map[string][]int64{}
	for _, row := range readAll(t, st) {
		n, ok, err := msgmeta.GetNumber(&message.Message{Metadata: row.Metadata})
		require.NoError(t, err)
		require.Equal(t, row.Key != "", ok, row.MessageID)
		require.Equal(t, row.Sequence, n.Sequence)
		require.Equal(t, row.Key, n.Key)
		if ok {
			all[row.Key] = append(all[row.Key], n.Sequence)
		}
	}
	return all
}

func upTo(n int64) (all []int64) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

var errUndone = errors.New("undone")

// Writers publish for the same keys in any order, one here and there fails, and each key's
// numbers are in the order of its rows.
func sequencesGapless(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{MaxRetries: 20})
	const writers, rounds, keys = 6, 15, 4
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			for round := range rounds {
				fails := rnd.IntN(4) == 0
				err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
					for _, k := range rnd.Perm(keys) {
						row := numbered(fmt.Sprint("key-", k), fmt.Sprintf("%d-%d-%d", w, round, k))
						if err := st.InsertSequenced(ctx, tx, []store.OutboxRow{row}); err != nil {
							return err
						}
					}
					if fails {
						return errUndone
					}
					return nil
				})
				if fails {
					require.ErrorIs(t, err, errUndone)
				} else {
					require.NoError(t, err)
				}
			}
		})
	}
	wg.Wait()
	all := numbers(t, st)
	require.Len(t, all, keys)
	for key, given := range all {
		require.Equal(t, upTo(int64(len(given))), given, key)
	}
}

// What a savepoint has undone has taken no number.
func sequencesUndone(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", "1"), numbered("", "no key")}))
		err := store.Savepoint(ctx, func(ctx context.Context, tx store.Tx) error {
			require.NoError(t, st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", "undone")}))
			return errUndone
		})
		require.ErrorIs(t, err, errUndone)
		return st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", "2"), numbered("K", "other case")})
	}))
	require.Equal(t, map[string][]int64{"k": {1, 2}, "K": {1}}, numbers(t, st))
	ids := []string{}
	for _, row := range readAll(t, st) {
		ids = append(ids, row.MessageID)
	}
	slices.Sort(ids)
	require.Equal(t, []string{"1", "2", "no key", "other case"}, ids)
}

// What hooks publish is numbered together with the rest: two transactions that do so would
// otherwise wait for each other.
func sequencesOfHooks(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	publish := func(key string) func(ctx context.Context, tx store.Tx) error {
		return func(ctx context.Context, tx store.Tx) error {
			return st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered(key, "of "+key)})
		}
	}
	var given []int
	last := func(ctx context.Context, tx store.Tx) error {
		var n int
		err := tx.GetContext(ctx, &n, "SELECT count(*) FROM headrace_sequences")
		given = append(given, n)
		return err
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, publish("z")(ctx, tx))
		return store.BeforeCommit(ctx, func(ctx context.Context, _ store.Tx) error {
			return store.BeforeCommit(ctx, func(ctx context.Context, tx store.Tx) error {
				return errors.Join(last(ctx, tx), publish("m")(ctx, tx), store.BeforeCommit(ctx, last))
			})
		})
	}))
	require.Equal(t, map[string][]int64{"m": {1}, "z": {1}}, numbers(t, st))
	require.Equal(t, []int{0, 0}, given, "nothing is numbered while hooks publish")
}

// In somebody else's transaction the numbers are given when the outermost InTx returns.
func sequencesJoined(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	sequence(t, st, numbered("k", "1"))
	db := b.open(t)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	ctx := st.Join(t.Context(), tx)
	for _, id := range []string{"2", "3"} {
		require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			return st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", id)})
		}))
	}
	require.NoError(t, tx.Commit())
	require.Equal(t, upTo(3), numbers(t, st)["k"])
}

func sequencesContent(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		row := numbered("k", "1")
		row.Topic = "a\x00b"
		err := st.InsertSequenced(ctx, tx, []store.OutboxRow{row})
		require.ErrorIs(t, err, store.ErrContent)
		return st.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", "2")})
	})
	require.NoError(t, err, "nothing was written")
	require.Equal(t, upTo(1), numbers(t, st)["k"])
}

func sequencesScheduled(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertScheduled(ctx, tx, []store.ScheduledRow{
			{OutboxRow: numbered("k", "later"), Sequenced: true}, {OutboxRow: numbered("other", "plain")},
		})
	}))
	sequence(t, st, numbered("k", "now"))
	rows, err := st.ListScheduled(t.Context(), 0, 10)
	require.NoError(t, err)
	leases, ids := map[int]store.Lease{}, []int64{}
	for _, row := range rows {
		lease, ok := acquire(t, st, fmt.Sprint("p-", row.Partition), "me", time.Minute)
		require.True(t, ok)
		leases[row.Partition], ids = lease, append(ids, row.ID)
	}
	moved, err := st.MoveScheduled(t.Context(), leases, ids, nil)
	require.NoError(t, err)
	require.Equal(t, 2, moved)
	given := map[string]int64{}
	for _, row := range readAll(t, st) {
		given[row.MessageID] = row.Sequence
	}
	require.Equal(t, map[string]int64{"now": 1, "later": 2, "plain": 0}, given)
}

// What is sent in place of a discarded message says that its number is none any more.
func sequencesDiscarded(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	row := numbered("k", "1")
	row.Payload = []byte("secret")
	sequence(t, st, row)
	_, _, id := parkRow(t, st)
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := st.DiscardParked(ctx, tx, id, "anna", "", nil)
		return err
	}))
	left := readAll(t, st)
	require.Len(t, left, 1)
	require.Equal(t, "1.skip", left[0].MessageID)
	require.Empty(t, left[0].Payload)
	require.Zero(t, left[0].Parked)
	require.True(t, msgmeta.IsSkip(&message.Message{Metadata: left[0].Metadata}))
	require.Equal(t, upTo(1), numbers(t, st)["k"])
}

func sequencesEdited(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	sequence(t, st, numbered("k", "1"))
	_, _, id := parkRow(t, st)
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		if _, err := st.EditParked(ctx, tx, id, store.Edit{Metadata: map[string]string{"a": "b"}}); err != nil {
			return err
		}
		_, err := st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
		return err
	}))
	require.Equal(t, upTo(1), numbers(t, st)["k"])
	require.Equal(t, "b", readAll(t, st)[0].Metadata["a"])
}

func epochs(t *testing.T, st *store.Store) (all []int64) {
	t.Helper()
	for _, row := range readAll(t, st) {
		n, _, err := msgmeta.GetNumber(&message.Message{Metadata: row.Metadata})
		require.NoError(t, err)
		all = append(all, n.Epoch)
	}
	return all
}

func sequencesEpoch(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	sequence(t, st, numbered("k", "1"))
	epoch, err := st.NewSequenceEpoch(t.Context(), "anna", "restored")
	require.NoError(t, err)
	sequence(t, st, numbered("k", "2"))
	again, err := st.NewSequenceEpoch(t.Context(), "anna", "")
	require.NoError(t, err)
	require.Greater(t, again, epoch)
	sequence(t, st, numbered("k", "3"))
	require.Equal(t, []int64{1, epoch, again}, epochs(t, st))
	require.Equal(t, upTo(3), numbers(t, st)["k"], "they go on")
	_, err = st.NewSequenceEpoch(t.Context(), "", "")
	require.ErrorIs(t, err, store.ErrNoActor)
	log, err := st.AuditOf(t.Context(), store.TargetSequences, "epoch", 10)
	require.NoError(t, err)
	require.Len(t, log, 2)
}

// A database that was restored has another timeline than the one that its numbers come
// from: who publishes there begins a new epoch. Other databases don't say.
func sequencesServer(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	sequence(t, st, numbered("k", "1"))
	sequence(t, st, numbered("k", "2"))
	b.exec(t, "UPDATE headrace_meta SET value = '1/00000001' WHERE name = 'sequence_server' AND value <> ''")
	restored := b.storeOn(t, b.open(t), store.Config{})
	require.ErrorIs(t, restored.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		if err := restored.InsertSequenced(ctx, tx, []store.OutboxRow{numbered("k", "undone")}); err != nil {
			return err
		}
		return errUndone
	}), errUndone)
	sequence(t, restored, numbered("k", "3"))
	sequence(t, restored, numbered("k", "4"))
	got := epochs(t, restored)
	require.Equal(t, []int64{1, 1}, got[:2])
	if b.h.Dialect == store.Postgres {
		require.Greater(t, got[2], int64(1))
	} else {
		require.Equal(t, int64(1), got[2])
	}
	require.Equal(t, got[2], got[3])
}
