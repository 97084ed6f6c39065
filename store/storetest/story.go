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

func testStory(t *testing.T, h Harness) {
	each(t, h, []test{
		{"OfEveryConsumer", storyOfAll},
		{"OfOddNames", storyOddNames},
		{"ReadsAPartOfALargeTable", storyLookUps},
	})
}

func logVerdicts(t *testing.T, st *store.Store, rows ...store.VerdictLogRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for _, row := range rows {
			require.NoError(t, st.LogVerdict(ctx, tx, row))
		}
		return nil
	}))
}

func storyOfAll(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	stories, err := st.Stories(t.Context(), "m", "")
	require.NoError(t, err)
	require.Empty(t, stories)

	record(t, st, inbox("applied", "m"))
	record(t, st, inbox("never", "old"))
	b.age(t, "old")
	record(t, st, inbox("never", "young"))
	record(t, st, store.InboxRow{Consumer: "open", MessageID: "x", Verdict: store.Gap})
	logVerdicts(t, st,
		store.VerdictLogRow{Consumer: "applied", MessageID: "m", Verdict: store.Duplicate, Reason: "first"},
		store.VerdictLogRow{Consumer: "applied", MessageID: "other", Verdict: store.Duplicate},
		store.VerdictLogRow{Consumer: "applied", MessageID: "m", Verdict: store.Duplicate, Observed: true},
		store.VerdictLogRow{Consumer: "log only", MessageID: "m", Verdict: store.Stale})

	stories, err = st.Stories(t.Context(), "m", "")
	require.NoError(t, err)
	require.Len(t, stories, 4)
	applied, logged, never, open := stories[0], stories[1], stories[2], stories[3]
	require.Equal(t, store.Applied, applied.Row.Verdict)
	require.True(t, applied.Since.IsZero())
	require.EqualValues(t, 2, applied.Entries)
	require.Equal(t, "first", applied.Log[0].Reason)
	require.True(t, applied.Log[1].Observed)
	require.WithinDuration(t, time.Now(), applied.Log[1].At, time.Minute)

	require.Equal(t, "log only", logged.Consumer)
	require.Nil(t, logged.Row)
	require.True(t, logged.Seen())

	require.False(t, never.Seen())
	require.WithinDuration(t, time.Now().Add(-time.Hour), never.Since, time.Minute)
	require.False(t, open.Seen())
	require.True(t, open.Since.IsZero(), "open rows are older than what was forgotten")

	stories, err = st.Stories(t.Context(), "m", "never")
	require.NoError(t, err)
	require.Equal(t, []store.Story{never}, stories)
	_, err = st.Stories(t.Context(), "m", "nobody")
	require.ErrorIs(t, err, store.ErrUnknownConsumer)
}

func storyOddNames(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	odd := []string{
		"", "A", "a", "a ", "ä", "a\x00", "\xff", strings.Repeat("x", 10_000), "'", `\`, "😀", "sha256:",
		store.Identity("\xff\xff"),
	}
	for _, name := range odd {
		record(t, st, inbox(name, "m"))
	}
	consumers, err := st.Consumers(t.Context())
	require.NoError(t, err)
	require.Len(t, consumers, len(odd))
	require.IsIncreasing(t, consumers)
	for _, name := range odd[1:] {
		stories, err := st.Stories(t.Context(), "m", store.Identity(name))
		require.NoError(t, err, "%.40q", name)
		require.Len(t, stories, 1)
		require.Equal(t, store.Identity(name), stories[0].Consumer)
	}
}

// Statements that read whole tables would read every row here.
func storyLookUps(t *testing.T, b *bundle) {
	if b.h.Dialect != store.MySQL {
		return // only MySQL and MariaDB count the rows that a session reads
	}
	st := b.store(t, store.Config{})
	const rows = 3000
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for i := range rows {
			if _, _, err := st.InsertInbox(ctx, inbox(fmt.Sprintf("c-%d", i%3), fmt.Sprintf("m-%04d", i))); err != nil {
				return err
			}
			entry := store.VerdictLogRow{Consumer: "c-0", MessageID: fmt.Sprintf("m-%04d", i), Verdict: store.Duplicate}
			if err := st.LogVerdict(ctx, tx, entry); err != nil {
				return err
			}
		}
		return nil
	}))
	if !b.poolOfOne() {
		return // the store's own session can't be asked
	}
	read := func() int {
		return b.int(t, "SELECT sum(variable_value) FROM information_schema.session_status "+
			"WHERE variable_name LIKE 'Handler_read%'")
	}
	read()
	cost := -read() + read() // of asking
	before := read()
	stories, err := st.Stories(t.Context(), "m-0001", "")
	require.NoError(t, err)
	require.Len(t, stories, 3)
	require.Less(t, read()-before-cost, 100)
}
