package parking_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

const (
	shop   = "shop.orders"
	secret = "for nobody's eyes"
)

// kept is a store with messages in its lines.
type kept struct {
	*testing.T
	*store.Store

	kind string
}

// onEach runs a test on a database of every kind.
func onEach(t *testing.T, f func(k kept)) {
	t.Helper()
	dialects := map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, testenv.Database(t, kind))
			st, err := store.Open(t.Context(), db, store.Config{
				Dialect: dialects[kind], Migrate: true, LockTimeout: 2 * time.Second,
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			f(kept{t, st, kind})
		})
	}
}

func (k kept) desk(actor string) *parking.Desk {
	return parking.NewDesk(k.Store, parking.DeskConfig{Actor: actor})
}

// park keeps a message that has failed, or one that waits behind others of its key.
func (k kept) park(key, id string, status store.ParkedStatus, class parking.Class, cause error) int64 {
	k.Helper()
	row := store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: shop, Line: store.KeyLine(shop, key).Line, Key: key, InboxID: id, MessageID: id,
		Topic: "orders", Payload: []byte(secret), Metadata: map[string]string{msgmeta.Key: key, "color": "red"},
		Status: status, Class: string(class), Attempts: 1, DueIn: time.Hour, Chain: parking.Chain(cause),
	}
	if cause != nil {
		row.Reason = cause.Error()
	}
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = parking.Group(shop, class, cause)
	var kept int64
	require.NoError(k, k.InTx(k.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		if status != store.StatusWaiting {
			kept, _, _, err = k.Park(ctx, tx, row, nil)
			return err
		}
		admission, _, err := k.Admit(ctx, store.InboxRow{
			Consumer: shop, MessageID: id, Verdict: store.Applied,
		}, store.KeyLine(shop, key))
		require.Equal(k, store.Held, admission)
		if err == nil {
			kept, _, err = k.LineUp(ctx, tx, row)
		}
		return err
	}))
	return kept
}

// drain handles what is due once, as the parking subscriber does, and returns how
// many messages it has handled.
func (k kept) drain(handle func(row store.ParkedRow) error) (handled int) {
	k.Helper()
	claims, err := k.ClaimLines(k.Context(), shop, "worker", time.Minute, 1000)
	require.NoError(k, err)
	for _, claim := range claims {
		rows, err := k.ReadLine(k.Context(), claim, 0, 1000, 1<<20)
		require.NoError(k, err)
		failed := false
		for _, row := range rows {
			if row.Status != store.StatusReleased && row.Status != store.StatusWaiting {
				break
			}
			handled++
			if failed = !k.handle(claim, row, handle(row)); failed {
				break
			}
		}
		if !failed {
			_, err = k.EndClaim(k.Context(), claim)
			require.NoError(k, err)
		}
	}
	return handled
}

func (k kept) handle(claim store.Claim, row store.ParkedRow, outcome error) (done bool) {
	k.Helper()
	ref := store.HeldRef{Claim: claim, ID: row.ID, InboxID: row.InboxID, Edits: row.Edits}
	if outcome != nil {
		class := parking.Classify(outcome)
		require.NoError(k, k.FailParked(k.Context(), ref, store.Failure{
			Status: store.StatusParked, Class: string(class), Reason: outcome.Error(), Chain: parking.Chain(outcome),
		}))
		return false
	}
	require.NoError(k, k.InTx(k.Context(), func(ctx context.Context, tx store.Tx) error {
		if _, err := k.Readmit(ctx, ref); err != nil {
			return err
		}
		return k.FinishParked(ctx, tx, ref, store.Applied, "", row.Status != store.StatusWaiting, row.Attempts+1)
	}))
	return true
}

func (k kept) status(id int64) store.ParkedStatus {
	k.Helper()
	row, err := k.ParkedByID(k.Context(), id)
	require.NoError(k, err)
	return row.Status
}

// audit are the changes of a message, as "action by actor".
func (k kept) audit(id int64) (changes []string) {
	k.Helper()
	whole, err := k.desk("").Get(k.Context(), id)
	require.NoError(k, err)
	for _, row := range whole.Audit {
		changes = append(changes, row.Action+" by "+row.Actor)
		require.NotContains(k, row.Details, secret)
	}
	return changes
}

var (
	errDown = parking.AsTransient(errors.New("dial tcp 10.0.0.1:5432: connection refused"))
	errBad  = parking.AsPermanent(errors.New("unknown supplier 7"))
)

