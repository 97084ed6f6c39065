package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testOperators(t *testing.T, h Harness) {
	each(t, h, []test{
		{"ReleaseOnce", operatorReleases},
		{"DiscardTheFirstOfALine", operatorDiscards},
		{"EditWhatIsHandled", operatorEdits},
		{"EditWhileItIsHandled", operatorEditsMeanwhile},
		{"PauseAndResume", operatorPauses},
		{"Note", operatorNotes},
		{"WaitForTheHandler", operatorWaits},
	})
}

func pause(t *testing.T, st *store.Store, line store.Line) (g store.Gate) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		g, err = st.PauseLine(ctx, tx, line)
		return err
	}))
	return g
}

func release(ctx context.Context, st *store.Store, id int64, r store.Release) error {
	return st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := st.ReleaseParked(ctx, tx, id, r)
		return err
	})
}

// poison is a message that waits for a person.
func poison(id string) store.ParkedRow {
	row := failed("c", "k", id)
	row.Status, row.Class, row.Tries = store.StatusParked, "permanent", 5
	return row
}

func operatorReleases(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, poison("1"))
	errNo := errors.New("no")
	require.ErrorIs(t, release(t.Context(), st, id, store.Release{By: "anna", Check: func(row store.ParkedRow) error {
		require.Equal(t, "permanent", row.Class)
		return errNo
	}}), errNo)
	require.Empty(t, claim(t, st, "one"))
	require.NoError(t, release(t.Context(), st, id, store.Release{By: "anna", Decision: "accept"}))
	err := release(t.Context(), st, id, store.Release{By: "ben"})
	var status *store.StatusError
	require.ErrorAs(t, err, &status)
	require.Equal(t, store.StatusError{ID: id, Status: store.StatusReleased, By: "anna"}, *status)
	require.ErrorIs(t, err, store.ErrStatus)

	c := claimed(t, st, "one")
	row := line(t, st, c)[0]
	require.Zero(t, row.Tries, "they begin anew")
	require.Equal(t, "accept", row.Decision)
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
	require.ErrorIs(t, release(t.Context(), st, id, store.Release{By: "ben"}), store.ErrStatus)
	require.ErrorIs(t, release(t.Context(), st, id+1, store.Release{By: "ben"}), store.ErrNotParked)
}

func operatorDiscards(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, poison("1"))
	arrived(t, st, "c", "k", "2")
	discard := func(id int64) error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := st.DiscardParked(ctx, tx, id, "anna", "wrong", nil)
			return err
		})
	}
	require.NoError(t, discard(id))
	require.ErrorIs(t, discard(id), store.ErrStatus)
	require.Equal(t, "discarded", b.verdict(t, st, "1"))
	c := claimed(t, st, "one")
	rows := line(t, st, c)
	require.Equal(t, []string{"2"}, ids(rows), "what is behind it goes on")
	require.NoError(t, discard(rows[0].ID), "under its owner's hands")
	require.NoError(t, handle(t.Context(), st, ref(c, rows[0]), rows[0], func(context.Context, store.Tx) error {
		t.Error("it was handled")
		return nil
	}))
	require.Equal(t, "discarded", b.verdict(t, st, "2"))
	opened, err := st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.True(t, opened)

	id, _ = park(t, st, poison("3"))
	require.NoError(t, discard(id))
	_, err = st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.ErrorIs(t, err, store.ErrNotHeld, "it was the last one")
}

func edit(t *testing.T, st *store.Store, id int64, e store.Edit) (was store.ParkedRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		was, err = st.EditParked(ctx, tx, id, e)
		return err
	}))
	return was
}

