package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testForget(t *testing.T, h Harness) {
	each(t, h, []test{
		{"LeavesNothingReadable", forgetAll},
		{"LeavesWhatIsOpenUnlessTold", forgetOpen},
		{"SealsContentEverywhere", sealedEverywhere},
	})
}

// readable lists the tables that hold a text, in whatever column.
func (b *bundle) readable(t *testing.T, text string) (tables []string) {
	t.Helper()
	list := map[store.Dialect]string{
		store.Postgres: "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
		store.MySQL:    "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
		store.SQLite:   "SELECT name FROM sqlite_master WHERE type = 'table'",
	}[b.h.Dialect]
	for _, name := range b.texts(t, list) {
		for _, row := range b.texts(t, "SELECT * FROM "+name) { //nolint:unqueryvet // whatever there is
			if strings.Contains(row, text) {
				tables = append(tables, name)
				break
			}
		}
	}
	slices.Sort(tables)
	return tables
}

// texts are the rows of a query, each as one text.
func (b *bundle) texts(t *testing.T, query string) (texts []string) {
	t.Helper()
	rows, err := b.db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		require.NoError(t, rows.Scan(into...))
		var text []byte
		for _, value := range values {
			if raw, ok := value.([]byte); ok {
				value = string(raw)
			}
			text = fmt.Append(text, value)
		}
		texts = append(texts, string(text))
	}
	require.NoError(t, rows.Err())
	return texts
}

const (
	secret   = "Anna-Lindqvist"
	customer = "customer-4711"
)

// leaveTraces puts a secret wherever Headrace stores something of a customer's
// messages: one that was discarded, one that is parked, calls, and mails for later.
func leaveTraces(t *testing.T, st *store.Store) (parked int64) {
	t.Helper()
	ctx := t.Context()
	private := func(id string) store.ParkedRow {
		row := failed("c", customer, id)
		row.Payload, row.Metadata["name"] = []byte(`{"name":"`+secret+`"}`), secret
		row.Reason, row.ErrorTitle = "can't find "+secret, "can't find "+secret
		row.Chain = []store.ErrorLink{{Type: "T", Text: secret}}
		row.History = []store.AttemptRecord{{Attempt: 1, Error: secret}}
		row.Status, row.Diff = store.StatusParked, []byte(secret)
		return row
	}
	discarded, _ := park(t, st, private("1"))
	payload := []byte(secret + " again")
	edit(t, st, discarded, store.Edit{Payload: &payload, Metadata: map[string]string{"name": secret}})
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := st.DiscardParked(ctx, tx, discarded, "bert", secret+" has called", nil)
		return errors.Join(err, st.NoteParked(ctx, tx, discarded, secret), st.InsertAudit(ctx, tx, store.AuditRow{
			Actor: "bert", Action: "discard", TargetKind: store.TargetParked, Target: "1", Subject: customer, Note: secret,
			Details: map[string]any{"before": "parked", "subject": "effect:pay/" + customer},
		}), st.InsertAudit(ctx, tx, store.AuditRow{
			Actor: "bert", Action: "pause", TargetKind: store.TargetKey, Target: store.KeyTarget(store.KeyLine("c", customer)),
			Subject: customer,
		}))
	}))
	parked, _ = park(t, st, private("2"))
	statuses := map[string]store.EffectStatus{"1": store.EffectDone, "2": store.EffectRefused, "3": store.EffectDone}
	for id, status := range statuses {
		row := store.EffectRow{
			Scope: "pay", Key: "charge-" + id, Owner: "o", Epoch: 1, RequestHash: []byte("h"), Request: []byte(secret),
			Consumer: "c", MessageID: id,
		}
		_, _, err := st.ClaimEffect(ctx, row, time.Minute, nil)
		require.NoError(t, err)
		row.Status, row.Response, row.LastError, row.Meta = status, []byte(secret), secret, map[string]string{"h": secret}
		ok, err := st.FinishEffect(ctx, row)
		require.NoError(t, err)
		require.True(t, ok)
	}
	mail := func(id string) store.ScheduledRow {
		return store.ScheduledRow{DueIn: -48 * time.Hour, OutboxRow: store.OutboxRow{
			MessageID: id, Key: customer, Destination: "default", Topic: "mail", Payload: []byte(secret),
		}}
	}
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		for _, subject := range []string{customer + " sent", customer + " waiting"} {
			row := mail(subject)
			row.Slot, row.Subject = subject, customer
			if _, err := st.TouchSlot(ctx, tx, row); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "UPDATE headrace_scheduled SET state = 'sent' WHERE slot = ?", customer+" sent")
		return errors.Join(err, st.InsertScheduled(ctx, tx, []store.ScheduledRow{mail("later")}))
	}))
	return parked
}

