package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

func testPositions(t *testing.T, h Harness) {
	each(t, h, []test{
		{"AdvanceByOne", positionsAdvance},
		{"AreMadeOnce", positionsMade},
		{"KeepWhatIsAhead", positionsAhead},
		{"OfEpochsAreApart", positionsEpochs},
		{"WakeWhatWaits", positionsWake},
		{"ArePassedByWhatIsFinal", positionsPassed},
		{"MoveWithTheirConsumer", positionsRenamed},
		{"AreForgottenByAReset", positionsReset},
	})
}

func placeOf(key string) store.Place {
	return store.Place{Consumer: "c", Stream: "shop/default/orders", Key: key, Epoch: 1}
}

// change changes a position, which begins at 0.
func change(t *testing.T, st *store.Store, at store.Place, f func(p *store.Position)) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		p, err := st.LockPosition(ctx, tx, at)
		if err != nil {
			return err
		}
		if p.Fresh() {
			p.Start(0)
		}
		f(&p)
		return st.PutPosition(ctx, tx, p)
	}))
}

func position(t *testing.T, st *store.Store, at store.Place) store.Position {
	t.Helper()
	found, err := st.Positions(t.Context(), at.Consumer, at.Key, 10)
	require.NoError(t, err)
	for _, p := range found {
		if p.Epoch == at.Epoch {
			return p
		}
	}
	t.Fatalf("there is no position %v", at)
	return store.Position{}
}

func advance(t *testing.T, st *store.Store, at store.Place, n int64) (advanced bool) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		advanced, err = st.Advance(ctx, tx, at, n)
		return err
	}))
	return advanced
}

func positionsAdvance(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{}), placeOf("k")
	require.False(t, advance(t, st, at, 1), "there is none")
	change(t, st, at, func(p *store.Position) { p.Add(1) })
	require.True(t, advance(t, st, at, 2))
	require.False(t, advance(t, st, at, 2), "it is done")
	require.False(t, advance(t, st, at, 4), "3 is missing")
	change(t, st, at, func(p *store.Position) { p.Add(4) })
	require.False(t, advance(t, st, at, 3), "4 is done then, too")
	require.False(t, advance(t, st, placeOf("K"), 3), "keys are told apart by their case")
	require.Equal(t, int64(2), position(t, st, at).Mark)
}

func positionsMade(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{MaxRetries: 20}), placeOf("k")
	var wg sync.WaitGroup
	const writers = 8
	for n := range writers {
		wg.Go(func() { change(t, st, at, func(p *store.Position) { p.Add(int64(n + 1)) }) })
	}
	wg.Wait()
	p := position(t, st, at)
	require.EqualValues(t, writers, p.Mark)
	require.Zero(t, p.Ahead())
	require.False(t, p.UpdatedAt.IsZero())
}

func positionsAhead(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{}), placeOf("k")
	change(t, st, at, func(p *store.Position) {
		p.Start(4)
		p.Add(7)
		p.Add(4 + store.MaxAhead)
	})
	p := position(t, st, at)
	require.Equal(t, int64(4), p.Base)
	require.True(t, p.Has(7))
	require.True(t, p.Has(4+store.MaxAhead))
	require.False(t, p.Has(6))
	require.Equal(t, 2, p.Ahead())
	change(t, st, at, func(p *store.Position) {
		p.Add(5)
		p.Add(6)
	})
	p = position(t, st, at)
	require.Equal(t, int64(7), p.Mark)
	require.Equal(t, 1, p.Ahead())
	change(t, st, at, func(p *store.Position) { p.PassTo(3 + store.MaxAhead) })
	p = position(t, st, at)
	require.Equal(t, int64(4+store.MaxAhead), p.Mark)
	require.Zero(t, p.Ahead())
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_positions WHERE ahead IS NULL"))
}

func positionsEpochs(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{}), placeOf("k")
	change(t, st, at, func(p *store.Position) { p.PassTo(10) })
	later := at
	later.Epoch = 7
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		mark, known, err := st.MarkBefore(ctx, tx, later)
		require.NoError(t, err)
		require.True(t, known)
		require.Equal(t, int64(10), mark)
		_, known, err = st.MarkBefore(ctx, tx, at)
		require.False(t, known)
		return err
	}))
	change(t, st, later, func(p *store.Position) { p.Add(1) })
	require.Equal(t, int64(10), position(t, st, at).Mark)
	require.Equal(t, int64(1), position(t, st, later).Mark)
}

// keepGap keeps a message because of what is missing before it.
func keepGap(t *testing.T, st *store.Store, at store.Place, n int64, id string, status store.ParkedStatus) int64 {
	t.Helper()
	var parked int64
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		parked, _, _, err = st.Park(ctx, tx, store.ParkedRow{
			Origin: store.OriginConsumer, Consumer: at.Consumer, Line: store.MessageLine(at.Consumer, id).Line, InboxID: id,
			MessageID: id, Status: status, DueIn: time.Hour, Gap: &store.GapRef{Place: at, Sequence: n},
		}, func(ctx context.Context, tx store.Tx) error {
			p, err := st.LockPosition(ctx, tx, at)
			if err != nil {
				return err
			}
			if p.Fresh() {
				p.Start(0)
			}
			p.Waiting = true
			return st.KeepWaiting(ctx, tx, p)
		})
		return err
	}))
	return parked
}

