package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testConsumers(t *testing.T, h Harness) {
	each(t, h, []test{
		{"AreRenamedWithAllTheyRemember", renameConsumer},
		{"AreRenamedToTheEndWhenRunAgain", renameCutOff},
		{"AreRenamedWithTheLinesTheyHold", renameLines},
		{"KeepWhatWasHandledMeanwhile", renameMeets},
		{"AreResetButForOpenMessages", resetConsumer},
		{"AreReplayedFromAPoint", replayConsumer},
		{"GoOnWithAReplayThatWasCutOff", replayCutOff},
		{"AreLeftAloneWhileTheyRun", liveConsumer},
		{"RefuseOddChanges", oddChanges},
		{"AreRenamedWithWhatIsParked", renameParked},
	})
}

// anna changes consumers in small batches.
func anna() store.ConsumerChange {
	return store.ConsumerChange{Actor: "anna", Note: "as agreed", BatchSize: 10}
}

// remember inserts n messages in one unit.
func remember(t *testing.T, st *store.Store, consumer string, n int) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for i := range n {
			if _, _, err := st.InsertInbox(ctx, inbox(consumer, fmt.Sprintf("m-%03d", i))); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (b *bundle) remembered(t *testing.T, consumer string) int {
	t.Helper()
	return b.int(t, "SELECT count(*) FROM headrace_inbox WHERE consumer = ?", store.Identity(consumer))
}

// audited are the changes of a consumer, as "action state by actor".
func audited(t *testing.T, st *store.Store, consumer string) (changes []string) {
	t.Helper()
	rows, err := st.AuditOf(t.Context(), store.TargetConsumer, consumer, 100)
	require.NoError(t, err)
	for _, row := range rows {
		require.WithinDuration(t, time.Now(), row.At, time.Minute)
		changes = append(changes, fmt.Sprintf("%s %s by %s", row.Action, row.Details["state"], row.Actor))
	}
	return changes
}

func renameConsumer(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	odd := "new\x00/\xff" + strings.Repeat("ü", 300)
	remember(t, st, "old", 25)
	record(t, st, store.InboxRow{Consumer: "old", MessageID: "open", Verdict: store.Parked, Reason: "why"})
	remember(t, st, "old.other", 1)
	logVerdicts(t, st, store.VerdictLogRow{Consumer: "old", MessageID: "m-001", Verdict: store.Duplicate})
	b.age(t, "m-%")
	var told []int64
	change := anna()
	change.Progress = func(n int64) { told = append(told, n) }

	moved, err := st.RenameConsumer(t.Context(), "old", odd, change)
	require.NoError(t, err)
	require.EqualValues(t, 27, moved)
	require.Equal(t, []int64{10, 20, 26, 27}, told)
	require.Zero(t, b.remembered(t, "old"))
	require.Equal(t, 26, b.remembered(t, odd))
	require.Equal(t, 1, b.remembered(t, "old.other"))
	stories, err := st.Stories(t.Context(), "m-001", odd)
	require.NoError(t, err)
	require.EqualValues(t, 1, stories[0].Entries)
	require.WithinDuration(t, time.Now().Add(-time.Hour), stories[0].Row.ProcessedAt, time.Minute,
		"it is purged when it would have been")
	existing, inserted := record(t, st, inbox(odd, "open"))
	require.False(t, inserted)
	require.Equal(t, "why", existing.Reason)
	require.Equal(t, []string{"rename begun by anna", "rename finished by anna"}, audited(t, st, "old"))
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_leases"))

	_, err = st.RenameConsumer(t.Context(), "old", odd, anna())
	require.ErrorIs(t, err, store.ErrUnknownConsumer, "it is done")
	_, err = st.RenameConsumer(t.Context(), "old.other", odd, anna())
	require.ErrorIs(t, err, store.ErrConsumerTaken)
	_, err = st.RenameConsumer(t.Context(), store.Identity(odd), "old", anna())
	require.NoError(t, err, "as it is stored")
	require.Equal(t, 26, b.remembered(t, "old"))
}

var errKilled = errors.New("killed")

// cutOff runs a change and ends it after some batches, as a kill would: nothing is
// done after the last commit, and the leases stay until they are over.
func (b *bundle) cutOff(t *testing.T, batches int, change func(store.ConsumerChange) error) {
	t.Helper()
	cut := anna()
	cut.Progress = func(int64) {
		if batches--; batches == 0 {
			panic(errKilled)
		}
	}
	require.PanicsWithValue(t, errKilled, func() { _ = change(cut) })
	b.exec(t, "DELETE FROM headrace_leases")
}

func renameCutOff(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "old", 25)
	logVerdicts(t, st, store.VerdictLogRow{Consumer: "old", MessageID: "m-001", Verdict: store.Duplicate})
	remember(t, st, "third", 1)
	rename := func(change store.ConsumerChange) error {
		_, err := st.RenameConsumer(t.Context(), "old", "new", change)
		return err
	}
	b.cutOff(t, 2, rename)
	require.Equal(t, 5, b.remembered(t, "old"))
	require.Equal(t, 20, b.remembered(t, "new"))
	for _, pair := range [][2]string{{"old", "other"}, {"third", "new"}, {"new", "old"}, {"third", "old"}} {
		_, err := st.RenameConsumer(t.Context(), pair[0], pair[1], anna())
		require.ErrorIs(t, err, store.ErrConsumerChanging, "%v", pair)
		require.ErrorContains(t, err, `"old" was begun to be renamed to "new" by "anna"`)
	}
	_, err := st.ResetConsumer(t.Context(), "new", anna())
	require.ErrorIs(t, err, store.ErrConsumerChanging)

	b.cutOff(t, 1, rename)
	b.cutOff(t, 1, rename) // between the last batch and the end
	require.Zero(t, b.remembered(t, "old"))
	require.NoError(t, rename(anna()))
	require.Equal(t, 25, b.remembered(t, "new"))
	require.Equal(t, []string{"rename begun by anna", "rename finished by anna"}, audited(t, st, "old"))
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_meta WHERE name NOT LIKE 'sequence_%'"), "the journal is gone")
	_, err = st.RenameConsumer(t.Context(), "new", "old", anna())
	require.NoError(t, err)
}

