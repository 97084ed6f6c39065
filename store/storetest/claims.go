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

func testClaims(t *testing.T, h Harness) {
	each(t, h, []test{
		{"DrainALineInOrder", claimDrain},
		{"AreGivenToOneOwner", claimOnce},
		{"EndWithTheirOwner", claimZombie},
		{"CountOwnersThatEndWithoutAWord", claimStalls},
		{"AreRenewed", claimRenew},
		{"WaitUntilTheirFirstMessageIsDue", claimDelayed},
		{"RecordWhatFailedAgain", claimFail},
		{"StopAtAMessageForAPerson", claimPerson},
		{"HandleNoMessageThatIsFinal", claimFinal},
		{"AreRolledBackWithTheirUnit", claimRollback},
		{"CountWhatHasLeftOnce", claimCounts},
	})
}

const ttl = time.Minute

func claim(t *testing.T, st *store.Store, owner string) []store.Claim {
	t.Helper()
	claims, err := st.ClaimLines(t.Context(), "c", owner, ttl, 10)
	require.NoError(t, err)
	return claims
}

func claimed(t *testing.T, st *store.Store, owner string) store.Claim {
	t.Helper()
	claims := claim(t, st, owner)
	require.Len(t, claims, 1)
	return claims[0]
}

func ref(c store.Claim, row store.ParkedRow) store.HeldRef {
	return store.HeldRef{Claim: c, ID: row.ID, InboxID: row.InboxID, Edits: row.Edits, Status: row.Status}
}

// handle is what Dedupe does with a message that comes again. f may be nil.
func handle(
	ctx context.Context, st *store.Store, r store.HeldRef, row store.ParkedRow, f func(context.Context, store.Tx) error,
) error {
	return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		open, err := st.Readmit(ctx, r)
		if err != nil {
			return err
		}
		if open && f != nil {
			if err := f(ctx, tx); err != nil {
				return err
			}
		}
		return st.FinishParked(ctx, tx, r, store.Applied, "", row.Status != store.StatusWaiting, row.Attempts+1)
	})
}

// line reads a claimed line.
func line(t *testing.T, st *store.Store, c store.Claim) []store.ParkedRow {
	t.Helper()
	rows, err := st.ReadLine(t.Context(), c, 0, 100, 1<<20)
	require.NoError(t, err)
	return rows
}

func ids(rows []store.ParkedRow) (ids []string) {
	for _, row := range rows {
		ids = append(ids, row.InboxID)
	}
	return ids
}

// over makes what a line waits for come at once: its claim is over, its message due.
func (b *bundle) over(t *testing.T) {
	t.Helper()
	past := map[store.Dialect]string{
		store.Postgres: "statement_timestamp() - interval '1 second'", store.MySQL: "UTC_TIMESTAMP(6) - INTERVAL 1 SECOND",
		store.SQLite: "1",
	}[b.h.Dialect]
	b.exec(t, "UPDATE headrace_gates SET due_at = "+past+" WHERE due_at IS NOT NULL")
	b.exec(t, "UPDATE headrace_parked SET due_at = "+past+" WHERE due_at IS NOT NULL")
}

func (b *bundle) verdict(t *testing.T, st *store.Store, id string) string {
	t.Helper()
	verdict, _, _, err := st.Look(t.Context(), "c", id, store.KeyLine("c", "k"))
	require.NoError(t, err)
	return string(verdict)
}

