package storetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func claimFail(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, failed("c", "k", "1"))
	for i := range 25 {
		c := claimed(t, st, "one")
		require.NoError(t, st.FailParked(t.Context(), ref(c, line(t, st, c)[0]), store.Failure{
			Status: store.StatusDelayed, Class: "unknown", Reason: fmt.Sprint("reason ", i), ErrorType: "T", ErrorGroup: "g",
			ErrorTitle: "title", Chain: []store.ErrorLink{{Type: "T", Text: "text"}},
			Attempt: store.AttemptRecord{At: time.Now(), Instance: "host", Error: "boom", TookMs: 7},
		}))
		b.over(t)
	}
	row, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 25, row.Tries)
	require.Equal(t, 26, row.Attempts)
	require.Equal(t, "reason 24", row.Reason)
	require.Equal(t, "title", row.ErrorTitle)
	require.Len(t, row.History, 20)
	require.Equal(t, 2, row.History[0].Attempt)
	require.Equal(t, 26, row.History[19].Attempt)
	require.Equal(t, []byte("1"), row.Payload, "what came stays as it was")

	c := claimed(t, st, "one")
	require.NoError(t, st.FailParked(t.Context(), ref(c, row), store.Failure{
		Status: store.StatusReview, Class: "conflict", Reason: "look", Subject: "sku", Diff: []byte(`{}`),
		Before: func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 1) },
	}))
	require.Equal(t, 1, b.things(t))
	require.Equal(t, "conflict", b.verdict(t, st, "1"))
	row, err = st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.StatusReview, row.Status)
	require.Equal(t, "sku", row.Subject)
	require.Equal(t, []byte(`{}`), row.Diff)
	require.ErrorContains(t, st.FailParked(t.Context(), ref(c, row), store.Failure{Status: store.StatusDone}), "doesn't become")
}

func claimPerson(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	arrived(t, st, "c", "k", "2")
	c := claimed(t, st, "one")
	rows := line(t, st, c)
	require.NoError(t, handle(t.Context(), st, ref(c, rows[0]), rows[0], nil))
	require.NoError(t, st.FailParked(t.Context(), ref(c, rows[1]), store.Failure{Status: store.StatusParked, Reason: "poison"}))
	require.Equal(t, store.Held, arrived(t, st, "c", "k", "3"))
	require.Empty(t, claim(t, st, "one"))
	gate, err := st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.False(t, gate.Due)
	// A gate that is due by mistake is put right.
	b.exec(t, "UPDATE headrace_gates SET due_at = held_since")
	b.over(t)
	require.Empty(t, claim(t, st, "one"))
	gate, err = st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.False(t, gate.Due)
}

// claimFinal is a message that another copy has brought to its end.
func claimFinal(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, way := range []string{
		"UPDATE headrace_inbox SET verdict = 'discarded' WHERE message_id = ?",
		"DELETE FROM headrace_inbox WHERE message_id = ?",
	} {
		for _, fail := range []bool{false, true} {
			id := fmt.Sprint(len(way), fail)
			parked, _ := park(t, st, failed("c", "k", id))
			c := claimed(t, st, "one")
			row := line(t, st, c)[0]
			b.exec(t, way, id)
			if fail {
				require.NoError(t, st.FailParked(t.Context(), ref(c, row), store.Failure{Status: store.StatusParked}))
			} else {
				require.NoError(t, handle(t.Context(), st, ref(c, row), row, func(context.Context, store.Tx) error {
					t.Error("it was handled again")
					return nil
				}))
				_, err := st.EndClaim(t.Context(), c)
				require.NoError(t, err)
			}
			got, err := st.ParkedByID(t.Context(), parked)
			require.NoError(t, err)
			require.Equal(t, store.StatusDone, got.Status)
			_, err = st.GateOf(t.Context(), store.KeyLine("c", "k"))
			require.ErrorIs(t, err, store.ErrNotHeld)
		}
	}
}

// What has left a line is counted by a renewal or by a failure, and put back by one that
// isn't written.
func claimCounts(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	park(t, st, failed("c", "k", "1"))
	c := claimed(t, st, "one")
	var left atomic.Int64
	message := ref(c, line(t, st, c)[0])
	message.Left = &left
	gone := func() int64 {
		gate, err := st.GateOf(t.Context(), store.KeyLine("c", "k"))
		require.NoError(t, err)
		return gate.Gone
	}
	left.Store(2)
	renewed := c
	renewed.Gone = left.Swap(0) // while the message is in its handler
	_, err := st.RenewClaims(t.Context(), "one", ttl, []store.Claim{renewed})
	require.NoError(t, err)
	left.Add(1)
	stale := message
	stale.Epoch--
	require.ErrorIs(t, st.FailParked(t.Context(), stale, store.Failure{Status: store.StatusParked}), store.ErrClaimLost)
	require.EqualValues(t, 1, left.Load())
	require.EqualValues(t, 2, gone())
	require.NoError(t, st.FailParked(t.Context(), message, store.Failure{Status: store.StatusParked}))
	require.EqualValues(t, 3, gone())
	require.Zero(t, left.Load())
}