func operatorEdits(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, poison("1"))
	payload := []byte{0, 255}
	require.Zero(t, edit(t, st, id, store.Edit{Payload: &payload}).Edits)
	was := edit(t, st, id, store.Edit{Metadata: map[string]string{"\xff": "v"}})
	require.Equal(t, 1, was.Edits)
	row, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, []byte("1"), row.Payload)
	require.Equal(t, map[string]string{"key": "k"}, row.Metadata)
	handled, metadata := row.Handled()
	require.Equal(t, payload, handled)
	require.Equal(t, map[string]string{"\xff": "v"}, metadata)
	var none []byte
	edit(t, st, id, store.Edit{Payload: &none})
	row, err = st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	handled, _ = row.Handled()
	require.Nil(t, handled)
	require.Equal(t, 3, row.Edits)
	require.Equal(t, store.StatusParked, row.Status)
}

func operatorEditsMeanwhile(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, failed("c", "k", "1"))
	c := claimed(t, st, "one")
	row := line(t, st, c)[0]
	payload := []byte("better")
	edit(t, st, id, store.Edit{Payload: &payload})
	err := handle(t.Context(), st, ref(c, row), row, func(ctx context.Context, tx store.Tx) error { return insert(ctx, tx, 1) })
	require.ErrorIs(t, err, store.ErrParkedChanged, "what was handled is not what is wanted")
	require.Zero(t, b.things(t))
	row = line(t, st, c)[0]
	handled, _ := row.Handled()
	require.Equal(t, payload, handled)
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
}

func operatorPauses(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	key := store.KeyLine("c", "k")
	resume := func() error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := st.ResumeLine(ctx, tx, key)
			return err
		})
	}
	require.ErrorIs(t, resume(), store.ErrNotHeld)
	require.True(t, pause(t, st, key).Paused)
	require.Equal(t, store.Held, arrived(t, st, "c", "k", "1"), "also a line that wasn't held")
	require.Empty(t, claim(t, st, "one"))
	require.NoError(t, resume())
	c := claimed(t, st, "one")
	row := line(t, st, c)[0]
	require.Equal(t, "one", pause(t, st, key).ClaimedBy)
	require.ErrorIs(t, handle(t.Context(), st, ref(c, row), row, nil), store.ErrLinePaused)
	opened, err := st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.False(t, opened)
	require.Empty(t, claim(t, st, "one"))
	require.NoError(t, resume())
	c = claimed(t, st, "one")
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
	pause(t, st, key)
	opened, err = st.EndClaim(t.Context(), c)
	require.NoError(t, err)
	require.False(t, opened, "empty, but a person holds it")
	require.Equal(t, store.Held, arrived(t, st, "c", "k", "2"))
	require.NoError(t, resume())
	c = claimed(t, st, "one")
	pause(t, st, key)
	b.over(t)
	require.Empty(t, claim(t, st, "two"), "nor when its owner has died")
	gate, err := st.GateOf(t.Context(), key)
	require.NoError(t, err)
	require.False(t, gate.Due)
	require.NotEqual(t, c.Epoch, gate.ClaimEpoch)
}

func operatorNotes(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	id, _ := park(t, st, poison("1"))
	note := func(line string) error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error { return st.NoteParked(ctx, tx, id, line) })
	}
	require.NoError(t, note("one"))
	require.NoError(t, note("two\x00"))
	row, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "one\ntwo", row.Note)
	require.WithinDuration(t, time.Now(), row.UpdatedAt, time.Minute)
	b.exec(t, "UPDATE headrace_parked SET note = ?", strings.Repeat("x", 59_999))
	require.ErrorIs(t, note("full"), store.ErrContent)
}

// operatorWaits is one who comes while the message is in its handler.
func operatorWaits(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite {
		return // has one writer
	}
	st := b.store(t, store.Config{Prefix: "waits_"})
	id, _ := park(t, st, failed("c", "k", "1"))
	c := claimed(t, st, "one")
	row := line(t, st, c)[0]
	operator := make(chan error, 1)
	require.NoError(t, handle(t.Context(), st, ref(c, row), row, func(context.Context, store.Tx) error {
		go func() { operator <- release(t.Context(), st, id, store.Release{By: "anna"}) }()
		b.waitsForLock(t, "waits_inbox")
		return nil
	}))
	var status *store.StatusError
	require.ErrorAs(t, <-operator, &status)
	require.Equal(t, store.StatusDone, status.Status)
}
