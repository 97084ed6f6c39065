package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testLines(t *testing.T, h Harness) {
	each(t, h, []test{
		{"AdmitWhenTheyAreFree", lineFree},
		{"KeepWhatComesWhileTheyAreHeld", lineHeld},
		{"AreHeldOncePerMessage", parkTwice},
		{"TellKeysApart", lineKeys},
		{"CostAFreeMessageNoStatement", admitCost},
		{"DoNotLetAnAdmissionWaitForALockedGate", admitDoesNotWait},
		{"KeepMessagesByteForByte", parkedContent},
		{"ForgetWhatIsRolledBack", parkRollback},
		{"StayInOrderInARush", lineRush},
	})
}

// message is one of a key as Parking gives it to the store.
func parkedMessage(consumer, key, id string) store.ParkedRow {
	return store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: consumer, Line: store.KeyLine(consumer, key).Line, Key: key,
		InboxID: id, MessageID: id, Topic: "orders", Payload: []byte(id), Metadata: map[string]string{"key": key},
		Status: store.StatusWaiting,
	}
}

// arrive is what Dedupe does with a message.
func arrive(ctx context.Context, st *store.Store, consumer, key, id string) (got store.Admission, err error) {
	err = st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		got, _, err = st.Admit(ctx, inbox(consumer, id), store.KeyLine(consumer, key))
		if err == nil && got == store.Held {
			_, _, err = st.LineUp(ctx, tx, parkedMessage(consumer, key, id))
		}
		return err
	})
	return got, err
}

func arrived(t *testing.T, st *store.Store, consumer, key, id string) store.Admission {
	t.Helper()
	got, err := arrive(t.Context(), st, consumer, key, id)
	require.NoError(t, err)
	return got
}

// park is what Parking does with a message that has failed.
func park(t *testing.T, st *store.Store, row store.ParkedRow) (id int64, parked bool) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		id, _, parked, err = st.Park(ctx, tx, row, nil)
		return err
	}))
	return id, parked
}

// failed is a message that is to be tried again at once.
func failed(consumer, key, id string) store.ParkedRow {
	row := parkedMessage(consumer, key, id)
	row.Status, row.Class, row.Reason, row.Attempts = store.StatusDelayed, "transient", "no connection", 1
	return row
}

func lineFree(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.Equal(t, store.Admitted, arrived(t, st, "c", "k", "1"))
	require.Equal(t, store.Known, arrived(t, st, "c", "k", "1"))
	verdict, known, held, err := st.Look(t.Context(), "c", "1", store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.True(t, known)
	require.Equal(t, store.Applied, verdict)
	require.False(t, held)
	_, known, _, err = st.Look(t.Context(), "c", "2", store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.False(t, known)
	_, err = st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.ErrorIs(t, err, store.ErrNotHeld)
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_parked"))

	_, _, err = st.Admit(t.Context(), inbox("c", "2"), store.KeyLine("c", "k"))
	require.ErrorIs(t, err, store.ErrNoUnit)
}

func lineHeld(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	woken := make(chan string, 10)
	defer st.OnParked(func(consumer string) { woken <- consumer })()
	row := failed("c", "k", "1")
	row.DueIn = time.Hour
	_, parked := park(t, st, row)
	require.True(t, parked)
	require.Equal(t, "c", <-woken)

	require.Equal(t, store.Held, arrived(t, st, "c", "k", "2"))
	require.Equal(t, store.Known, arrived(t, st, "c", "k", "2"))
	require.Equal(t, store.Known, arrived(t, st, "c", "k", "1"))
	require.Equal(t, store.Admitted, arrived(t, st, "c", "other", "3"))
	require.Equal(t, store.Admitted, arrived(t, st, "d", "k", "2"), "another consumer")
	existing, inserted := record(t, st, inbox("c", "2"))
	require.False(t, inserted)
	require.Equal(t, store.Accepted, existing.Verdict)

	gate, err := st.GateOf(t.Context(), store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.Equal(t, "k", gate.Key)
	require.EqualValues(t, 2, gate.Waiting())
	require.True(t, gate.Due)
	require.InDelta(t, time.Hour.Seconds(), gate.DueIn.Seconds(), 60)
	require.Less(t, gate.HeldFor, time.Minute)
	verdict, known, held, err := st.Look(t.Context(), "c", "1", store.KeyLine("c", "k"))
	require.NoError(t, err)
	require.Equal(t, store.Parked, verdict)
	require.True(t, known && held)
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_verdict_log WHERE message_id = '1' AND verdict = 'parked'"))

	// For a person.
	row = failed("c", "p", "5")
	row.Status = store.StatusParked
	park(t, st, row)
	require.Equal(t, store.Held, arrived(t, st, "c", "p", "6"))
	gate, err = st.GateOf(t.Context(), store.KeyLine("c", "p"))
	require.NoError(t, err)
	require.False(t, gate.Due)
}

func parkTwice(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ran := 0
	before := func(ctx context.Context, tx store.Tx) error { ran++; return insert(ctx, tx, ran) }
	for i := range 2 {
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, existing, parked, err := st.Park(ctx, tx, failed("c", "k", "1"), before)
			require.Equal(t, i == 0, parked)
			if i == 1 {
				require.Equal(t, store.Parked, existing.Verdict)
			}
			return err
		}))
	}
	require.Equal(t, 1, b.things(t), "once for the copy that was parked")
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked"))

	err := st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, _, _, err := st.Park(ctx, tx, parkedMessage("c", "k", "2"), nil)
		return err
	})
	require.ErrorContains(t, err, "isn't parked as \"waiting\"")
}