// A process that nobody saw has handled messages under the new name.
func renameMeets(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "old", 25)
	record(t, st, store.InboxRow{Consumer: "old", MessageID: "open", Verdict: store.Gap})
	rename := func(change store.ConsumerChange) error {
		_, err := st.RenameConsumer(t.Context(), "old", "new", change)
		return err
	}
	b.cutOff(t, 1, rename)
	record(t, st, inbox("new", "m-020"))
	record(t, st, inbox("new", "open"))
	require.ErrorIs(t, rename(anna()), store.ErrOpenMessages)
	b.exec(t, "DELETE FROM headrace_inbox WHERE consumer = 'new' AND message_id = 'open'")
	require.NoError(t, rename(anna()))
	require.Equal(t, 26, b.remembered(t, "new"))
}

func resetConsumer(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 25)
	remember(t, st, "other", 3)
	record(t, st, store.InboxRow{Consumer: "c", MessageID: "open", Verdict: store.Conflict})
	logVerdicts(t, st, store.VerdictLogRow{Consumer: "c", MessageID: "m-001", Verdict: store.Duplicate})
	_, err := st.ResetConsumer(t.Context(), "c", anna())
	require.ErrorIs(t, err, store.ErrOpenMessages)
	require.ErrorContains(t, err, `1 are "conflict"`)
	require.Equal(t, 26, b.remembered(t, "c"))
	require.Empty(t, audited(t, st, "c"))

	b.exec(t, "DELETE FROM headrace_inbox WHERE message_id = 'open'")
	reset := func(change store.ConsumerChange) error {
		_, err := st.ResetConsumer(t.Context(), "c", change)
		return err
	}
	b.cutOff(t, 1, reset)
	require.Equal(t, 15, b.remembered(t, "c"))
	require.Equal(t, []string{"reset begun by anna"}, audited(t, st, "c"), "with the first batch")
	require.NoError(t, reset(anna()))
	require.Zero(t, b.remembered(t, "c"))
	require.Equal(t, 3, b.remembered(t, "other"))
	_, inserted := record(t, st, inbox("c", "m-001"))
	require.True(t, inserted)
	stories, err := st.Stories(t.Context(), "m-001", "c")
	require.NoError(t, err)
	require.EqualValues(t, 1, stories[0].Entries, "the log stays")
}

