package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testOutboxParking(t *testing.T, h Harness) {
	each(t, h, []test{
		{"NeedsTheLease", parkFenced},
		{"IsUndoneByAReleaseAndKeepsTheOriginal", parkReleased},
		{"IsDecidedOnce", parkDecided},
	})
}

// parkRow parks the one row of the outbox.
func parkRow(t *testing.T, st *store.Store) (lease store.Lease, row store.OutboxRow, id int64) {
	t.Helper()
	row = readAll(t, st)[0]
	lease, ok := acquire(t, st, "outbox/x", "me", time.Minute)
	require.True(t, ok)
	parked, err := st.ParkOutbox(t.Context(), lease, row, store.ParkedRow{
		Class: "permanent", Reason: "too \x00large", ErrorGroup: "g",
		History: []store.AttemptRecord{{Attempt: 1, Error: "too large"}},
		Chain:   []store.ErrorLink{{Type: "t", Text: "too large"}},
	})
	require.NoError(t, err)
	require.True(t, parked)
	id = readAll(t, st)[0].Parked
	require.Positive(t, id)
	return lease, row, id
}

func parkFenced(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k"})
	row := readAll(t, st)[0]
	lost, _ := acquire(t, st, "outbox/x", "me", -time.Second)
	_, ok := acquire(t, st, "outbox/x", "you", time.Minute)
	require.True(t, ok)
	parked, err := st.ParkOutbox(t.Context(), lost, row, store.ParkedRow{Reason: "too large"})
	require.NoError(t, err)
	require.False(t, parked)
	require.Equal(t, row, readAll(t, st)[0])
	removed, err := st.ConfirmReleased(t.Context(), lost, row)
	require.NoError(t, err)
	require.False(t, removed)
	_, err = st.ParkedByID(t.Context(), 1)
	require.ErrorIs(t, err, store.ErrNotParked)
}

func parkReleased(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k", Payload: []byte("big"), Metadata: map[string]string{"a": "b"}})
	lease, row, id := parkRow(t, st)
	parked, err := st.ParkOutbox(t.Context(), lease, row, store.ParkedRow{})
	require.NoError(t, err)
	require.False(t, parked, "it is already")
	kept, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.StatusParked, kept.Status)
	require.Equal(t, "too large", kept.Reason)
	require.Equal(t, row.Payload, kept.Payload)
	require.Equal(t, row.Metadata, kept.Metadata)
	require.Equal(t, store.Partition{Service: row.Service, Number: row.Partition}, kept.OutboxPartition)
	require.Equal(t, row.ID, kept.OutboxRow)
	require.Equal(t, 1, kept.Attempts)

	release := func(ctx context.Context, tx store.Tx) error {
		_, err := st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
		return err
	}
	require.NoError(t, st.InTx(t.Context(), release))
	released := readAll(t, st)[0]
	require.Zero(t, released.Parked)
	require.Equal(t, id, released.Released)
	require.Equal(t, row.Payload, released.Payload)
	require.Equal(t, row.Metadata, released.Metadata)

	// It is parked again, mended, and taken by the broker.
	parked, err = st.ParkOutbox(t.Context(), lease, released, store.ParkedRow{
		Reason: "still too large", History: []store.AttemptRecord{{Attempt: 2, Error: "still too large"}},
	})
	require.NoError(t, err)
	require.True(t, parked)
	kept, err = st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 2, kept.Attempts)
	require.Equal(t, "still too large", kept.Reason)
	require.Len(t, kept.History, 2)
	require.Equal(t, id, readAll(t, st)[0].Parked, "it is the same parked message")
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := st.EditParked(ctx, tx, id, store.Edit{Payload: &[]byte{}, Metadata: map[string]string{"c": "d"}})
		return err
	}))
	require.NoError(t, st.InTx(t.Context(), release))
	mended := readAll(t, st)[0]
	require.Equal(t, []byte{}, mended.Payload)
	require.Equal(t, map[string]string{"c": "d"}, mended.Metadata)
	removed, err := st.ConfirmReleased(t.Context(), lease, mended)
	require.NoError(t, err)
	require.True(t, removed)
	kept, err = st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.StatusDone, kept.Status)
	require.Equal(t, row.Payload, kept.Payload, "the original is kept")
	require.Empty(t, readAll(t, st))
}

func parkDecided(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	write(t, st, store.OutboxRow{MessageID: "1", Key: "k"})
	_, _, id := parkRow(t, st)
	discard := func(ctx context.Context, tx store.Tx) error {
		_, err := st.DiscardParked(ctx, tx, id, "anna", "", nil)
		return err
	}
	require.NoError(t, st.InTx(t.Context(), discard))
	require.Empty(t, readAll(t, st))
	kept, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, store.StatusDiscarded, kept.Status)
	require.Equal(t, "anna", kept.DecidedBy)
	require.False(t, kept.FinishedAt.IsZero())
	require.ErrorIs(t, st.InTx(t.Context(), discard), store.ErrStatus)
	release := func(id int64) error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
			return err
		})
	}
	require.ErrorIs(t, release(id), store.ErrStatus)
	require.ErrorIs(t, release(id+1), store.ErrNotParked)
}