func forgetAll(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	leaveTraces(t, st)
	// Others' stay.
	park(t, st, failed("c", "customer-5", "5"))
	everywhere := []string{
		"headrace_audit", "headrace_effects", "headrace_inbox", "headrace_parked", "headrace_scheduled", "headrace_verdict_log",
	}
	require.Equal(t, everywhere, b.readable(t, secret), "the test finds it")

	_, err := st.Forget(t.Context(), store.Forgetting{Key: customer})
	require.ErrorIs(t, err, store.ErrNoActor)
	_, err = st.Forget(t.Context(), store.Forgetting{Actor: "anna"})
	require.Error(t, err)
	forgotten, err := st.Forget(t.Context(), store.Forgetting{
		Key: customer, MessageIDs: []string{"3"}, DiscardOpen: true, Actor: "anna", Note: "as she has asked", BatchSize: 1,
	})
	require.NoError(t, err)
	require.Empty(t, b.readable(t, secret))
	require.Empty(t, b.readable(t, customer))
	require.False(t, forgotten.Left.Any(), "%+v", forgotten.Left)
	require.EqualValues(t, 1, forgotten.Discarded)
	require.EqualValues(t, 2, forgotten.Parked)
	require.EqualValues(t, 3, forgotten.Scheduled)
	require.EqualValues(t, 3, forgotten.Effects)
	require.EqualValues(t, 2, forgotten.Audit)
	require.Positive(t, forgotten.Reasons)

	// What protects is there still.
	for _, id := range []string{"1", "2"} {
		require.Equal(t, store.Known, arrived(t, st, "c", customer, id))
	}
	require.Equal(t, 3, b.int(t, "SELECT count(*) FROM headrace_effects WHERE request_hash IS NOT NULL"))
	_, err = st.Effect(t.Context(), "pay", "charge-1")
	require.ErrorIs(t, err, store.ErrRedacted, "it isn't taken for an empty response")
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_parked"), "another customer's")
	rows, err := st.ListAudit(t.Context(), store.AuditFilter{Action: "forget"}, 1)
	require.NoError(t, err)
	require.Equal(t, "anna", rows[0].Actor)
	rows, err = st.ListAudit(t.Context(), store.AuditFilter{Subject: rows[0].Target}, 10)
	require.NoError(t, err)
	require.Len(t, rows, 2, "by the hash it is found who did what")

	again, err := st.Forget(t.Context(), store.Forgetting{Key: customer, Actor: "anna"})
	require.NoError(t, err)
	require.Equal(t, store.Forgotten{}, again)
}

func forgetOpen(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	parked := leaveTraces(t, st)
	pause(t, st, store.KeyLine("d", customer))
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertOutbox(ctx, tx, []store.OutboxRow{
			{MessageID: "out", Key: customer, Destination: "default", Topic: "t", Payload: []byte(secret)},
			{MessageID: "2", Destination: "default", Topic: "t"},
		})
	}))
	_, _, err := st.ClaimEffect(t.Context(), store.EffectRow{
		Scope: "pay", Key: customer, Owner: "o", RequestHash: []byte("h"), Request: []byte(secret),
	}, time.Minute, nil)
	require.NoError(t, err)
	forgotten, err := st.Forget(t.Context(), store.Forgetting{Key: customer, Actor: "anna"})
	require.NoError(t, err)
	require.Equal(t, store.ForgetLeft{Parked: 1, Scheduled: 2, Outbox: 2, Effects: 1, Paused: 1}, forgotten.Left)
	row, err := st.ParkedByID(t.Context(), parked)
	require.NoError(t, err)
	require.Contains(t, string(row.Payload), secret)
	require.Equal(t, store.StatusParked, row.Status)
	require.Equal(t, store.Held, arrived(t, st, "c", customer, "9"), "its line is held as before")
}

// backwards is a codec as bad as codecs can be that hide anything.
type backwards struct{}

func (backwards) Name() string { return "backwards" }

func (backwards) Seal(_ context.Context, plain []byte) ([]byte, error) {
	sealed := bytes.Clone(plain)
	slices.Reverse(sealed)
	return sealed, nil
}

func (b backwards) Open(ctx context.Context, sealed []byte) ([]byte, error) {
	return b.Seal(ctx, sealed)
}

type forgotten struct{ backwards }

func (forgotten) Name() string { return "forgotten" }

// The contents of what is parked, of its edits, of reviews and of calls are sealed.
func sealedEverywhere(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{Codec: backwards{}})
	row := parkedMessage("c", "k", "1")
	row.Status, row.Payload, row.Diff = store.StatusReview, []byte(secret), []byte(secret)
	id, _ := park(t, st, row)
	payload := []byte(secret + " edited")
	edit(t, st, id, store.Edit{Payload: &payload})
	effect := store.EffectRow{Scope: "pay", Key: "1", Owner: "o", Epoch: 1, RequestHash: []byte("h"), Request: []byte(secret)}
	_, _, err := st.ClaimEffect(t.Context(), effect, time.Minute, nil)
	require.NoError(t, err)
	effect.Status, effect.Response = store.EffectDone, []byte(secret)
	_, err = st.FinishEffect(t.Context(), effect)
	require.NoError(t, err)
	require.Empty(t, b.readable(t, secret))

	kept, err := st.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, kept.Problem)
	require.Equal(t, [3]string{secret, secret + " edited", secret},
		[3]string{string(kept.Payload), string(kept.EditedPayload), string(kept.Diff)})
	// A program without the codec sees that something is there, and no content.
	blind, err := b.h.Store(t.Context(), b.db, store.Config{Dialect: b.h.Dialect})
	require.NoError(t, err)
	defer blind.Close() //nolint:errcheck // frees memory only
	kept, err = blind.ParkedByID(t.Context(), id)
	require.NoError(t, err)
	require.ErrorContains(t, kept.Problem, `sealed by codec "backwards"`)
	require.Nil(t, kept.Payload)
	_, err = blind.Effect(t.Context(), "pay", "1")
	require.ErrorContains(t, err, `sealed by codec "backwards"`)

	_, err = store.Open(t.Context(), b.db, store.Config{Dialect: b.h.Dialect, Codec: forgotten{}})
	require.ErrorContains(t, err, "Config.Codec")
}