func replayConsumer(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 40)
	record(t, st, store.InboxRow{Consumer: "c", MessageID: "m-0-open", Verdict: store.Parked})
	b.age(t, "m-0%")
	b.age(t, "m-00%") // two hours: ten of them
	hour := func(n float64) time.Time { return time.Now().Add(-time.Duration(n * float64(time.Hour))) }
	from := hour(1.5)
	counts, err := st.CountConsumer(t.Context(), "c", hour(1.5), hour(0.5))
	require.NoError(t, err)
	require.Len(t, counts, 2)

	_, err = st.ReplayConsumer(t.Context(), "c", store.Replay{From: hour(3)}, anna())
	require.ErrorIs(t, err, store.ErrForgotten)
	require.ErrorContains(t, err, "remembers messages since 20")
	for _, r := range []store.Replay{
		{}, {From: hour(-1)}, {From: hour(1), To: hour(2)}, {From: hour(1), To: hour(-1)}, {From: from, To: from},
	} {
		_, err = st.ReplayConsumer(t.Context(), "c", r, anna())
		require.ErrorIs(t, err, store.ErrBadRange, "%v", r)
	}
	require.Equal(t, 41, b.remembered(t, "c"))

	n, err := st.ReplayConsumer(t.Context(), "c", store.Replay{From: hour(1.5), To: hour(0.5)}, anna())
	require.NoError(t, err)
	require.Equal(t, int64(41-b.remembered(t, "c")), n)
	require.Positive(t, n)
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_inbox WHERE message_id = 'm-0-open'"), "what is open stays")
	require.Equal(t, 10, b.int(t, "SELECT count(*) FROM headrace_inbox WHERE message_id LIKE 'm-00%'"))
	require.Equal(t, []string{"replay begun by anna", "replay finished by anna"}, audited(t, st, "c"))

	_, err = st.ReplayConsumer(t.Context(), "c", store.Replay{From: hour(3), Beyond: true}, anna())
	require.NoError(t, err)
	require.Equal(t, 1, b.remembered(t, "c"))
	_, err = st.ReplayConsumer(t.Context(), "c", store.Replay{From: hour(1)}, anna())
	require.ErrorIs(t, err, store.ErrForgotten)
}

func replayCutOff(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 25)
	b.age(t, "m-%")
	var from time.Time
	infos, err := st.ConsumerInfos(t.Context())
	require.NoError(t, err)
	from = infos[0].Since
	replay := func(change store.ConsumerChange) error {
		_, err := st.ReplayConsumer(t.Context(), "c", store.Replay{From: from}, change)
		return err
	}
	b.cutOff(t, 2, replay)
	require.Equal(t, 5, b.remembered(t, "c"))
	require.NoError(t, replay(anna()), "the same beginning is still remembered")
	require.Zero(t, b.remembered(t, "c"))
}

func liveConsumer(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 25)
	changes := map[string]func(store.ConsumerChange) error{
		"rename": func(change store.ConsumerChange) error {
			_, err := st.RenameConsumer(t.Context(), "c", "new", change)
			return err
		},
		"reset": func(change store.ConsumerChange) error {
			_, err := st.ResetConsumer(t.Context(), "c", change)
			return err
		},
		"replay": func(change store.ConsumerChange) error {
			r := store.Replay{From: time.Now().Add(-time.Hour), Beyond: true}
			_, err := st.ReplayConsumer(t.Context(), "c", r, change)
			return err
		},
	}
	for name, change := range changes {
		for _, running := range []string{"c", "new"} {
			if running == "new" && name != "rename" {
				continue
			}
			lease, ok := acquire(t, st, store.PresenceLease(running, "host-1"), "host-1", time.Minute)
			require.True(t, ok)
			require.ErrorIs(t, change(anna()), store.ErrConsumerLive, name)
			require.NoError(t, st.DeleteLease(t.Context(), lease.Name, lease.Owner))
		}
		other, ok := acquire(t, st, "operation/c/", "somebody", time.Minute)
		require.True(t, ok)
		require.ErrorIs(t, change(anna()), store.ErrConsumerChanging, name)
		require.NoError(t, st.DeleteLease(t.Context(), other.Name, other.Owner))
	}
	require.Equal(t, 25, b.remembered(t, "c"))
	require.Empty(t, audited(t, st, "c"))

	// It is started in mid-change.
	starts := anna()
	starts.Progress = func(int64) { acquire(t, st, store.PresenceLease("new", "host-1"), "host-1", time.Minute) }
	require.ErrorIs(t, changes["rename"](starts), store.ErrConsumerLive)
	require.Equal(t, 10, b.remembered(t, "new"))
	require.NoError(t, st.DeleteLease(t.Context(), store.PresenceLease("new", "host-1"), "host-1"))
	// One that has died is nobody.
	acquire(t, st, store.PresenceLease("c", "host-2"), "host-2", -time.Second)
	require.NoError(t, changes["rename"](anna()))
	require.Equal(t, 25, b.remembered(t, "new"))
}

