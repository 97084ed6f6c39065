package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func renameParked(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	const late = 25 // more than a batch
	done, _ := park(t, st, failed("c", "done", "0"))
	c := claimed(t, st, "host-1")
	row, err := st.ParkedByID(t.Context(), done)
	require.NoError(t, err)
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
	_, err = st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	park(t, st, failed("c", "k", "first"))
	for i := range late {
		require.Equal(t, store.Held, arrived(t, st, "c", "k", "late-"+string(rune('a'+i))))
	}
	pause(t, st, store.KeyLine("c", "paused"))
	review := parkedMessage("c", "r", "")
	review.Origin, review.Status, review.MessageID = store.OriginReview, store.StatusReview, "r"
	park(t, st, review)
	park(t, st, failed("d", "k", "other"))

	_, err = st.RenameConsumer(t.Context(), "d", "c", anna())
	require.ErrorIs(t, err, store.ErrConsumerTaken)
	// Only lines are held under this one.
	park(t, st, store.ParkedRow{
		Origin: store.OriginReview, Consumer: "e", Line: store.KeyLine("e", "k").Line, Status: store.StatusReview, MessageID: "e",
	})
	_, err = st.RenameConsumer(t.Context(), "d", "e", anna())
	require.ErrorIs(t, err, store.ErrConsumerTaken)

	_, err = st.RenameConsumer(t.Context(), "c", "new", anna())
	require.NoError(t, err)

	for _, table := range []string{"inbox", "verdict_log", "gates", "parked"} {
		require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_"+table+" WHERE consumer = 'c'"), table)
	}
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked WHERE consumer = 'd'"))
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked WHERE consumer = 'new' AND status = 'done'"))
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked WHERE consumer = 'new' AND status = 'review'"))
	gate, err := st.GateOf(t.Context(), store.KeyLine("new", "paused"))
	require.NoError(t, err)
	require.True(t, gate.Paused)
	claims, err := st.ClaimLines(t.Context(), "new", "host-2", ttl, 10)
	require.NoError(t, err)
	require.Len(t, claims, 1)
	rows := line(t, st, claims[0])
	require.Len(t, rows, 1+late)
	for _, row := range rows {
		require.NoError(t, handle(t.Context(), st, ref(claims[0], row), row, func(ctx context.Context, tx store.Tx) error {
			return insert(ctx, tx, int(row.ID))
		}))
	}
	require.Equal(t, 1+late, b.things(t), "each was open, and is handled")
	opened, err := st.EndClaim(t.Context(), claims[0])
	require.NoError(t, err)
	require.True(t, opened)
	require.Equal(t, store.Known, arrived(t, st, "new", "k", "first"))
}

func purgeParked(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, status := range []store.ParkedStatus{
		store.StatusDelayed, store.StatusParked, store.StatusReview, store.StatusDelayed, store.StatusDelayed,
	} {
		row := failed("c", "", "m-"+string(rune('0'+b.int(t, "SELECT count(*) FROM headrace_parked"))))
		row.Line, row.Status = store.MessageLine("c", row.InboxID).Line, status
		id, _ := park(t, st, row)
		if id > 3 {
			require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				_, err := st.DiscardParked(ctx, tx, id, "anna", "", nil)
				return err
			}))
		}
	}
	const count = "SELECT count(*) FROM headrace_parked"
	purged, err := st.PurgeParked(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, purged)
	purged, err = st.PurgeParked(t.Context(), -time.Hour, 1)
	require.NoError(t, err)
	require.EqualValues(t, 1, purged)
	purged, err = st.PurgeParked(t.Context(), -time.Hour, 100_000)
	require.NoError(t, err)
	require.EqualValues(t, 1, purged)
	require.Equal(t, 3, b.int(t, count))

	for range 3 {
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			return st.InsertAudit(ctx, tx, store.AuditRow{Actor: "anna", Action: "note", TargetKind: "parked", Target: "1"})
		}))
	}
	purged, err = st.PurgeAudit(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, purged)
	purged, err = st.PurgeAudit(t.Context(), -time.Hour, 2)
	require.NoError(t, err)
	require.EqualValues(t, 2, purged)
	rows, err := st.ListAudit(t.Context(), store.AuditFilter{}, 10)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.EqualValues(t, 3, rows[0].ID, "the oldest first")
}
