package storetest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testInbox(t *testing.T, h Harness) {
	each(t, h, []test{
		{"RemembersOncePerConsumer", inboxOnce},
		{"RemembersNothingOfARollback", inboxRollback},
		{"KeepsWhatItWasGiven", inboxContent},
		{"TellsIdentitiesApart", inboxIdentities},
		{"CountsByConsumerAndVerdict", inboxCounts},
		{"NeedsAUnit", inboxOutside},
		{"RefusesWhatItCannotKeep", inboxRefuses},
		{"LogsVerdicts", verdictLog},
		{"LogsAVerdictOnce", verdictLogOnce},
		{"ExpiresByTheDatabasesClock", inboxExpires},
	})
}

// record inserts an inbox row in a unit of its own.
func record(t *testing.T, st *store.Store, row store.InboxRow) (existing store.InboxRow, inserted bool) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) (err error) {
		existing, inserted, err = st.InsertInbox(ctx, row)
		return err
	}))
	return existing, inserted
}

func inboxOnce(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	_, inserted := record(t, st, inbox("a", "m"))
	require.True(t, inserted)
	existing, inserted := record(t, st, inbox("a", "m"))
	require.False(t, inserted)
	require.Equal(t, "a", existing.Consumer)
	require.Equal(t, "m", existing.MessageID)
	require.Equal(t, store.Applied, existing.Verdict)
	require.WithinDuration(t, time.Now(), existing.ProcessedAt, time.Minute)
	_, inserted = record(t, st, inbox("b", "m"))
	require.True(t, inserted, "another service on the same database")

	// Twice within one unit.
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, inbox("a", "n"))
		require.NoError(t, err)
		require.True(t, inserted)
		_, inserted, err = st.InsertInbox(ctx, inbox("a", "n"))
		require.NoError(t, err)
		require.False(t, inserted)
		return insert(ctx, tx, 1)
	}))
	require.Equal(t, 1, b.things(t), "the duplicate did not spoil the transaction")
}

func inboxRollback(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.ErrorIs(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, inbox("a", "m"))
		require.NoError(t, err)
		require.True(t, inserted)
		return errBoom
	}), errBoom)
	_, inserted := record(t, st, inbox("a", "m"))
	require.True(t, inserted, "a failed handler's message is never remembered")
}

func inboxContent(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	row := inbox("a", "m")
	row.Verdict = store.Discarded
	row.Reason = "broken: \x00 \xff " + strings.Repeat("ü", 5000)
	row.Fingerprint = []byte{0, 1, 255, 39}
	record(t, st, row)
	existing, _ := record(t, st, row)
	require.Equal(t, store.Discarded, existing.Verdict)
	require.Equal(t, row.Fingerprint, existing.Fingerprint)
	require.True(t, existing.SameContent(row.Fingerprint))
	require.False(t, existing.SameContent([]byte{1}))
	require.True(t, existing.SameContent(nil), "no proof of the contrary")
	require.True(t, strings.HasPrefix(existing.Reason, "broken: "), "made storable, not refused")
	require.LessOrEqual(t, len(existing.Reason), 2000)
}