func oddChanges(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 1)
	for _, names := range [][2]string{{"", "x"}, {"c", ""}, {"c", "c"}, {"nobody", "x"}} {
		_, err := st.RenameConsumer(t.Context(), names[0], names[1], anna())
		require.Error(t, err, "%v", names)
	}
	_, err := st.ResetConsumer(t.Context(), "", anna())
	require.Error(t, err)
	_, err = st.ResetConsumer(t.Context(), "nobody", anna())
	require.ErrorIs(t, err, store.ErrUnknownConsumer)
	_, err = st.ReplayConsumer(t.Context(), "nobody", store.Replay{From: time.Now()}, anna())
	require.ErrorIs(t, err, store.ErrUnknownConsumer)
	for _, actor := range []string{"", "\x00"} {
		_, err = st.ResetConsumer(t.Context(), "c", store.ConsumerChange{Actor: actor})
		require.ErrorIs(t, err, store.ErrNoActor)
	}
	_, err = st.ResetConsumer(t.Context(), "c", store.ConsumerChange{Actor: strings.Repeat("ü", 1000) + "\xff", Note: "\x00"})
	require.NoError(t, err)
	rows, err := st.AuditOf(t.Context(), store.TargetConsumer, "c", 1)
	require.NoError(t, err)
	require.LessOrEqual(t, len(rows[0].Actor), 255)
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_leases"))
}

// renameLines is cut off in its middle, too.
func renameLines(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	remember(t, st, "c", 5)
	const lines = 12
	for i := range lines {
		key := fmt.Sprint("k", i)
		park(t, st, failed("c", key, "failed-"+key))
		require.Equal(t, store.Held, arrived(t, st, "c", key, "behind-"+key))
	}
	pauseAll := store.KeyLine("c", "paused")
	pause(t, st, pauseAll)
	claims := claim(t, st, "gone")
	for batches := range 2 {
		b.cutOff(t, batches+1, func(change store.ConsumerChange) error {
			_, err := st.RenameConsumer(t.Context(), "c", "new", change)
			return err
		})
	}
	// Whatever was moved by then is whole.
	const alone = "SELECT count(*) FROM headrace_parked p WHERE line IS NOT NULL AND (" +
		"NOT EXISTS (SELECT 1 FROM headrace_gates g WHERE g.consumer = p.consumer AND g.line = p.line) OR " +
		"NOT EXISTS (SELECT 1 FROM headrace_inbox i WHERE i.consumer = p.consumer AND i.message_id = p.inbox_id))"
	require.Zero(t, b.int(t, alone))
	require.NotZero(t, b.int(t, "SELECT count(*) FROM headrace_gates WHERE consumer = 'new'"))
	require.NotZero(t, b.int(t, "SELECT count(*) FROM headrace_gates WHERE consumer = 'c'"))
	_, err := st.RenameConsumer(t.Context(), "c", "new", anna())
	require.NoError(t, err)
	for _, table := range []string{"inbox", "verdict_log", "gates", "parked"} {
		require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_"+table+" WHERE consumer = 'c'"), table)
	}
	require.Equal(t, store.Held, arrived(t, st, "new", "paused", "x"))
	require.Equal(t, store.Admitted, arrived(t, st, "c", "k1", "x"), "nothing is left under the old name")
	b.over(t)
	handled := 0
	for range 2 * lines {
		taken, err := st.ClaimLines(t.Context(), "new", "heir", ttl, lines)
		require.NoError(t, err)
		for _, c := range taken {
			for _, row := range line(t, st, c) {
				require.NoError(t, handle(t.Context(), st, ref(c, row), row, nil))
				handled++
			}
			_, err := st.EndClaim(t.Context(), c)
			require.NoError(t, err)
		}
	}
	require.Equal(t, 2*lines, handled)
	_, err = st.EndClaim(t.Context(), claims[0])
	require.NoError(t, err)
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_gates"), "the paused one")
}