func claimDrain(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	for _, id := range []string{"2", "3"} {
		require.Equal(t, store.Held, arrived(t, st, "c", "k", id))
	}
	c := claimed(t, st, "one")
	require.Equal(t, store.Claim{Consumer: "c", Line: "key/k", Key: "k", Owner: "one", Epoch: 1}, c)
	rows := line(t, st, c)
	require.Equal(t, []string{"1", "2", "3"}, ids(rows))
	require.Equal(t, store.Held, arrived(t, st, "c", "k", "4"), "while it is drained")
	for i, row := range rows {
		require.NoError(t, handle(t.Context(), st, ref(c, row), row, func(ctx context.Context, tx store.Tx) error {
			return insert(ctx, tx, i)
		}))
	}
	require.Equal(t, 3, b.things(t))
	for _, id := range []string{"1", "2", "3"} {
		require.Equal(t, "applied", b.verdict(t, st, id))
	}
	done, err := st.ParkedByID(t.Context(), rows[0].ID)
	require.NoError(t, err)
	require.Equal(t, store.StatusDone, done.Status)
	require.Empty(t, done.Line)
	require.Equal(t, 2, done.Attempts)
	require.WithinDuration(t, time.Now(), done.FinishedAt, time.Minute)
	_, err = st.ParkedByID(t.Context(), rows[1].ID)
	require.ErrorIs(t, err, store.ErrNotParked, "it has never failed: the inbox tells of it")
	stories, err := st.Stories(t.Context(), "1", "c")
	require.NoError(t, err)
	require.Len(t, stories[0].Log, 2, "parked, and applied in the end")

	opened, err := st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.False(t, opened, "one more has come")
	gate, err := st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.EqualValues(t, 1, gate.Waiting())
	c = claimed(t, st, "two")
	require.EqualValues(t, 3, c.Epoch, "each claim and each end of one counts")
	rows = line(t, st, c)
	require.Equal(t, []string{"4"}, ids(rows))
	require.NoError(t, handle(t.Context(), st, ref(c, rows[0]), rows[0], nil))
	opened, err = st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, opened)
	_, err = st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.ErrorIs(t, err, store.ErrNotHeld)
	require.Equal(t, store.Admitted, arrived(t, st, "c", "k", "5"))
	opened, err = st.EndClaim(t.Context(), c)
	require.NoError(t, err, "it is over already")
	require.False(t, opened)
}