func TestKeptMessagesAreListedAndGrouped(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		desk := k.desk("")
		huge := errors.New(strings.Repeat("\xff\x1b[31mhuge ", 1<<20))
		a := k.park("a", "1", store.StatusDelayed, parking.Transient, errDown)
		k.park("a", "2", store.StatusWaiting, "", nil)
		k.park("a", "3", store.StatusWaiting, "", nil)
		b := k.park("b", "4", store.StatusParked, parking.Permanent, errBad)
		c := k.park("c", "5", store.StatusDelayed, parking.Transient,
			parking.AsTransient(errors.New("dial tcp 10.0.0.2:5433: connection refused")))
		d := k.park("d\x00", strings.Repeat("long", 100), store.StatusReview, parking.Conflict, huge)

		list := func(f store.ParkedFilter) (ids []int64) {
			items, err := desk.List(k.Context(), f, 0, 10)
			require.NoError(k, err)
			for _, item := range items {
				ids = append(ids, item.ID)
				require.Nil(k, item.Payload, "shown only when it is asked for")
				require.LessOrEqual(k, len(item.Reason), 2000)
			}
			return ids
		}
		require.Equal(k, []int64{a, b, c, d}, list(store.ParkedFilter{}))
		require.Equal(k, []int64{a, c}, list(store.ParkedFilter{Class: "transient"}))
		require.Equal(k, []int64{b}, list(store.ParkedFilter{Key: "b", Consumer: shop}))
		require.Equal(k, []int64{d}, list(store.ParkedFilter{Key: "d\x00"}))
		require.Equal(k, []int64{d}, list(store.ParkedFilter{MessageID: strings.Repeat("long", 100)}))
		forPeople := []store.ParkedStatus{store.StatusParked, store.StatusReview}
		require.Equal(k, []int64{b, d}, list(store.ParkedFilter{Status: forPeople}))
		require.Len(k, list(store.ParkedFilter{Status: []store.ParkedStatus{store.StatusWaiting}}), 2)
		require.Equal(k, []int64{a, c}, list(store.ParkedFilter{IDs: []int64{c, a, -1}}))
		require.Empty(k, list(store.ParkedFilter{Origin: store.OriginOutbox}))
		require.Empty(k, list(store.ParkedFilter{Consumer: "shop"}))
		require.Len(k, list(store.ParkedFilter{Since: time.Now().Add(-time.Hour)}), 4)
		require.Empty(k, list(store.ParkedFilter{Since: time.Now().Add(time.Hour)}))

		items, err := desk.List(k.Context(), store.ParkedFilter{}, a, 1)
		require.NoError(k, err)
		require.Equal(k, b, items[0].ID)
		items, err = desk.List(k.Context(), store.ParkedFilter{}, 0, 1)
		require.NoError(k, err)
		require.Equal(k, store.Queue{Behind: 2}, items[0].Queue)

		groups, err := desk.Groups(k.Context(), store.ParkedFilter{}, 10)
		require.NoError(k, err)
		require.Len(k, groups, 3)
		require.EqualValues(k, 2, groups[0].Count)
		require.Equal(k, "dial tcp #.#.#.#:#: connection refused", groups[0].Title)
		require.Equal(k, a, groups[0].Example)
		require.Equal(k, []int64{a, c}, list(store.ParkedFilter{Group: strings.ToUpper(groups[0].Group[:8])}))

		whole, err := desk.Get(k.Context(), a)
		require.NoError(k, err)
		require.Equal(k, secret, string(whole.Payload))
		require.Equal(k, "red", whole.Metadata["color"])
		require.Equal(k, store.Queue{Behind: 2}, whole.Queue)
		require.EqualValues(k, 3, whole.Gate.Waiting())
		require.NotEmpty(k, whole.Chain)
		whole, err = desk.Get(k.Context(), d)
		require.NoError(k, err)
		require.Less(k, len(whole.Chain[0].Text), 3000, "of 10 MB")
		_, err = desk.Get(k.Context(), 10_000)
		require.ErrorIs(k, err, store.ErrNotParked)
		require.ErrorContains(k, err, "10000; it was never parked, was handled in its turn, or is final and forgotten")
	})
}

func TestFiltersThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		for _, wrong := range []store.ParkedFilter{
			{Group: "abc"}, {Group: "not hex at all"}, {Status: []store.ParkedStatus{"odd"}},
		} {
			_, err := desk.List(ctx, wrong, 0, 10)
			require.ErrorIs(k, err, store.ErrFilter)
			_, err = desk.Groups(ctx, wrong, 10)
			require.ErrorIs(k, err, store.ErrFilter)
			_, err = desk.RetryAll(ctx, wrong, parking.GroupOptions{})
			require.ErrorIs(k, err, store.ErrFilter)
		}
	})
}