func positionsWake(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{}), placeOf("k")
	three := keepGap(t, st, at, 3, "m-3", store.StatusGap)
	four := keepGap(t, st, at, 4, "m-4", store.StatusParked)
	keepGap(t, st, placeOf("other"), 3, "o-3", store.StatusGap)
	due := func() int { return b.int(t, "SELECT count(*) FROM headrace_gates WHERE due_at <= "+now(b)) }
	status := func(id int64) store.ParkedStatus {
		row, err := st.ParkedByID(t.Context(), id)
		require.NoError(t, err)
		return row.Status
	}
	require.False(t, advance(t, st, at, 1), "somebody waits")
	change(t, st, at, func(p *store.Position) { p.Add(1) })
	require.Zero(t, due(), "2 is missing")
	change(t, st, at, func(p *store.Position) { p.Add(2) })
	require.Equal(t, 1, due())
	require.Equal(t, store.StatusGap, status(three))
	require.Equal(t, store.StatusParked, status(four))
	require.True(t, position(t, st, at).Waiting)

	claims, err := st.ClaimLines(t.Context(), "c", "me", time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, claims, 1)
	finish(t, st, claims[0], "m-3", three, func(ctx context.Context, tx store.Tx) error {
		p, err := st.LockPosition(ctx, tx, at)
		if err != nil {
			return err
		}
		p.Add(3)
		return st.PutPosition(ctx, tx, p)
	})
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked WHERE inbox_id = 'm-4' AND status = 'gap'"))
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_parked WHERE inbox_id = 'm-3'"), "it has never failed")
	change(t, st, at, func(p *store.Position) { p.Add(4) })
	require.Equal(t, int64(4), position(t, st, at).Mark)
}

// finish handles a kept message and ends its claim.
func finish(
	t *testing.T, st *store.Store, claim store.Claim, inboxID string, id int64, f func(ctx context.Context, tx store.Tx) error,
) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		ref := store.HeldRef{Claim: claim, ID: id, InboxID: inboxID}
		open, err := st.Readmit(ctx, ref)
		require.NoError(t, err)
		require.True(t, open)
		if err := f(ctx, tx); err != nil {
			return err
		}
		return st.FinishParked(ctx, tx, ref, store.Applied, "", false, 1)
	}))
	_, err := st.EndClaim(t.Context(), claim)
	require.NoError(t, err)
}

func now(b *bundle) string {
	switch b.h.Dialect {
	case store.MySQL:
		return "UTC_TIMESTAMP(6)"
	case store.SQLite:
		return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) + 1000000"
	case store.Postgres:
	}
	return "clock_timestamp()"
}

// numberOf is the metadata of a message with a number.
func numberOf(at store.Place, n string) map[string]string {
	return map[string]string{
		msgmeta.Producer: at.Stream, msgmeta.Key: at.Key, msgmeta.Epoch: "1", msgmeta.Sequence: n,
	}
}

func positionsPassed(t *testing.T, b *bundle) {
	st, at := b.store(t, store.Config{}), placeOf("k")
	pass := func(metadata map[string]string) {
		t.Helper()
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			return st.PassNumber(ctx, tx, at.Consumer, metadata)
		}))
	}
	pass(nil)
	pass(numberOf(at, "1"))
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_positions"), "the consumer counts nothing")
	change(t, st, at, func(p *store.Position) { p.Add(1) })
	pass(numberOf(at, "2"))
	pass(numberOf(at, "2"))
	pass(numberOf(at, "4"))
	pass(numberOf(at, "9223372036854775807"))
	pass(numberOf(at, "none"))
	p := position(t, st, at)
	require.Equal(t, int64(2), p.Mark)
	require.True(t, p.Has(4))

	var id int64
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		id, _, _, err = st.Park(ctx, tx, store.ParkedRow{
			Origin: store.OriginConsumer, Consumer: at.Consumer, Line: "key/k", Key: "k", InboxID: "m-3", MessageID: "m-3",
			Status: store.StatusParked, Metadata: numberOf(at, "3"),
		}, nil)
		return err
	}))
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := st.DiscardParked(ctx, tx, id, "anna", "", nil)
		return err
	}))
	require.Equal(t, int64(4), position(t, st, at).Mark, "nobody waits for what was discarded")

	skip := numberOf(placeOf("new"), "5")
	skip[msgmeta.Skip] = "true"
	pass(skip)
	require.Equal(t, int64(5), position(t, st, placeOf("new")).Mark)
}

func positionsRenamed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 1)
	for _, key := range []string{"1", "2", "3"} {
		change(t, st, placeOf(key), func(p *store.Position) { p.Add(1) })
	}
	_, err := st.RenameConsumer(t.Context(), "c", "new", store.ConsumerChange{Actor: "anna", BatchSize: 2})
	require.NoError(t, err)
	for key, want := range map[string]int64{"1": 1, "2": 1, "3": 1} {
		at := placeOf(key)
		at.Consumer = "new"
		require.Equal(t, want, position(t, st, at).Mark)
	}
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_positions WHERE consumer = 'c'"))
}

func positionsReset(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 2)
	for _, key := range []string{"1", "2", "3"} {
		change(t, st, placeOf(key), func(p *store.Position) { p.Add(1) })
	}
	forgotten, err := st.ResetConsumer(t.Context(), "c", store.ConsumerChange{Actor: "anna", BatchSize: 2})
	require.NoError(t, err)
	require.Equal(t, int64(2), forgotten)
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_positions"))
}