// Under usual collations and column widths some of these are one.
func inboxIdentities(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	long := strings.Repeat("x", 255)
	huge := strings.Repeat("y", 10_000)
	ids := []string{
		"", " ", "A", "a", "a ", " a", "a\t", "ä", "Ä", "a\u0308", "ß", "ss", "SS",
		long, long + "1", long + "2", strings.ToUpper(long), huge, huge + "1", strings.ToUpper(huge),
		"a\x00", "a\x00b", "\x00", "a\xff", "a\xfe", "\xff\xfe",
		"0", "00", "1e1", "10", "'", `"`, `\`, `\\`, "%", "_", "?", "$1", ":a", "😀", "😁",
		"123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000",
	}
	// What looks like another one's hash.
	ids = append(ids, store.Identity(huge), store.Identity("a\x00"), strings.ToUpper(store.Identity(huge)), "sha256:")
	for _, id := range ids {
		require.LessOrEqual(t, len(store.Identity(id)), store.MaxIdentity)
	}
	for _, id := range ids {
		_, inserted := record(t, st, inbox("consumer", id))
		require.True(t, inserted, "taken for another message: %.40q", id)
	}
	for _, id := range ids {
		existing, inserted := record(t, st, inbox("consumer", id))
		require.False(t, inserted, "not recognised: %.40q", id)
		require.Equal(t, store.Identity(id), existing.MessageID)
	}
	for _, consumer := range ids {
		_, inserted := record(t, st, inbox(consumer, "m"))
		require.True(t, inserted, "taken for another consumer: %.40q", consumer)
	}
}

func inboxCounts(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for _, row := range []store.InboxRow{
		{Consumer: "a", MessageID: "1", Verdict: store.Applied},
		{Consumer: "a", MessageID: "2", Verdict: store.Applied},
		{Consumer: "a", MessageID: "3", Verdict: store.Parked},
		{Consumer: "b", MessageID: "1", Verdict: store.Stale},
	} {
		record(t, st, row)
	}
	counts, err := st.CountInbox(t.Context())
	require.NoError(t, err)
	require.Equal(t, []store.InboxCount{
		{Consumer: "a", Verdict: store.Applied, Count: 2},
		{Consumer: "a", Verdict: store.Parked, Count: 1},
		{Consumer: "b", Verdict: store.Stale, Count: 1},
	}, counts)
}

func inboxOutside(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	_, _, err := st.InsertInbox(t.Context(), inbox("a", "m"))
	require.ErrorIs(t, err, store.ErrNoUnit)
}

func inboxRefuses(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		row := inbox("a", "m")
		row.Verdict = "a verdict that nobody knows"
		_, _, err := st.InsertInbox(ctx, row)
		require.ErrorContains(t, err, "unknown verdict")
		row = inbox("a", "m")
		row.Fingerprint = make([]byte, 33)
		_, _, err = st.InsertInbox(ctx, row)
		require.ErrorIs(t, err, store.ErrContent)
		require.ErrorContains(t, st.LogVerdict(ctx, tx, store.VerdictLogRow{Verdict: "odd"}), "unknown verdict")
		return nil
	}))
}

func verdictLog(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for _, row := range []store.VerdictLogRow{
			{Consumer: "a", MessageID: "1", Verdict: store.Duplicate},
			{Consumer: "a", MessageID: "1", Verdict: store.Duplicate, Reason: "again\x00"},
			{Consumer: "a", MessageID: strings.Repeat("z", 1000), Verdict: store.Stale, Observed: true},
			{Consumer: "b", MessageID: "1", Verdict: store.Duplicate},
		} {
			require.NoError(t, st.LogVerdict(ctx, tx, row))
		}
		return nil
	}))
	ofB := store.VerdictLogCount{Consumer: "b", Verdict: store.Duplicate, Count: 1}
	counts, err := st.CountVerdictLog(t.Context())
	require.NoError(t, err)
	require.Equal(t, []store.VerdictLogCount{
		{Consumer: "a", Verdict: store.Duplicate, Count: 2},
		{Consumer: "a", Verdict: store.Stale, Observed: true, Count: 1},
		ofB,
	}, counts)

	purged, err := st.PurgeVerdictLog(t.Context(), "a", time.Hour, 10)
	require.NoError(t, err)
	require.Zero(t, purged, "too young")
	purged, err = st.PurgeVerdictLog(t.Context(), "a", -time.Hour, 2)
	require.NoError(t, err)
	require.EqualValues(t, 2, purged, "no more than asked for")
	purged, err = st.PurgeVerdictLog(t.Context(), "a", -time.Hour, 10)
	require.NoError(t, err)
	require.EqualValues(t, 1, purged)
	counts, err = st.CountVerdictLog(t.Context())
	require.NoError(t, err)
	require.Equal(t, []store.VerdictLogCount{ofB}, counts, "another consumer's stay")
}

func verdictLogOnce(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for range 2 {
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			for _, reason := range []string{"one", "two", "one", "odd\x00\xff"} {
				row := store.VerdictLogRow{Consumer: "a", MessageID: "1", Verdict: store.Conflict, Reason: reason}
				require.NoError(t, st.LogVerdictOnce(ctx, tx, row))
			}
			return nil
		}))
	}
	counts, err := st.CountVerdictLog(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, counts[0].Count)
}

func inboxExpires(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	for in, want := range map[time.Duration]store.Verdict{-time.Hour: store.Expired, time.Hour: store.Applied} {
		row := inbox("c", in.String())
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, inserted, err := st.InsertInbox(ctx, row)
			require.NoError(t, err)
			require.True(t, inserted)
			row.Reason = "too late"
			expired, err := st.ExpireInbox(ctx, tx, row, time.Now().Add(in))
			require.Equal(t, want == store.Expired, expired)
			return err
		}))
		existing, _ := record(t, st, row)
		require.Equal(t, want, existing.Verdict)
		require.Equal(t, want == store.Expired, existing.Reason == "too late")
	}
}