func lineKeys(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	long := strings.Repeat("x", 10<<10)
	keys := []string{"A", "a", "a ", "ä", "\x00", "\xff", long, long + "x", "sha256:" + strings.Repeat("0", 64)}
	for i, key := range keys {
		require.Equal(t, store.Admitted, arrived(t, st, "c", key, fmt.Sprintf("before-%d", i)), "%.20q", key)
		_, parked := park(t, st, failed("c", key, fmt.Sprintf("parked-%d", i)))
		require.True(t, parked)
		require.Equal(t, store.Held, arrived(t, st, "c", key, fmt.Sprintf("after-%d", i)), "%.20q", key)
	}
	for _, key := range keys {
		gate, err := st.GateOf(t.Context(), store.KeyLine("c", key))
		require.NoError(t, err)
		require.EqualValues(t, 2, gate.Kept, "%.20q", key)
		named, err := st.GateOf(t.Context(), store.NamedKeyLine("c", gate.Key))
		require.NoError(t, err, "people name it as it is shown: %.20q", gate.Key)
		require.Equal(t, gate.Line, named.Line)
	}
}

// statements counts what the units of work of a store send.
type statements struct{ last store.TxStats }

func (s *statements) OnTx(stats store.TxStats) { s.last = stats }

func admitCost(t *testing.T, b *bundle) {
	var sent statements
	st := b.store(t, store.Config{Hooks: []any{&sent}})
	record(t, st, inbox("c", "1"))
	plain := sent.last.Statements
	require.Equal(t, store.Admitted, arrived(t, st, "c", "k", "2"))
	require.Equal(t, plain, sent.last.Statements)
	require.Equal(t, 1, plain)
}

func admitDoesNotWait(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite {
		return // it has one writer, who does
	}
	st := b.store(t, store.Config{LockTimeout: time.Second})
	park(t, st, failed("c", "k", "1"))
	for name, statement := range map[string]string{
		"locked":  "SELECT line FROM headrace_gates WHERE line = 'key/k' FOR UPDATE",
		"deleted": "DELETE FROM headrace_gates WHERE line = 'key/k'",
		"made":    "INSERT INTO headrace_gates (consumer, line) VALUES ('c', 'key/free')",
	} {
		tx, err := b.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(t.Context(), statement)
		require.NoError(t, err)
		require.Equal(t, store.Admitted, arrived(t, st, "c", "free", "free-"+name), "of a line that isn't held")
		require.Equal(t, store.Admitted, arrived(t, st, "c", "kk", "kk-"+name), "of its neighbour")
		if name == "made" {
			require.Equal(t, store.Held, arrived(t, st, "c", "k", "held-"+name))
		}
		require.NoError(t, tx.Rollback())
	}
}

func parkedContent(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	odd := "\x00\xff" + strings.Repeat("ü", 300)
	contents := []store.ParkedRow{
		{MessageID: "plain", Payload: []byte(`{"a":1}`), Metadata: map[string]string{"n": "\x00 <v> \u2028"}},
		{MessageID: "", Payload: nil, Metadata: nil},
		{MessageID: "empty", Payload: []byte{}, Metadata: map[string]string{}},
		{MessageID: odd, Payload: []byte{0, 255}, Metadata: map[string]string{"\xff": "\xfe", odd: odd}},
	}
	for i, content := range contents {
		row := failed("odd\x00", "k", fmt.Sprint(i))
		row.MessageID, row.Payload, row.Metadata = content.MessageID, content.Payload, content.Metadata
		row.Chain = []store.ErrorLink{{Type: "*errors.errorString", Text: odd}}
		id, _ := park(t, st, row)
		got, err := st.ParkedByID(t.Context(), id)
		require.NoError(t, err)
		require.NoError(t, got.Problem)
		require.Equal(t, content.MessageID, got.MessageID)
		require.Equal(t, content.Payload, got.Payload, "%d", i)
		require.Len(t, got.Metadata, len(content.Metadata))
		for name, value := range content.Metadata {
			require.Equal(t, value, got.Metadata[name])
		}
		require.Equal(t, store.StatusDelayed, got.Status)
		require.Equal(t, store.OriginConsumer, got.Origin)
		require.Equal(t, "no connection", got.Reason)
		require.Len(t, got.Chain, 1)
		require.Equal(t, 1, got.Attempts)
		require.WithinDuration(t, time.Now(), got.ParkedAt, time.Minute)
		require.Zero(t, got.FinishedAt)
	}
	_, err := st.ParkedByID(t.Context(), 4711)
	require.ErrorIs(t, err, store.ErrNotParked)
}

func parkRollback(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	defer st.OnParked(func(string) { t.Error("nothing was parked") })()
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, _, _, err := st.Park(ctx, tx, failed("c", "k", "1"), nil)
		require.NoError(t, err)
		return errBoom
	}), errBoom)
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_gates")+b.int(t, "SELECT count(*) FROM headrace_parked"))
	require.Equal(t, store.Admitted, arrived(t, st, "c", "k", "1"))
}