func claimOnce(t *testing.T, b *bundle) {
	first := b.store(t, store.Config{})
	const lines = 12
	for i := range lines {
		park(t, first, failed("c", fmt.Sprint("k", i), fmt.Sprint(i)))
	}
	park(t, first, failed("other", "k", "x"))
	var mu sync.Mutex
	owners := map[string]string{}
	var wg sync.WaitGroup
	for i := range 4 {
		st := b.storeOn(t, b.open(t), store.Config{})
		wg.Go(func() {
			for range 2 * lines {
				claims, err := st.ClaimLines(t.Context(), "c", fmt.Sprint("owner-", i), ttl, 3)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, c := range claims {
					if owners[c.Line] != "" {
						t.Errorf("%s was claimed by %s and %s", c.Line, owners[c.Line], c.Owner)
					}
					owners[c.Line] = c.Owner
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, c := range claim(t, first, "late") { // what was locked by each other whenever they looked
		owners[c.Line] = c.Owner
	}
	require.Len(t, owners, lines)
	_, err := first.ClaimLines(t.Context(), "c", "", ttl, 1)
	require.ErrorContains(t, err, "owner")
}

func claimZombie(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	zombie := claimed(t, st, "zombie")
	row := line(t, st, zombie)[0]
	require.Empty(t, claim(t, st, "heir"))
	b.over(t)
	if b.h.Dialect == store.SQLite { // whose one writer is the zombie's handler
		c := claimed(t, st, "heir")
		require.ErrorIs(t, handle(t.Context(), st, ref(zombie, row), row, nil), store.ErrClaimLost)
		require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
		return
	}
	var heir store.Claim
	err := handle(t.Context(), st, ref(zombie, row), row, func(ctx context.Context, tx store.Tx) error {
		heir = claimed(t, st, "heir") // while its handler is at work
		return insert(ctx, tx, 1)
	})
	require.ErrorIs(t, err, store.ErrClaimLost)
	require.Zero(t, b.things(t))
	require.Equal(t, "parked", b.verdict(t, st, "1"))
	err = st.FailParked(t.Context(), ref(zombie, row), store.Failure{Status: store.StatusParked})
	require.ErrorIs(t, err, store.ErrClaimLost)
	err = handle(t.Context(), st, ref(zombie, row), row, func(context.Context, store.Tx) error {
		t.Error("it is told before its handler runs")
		return nil
	})
	require.ErrorIs(t, err, store.ErrClaimLost)
	opened, err := st.EndClaim(t.Context(), zombie)
	require.NoError(t, err)
	require.False(t, opened)
	require.NoError(t, handle(t.Context(), st, ref(heir, row), row, func(ctx context.Context, tx store.Tx) error {
		return insert(ctx, tx, 2)
	}))
	require.Equal(t, 1, b.things(t))
}

func claimStalls(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	arrived(t, st, "c", "k", "2")
	for i := range 4 {
		require.Equal(t, i, claimed(t, st, fmt.Sprint("owner-", i)).Stalls)
		b.over(t)
	}
	c := claimed(t, st, "owner-3")
	require.Equal(t, 3, c.Stalls, "its own claim, that it couldn't renew")
	row := line(t, st, c)[0]
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
	b.over(t)
	c = claimed(t, st, "owner-4")
	require.Zero(t, c.Stalls, "another message is the first one")
	_, err := st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.Zero(t, claimed(t, st, "owner-5").Stalls, "given back")
}

func claimRenew(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for i := range 3 {
		park(t, st, failed("c", fmt.Sprint("k", i), fmt.Sprint(i)))
	}
	claims := claim(t, st, "one")
	require.Len(t, claims, 3)
	b.over(t)
	taken, err := st.ClaimLines(t.Context(), "c", "two", ttl, 1)
	require.NoError(t, err)
	require.Len(t, taken, 1)
	for i := range claims {
		claims[i].Gone = 1
	}
	kept, err := st.RenewClaims(t.Context(), "one", ttl, claims)
	require.NoError(t, err)
	require.Len(t, kept, 2)
	for _, c := range kept {
		require.NotEqual(t, taken[0].Line, c.Line)
		require.False(t, c.Paused)
		require.Zero(t, c.Gone)
		gate, err := st.GateOf(t.Context(), store.Line{Consumer: c.Consumer, Line: c.Line})
		require.NoError(t, err)
		require.Greater(t, gate.DueIn, ttl/2)
		require.EqualValues(t, 1, gate.Gone)
	}
	pause(t, st, store.Line{Consumer: kept[0].Consumer, Line: kept[0].Line})
	kept, err = st.RenewClaims(t.Context(), "one", ttl, kept)
	require.NoError(t, err)
	require.NotEqual(t, kept[0].Paused, kept[1].Paused)
}

func claimDelayed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	row := failed("c", "k", "1")
	row.DueIn = time.Hour
	park(t, st, row)
	require.Empty(t, claim(t, st, "one"))
	b.exec(t, "UPDATE headrace_gates SET due_at = due_at") // the index's word alone isn't enough
	b.over(t)
	c := claimed(t, st, "one")
	require.NoError(t, st.FailParked(t.Context(), ref(c, line(t, st, c)[0]), store.Failure{
		Status: store.StatusDelayed, DueIn: time.Hour,
	}))
	require.Empty(t, claim(t, st, "one"))
	gate, err := st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.InDelta(t, time.Hour.Seconds(), gate.DueIn.Seconds(), 60)
	require.Empty(t, gate.ClaimedBy)
}

func claimRollback(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	c := claimed(t, st, "one")
	row := line(t, st, c)[0]
	err := handle(t.Context(), st, ref(c, row), row, func(context.Context, store.Tx) error { return errBoom })
	require.ErrorIs(t, err, errBoom)
	require.Equal(t, "parked", b.verdict(t, st, "1"))
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))

	_, err = st.Readmit(t.Context(), ref(c, row))
	require.ErrorIs(t, err, store.ErrNoUnit)
	require.ErrorContains(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.FinishParked(ctx, tx, ref(c, row), store.Parked, "", true, 1)
	}), "doesn't finish")
}
