package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// decide records a message with a reason.
func decide(t *testing.T, st *store.Store, row store.InboxRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, row)
		require.True(t, inserted)
		return err
	}))
}

func TestWhyTellsTheWholeStory(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		remember(t, st, "shop.orders", store.Applied, "m", "older")
		decide(t, st, store.InboxRow{
			Consumer: "shop.audit", MessageID: "m", Verdict: store.Applied, Reason: store.ReasonObserved,
		})
		decide(t, st, store.InboxRow{
			Consumer: "shop.review", MessageID: "m", Verdict: store.Parked, Reason: "400 Bad Request:\n\x1b[31munknown supplier",
		})
		decide(t, st, store.InboxRow{Consumer: "shop.stale", MessageID: "m", Verdict: store.Discarded, Reason: "not needed"})
		remember(t, st, "shop.mail", store.Applied, "older")
		remember(t, st, "shop.held", store.Parked, "older")
		repeat(t, st,
			store.VerdictLogRow{Consumer: "shop.orders", MessageID: "m", Verdict: store.Duplicate},
			store.VerdictLogRow{Consumer: "shop.orders", MessageID: "m", Verdict: store.Conflict, Reason: "another payload"},
			store.VerdictLogRow{Consumer: "shop.audit", MessageID: "m", Verdict: store.Duplicate, Observed: true},
			store.VerdictLogRow{Consumer: "shop.gone", MessageID: "m", Verdict: store.Duplicate},
			store.VerdictLogRow{Consumer: "shop.gone", MessageID: "m", Verdict: store.Expired, Observed: true},
			store.VerdictLogRow{Consumer: "shop.gone", MessageID: "other", Verdict: store.Duplicate})

		var term terminal
		require.Equal(t, exitOK, term.run(t, "inbox", "why", "m", "--db", url), term.err.String())
		require.Equal(t, `Message m

shop.audit: handled at TIME, while Dedupe only observed.
 TIME delivered again and handled again: Dedupe only observes, and would have skipped it
shop.gone: seen before, but not remembered any more: if it comes again, it is handled as new.
 TIME delivered again: skipped, it was handled before
 TIME handled, because Dedupe only observes; it would have been expired
shop.orders: applied at TIME.
 TIME delivered again: skipped, it was applied
 TIME delivered and refused (another payload)
shop.review: parked since TIME (400 Bad Request: ·[31munknown supplier); it is kept until that is decided.
shop.stale: discarded at TIME (not needed).
shop.held: never seen. It remembers no message.
shop.mail: never seen. It remembers messages since TIME.
`, strings.ReplaceAll(steady(term.out.String(), url), "\n  ", "\n "))

		require.Equal(t, exitOK, term.run(t, "inbox", "why", "m", "--consumer", "shop.mail", "--db", url), term.err.String())
		require.Equal(t, "Message m\n\nshop.mail: never seen. It remembers messages since TIME.\n",
			steady(term.out.String(), url))

		require.Equal(t, exitFailed, term.run(t, "inbox", "why", "m", "--consumer", "shop.order", "--db", url))
		require.Contains(t, term.err.String(), `unknown consumer "shop.order": known are shop.audit, shop.gone, shop.held`)

		story := result[whyJSON](t, exitOK, "inbox", "why", "m", "--db", url)
		require.Equal(t, "m", story.MessageID)
		require.Len(t, story.Consumers, 7)
		orders := story.Consumers[4]
		require.Equal(t, "shop.orders", orders.Consumer)
		require.Equal(t, "applied", orders.Verdict)
		require.WithinDuration(t, time.Now(), *orders.At, time.Minute)
		require.EqualValues(t, 2, orders.Repeats)
		require.Equal(t, "duplicate", orders.Log[0].Verdict)
		require.Equal(t, "another payload", orders.Log[1].Reason)
		require.True(t, story.Consumers[5].Open)
		mail := story.Consumers[3]
		require.False(t, mail.Seen)
		require.WithinDuration(t, time.Now(), *mail.RemembersSince, time.Minute)
		require.Nil(t, story.Consumers[2].RemembersSince, "what is open says nothing of what was forgotten")
	})
}

func TestWhyShowsTheFirstAndTheLastOfManyRepeats(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		remember(t, st, "c", store.Applied, "m")
		rows := make([]store.VerdictLogRow, 50)
		for i := range rows {
			reason := fmt.Sprintf("number %d", i)
			rows[i] = store.VerdictLogRow{Consumer: "c", MessageID: "m", Verdict: store.Duplicate, Reason: reason}
		}
		repeat(t, st, rows...)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "inbox", "why", "m", "--db", url), term.err.String())
		lines := strings.Split(term.out.String(), "\n")
		require.Len(t, lines, 3+20+1+1)
		require.Contains(t, lines[3], "(number 0)")
		require.Contains(t, lines[12], "(number 9)")
		require.Equal(t, "  … 30 more …", lines[13])
		require.Contains(t, lines[14], "(number 40)")
		require.Contains(t, lines[23], "(number 49)")
	})
}

func TestWhyFindsOddIdsAndShowsThemSafely(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		odd := []string{
			strings.Repeat("x", 10_000), "\x1b[31mred\x07\n", "\xff\xfe", "'; --", "%", "ä", "A", "a", "a ",
			"\u009b31m", "-- --json",
		}
		remember(t, st, "odd\x1b[2J\xff", store.Applied, odd...)
		for _, id := range odd {
			var term terminal
			require.Equal(t, exitOK, term.run(t, "inbox", "why", "--db", url, "--", id), "%.20q: %s", id, &term.err)
			out := term.out.String()
			require.Contains(t, out, ": applied at ", "%.20q", id)
			require.NotContains(t, out, "\x1b")
			require.NotContains(t, out, "\u009b")
			require.NotContains(t, out, "\xff")
			require.Less(t, len(out), 400)

			require.Equal(t, exitOK, term.run(t, "inbox", "why", "--db", url, "--", store.Identity(id)), "as it is stored")
			require.Contains(t, term.out.String(), ": applied at ", "%.20q", id)
		}
		story := result[whyJSON](t, exitOK, "inbox", "why", "--db", url, "--consumer", "odd\x1b[2J\xff", odd[0])
		require.True(t, story.Consumers[0].Seen)
	})
}

func TestWhyWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		migrated(t, on.kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "inbox", "why", "m", "--db", url), term.err.String())
		require.Equal(t, "No consumer remembers any message here.\n", term.out.String())
		require.Empty(t, result[whyJSON](t, exitOK, "inbox", "why", "m", "--db", url).Consumers)
		require.Equal(t, exitFailed, term.run(t, "inbox", "why", "m", "--consumer", "c", "--db", url))
		require.Contains(t, term.err.String(), `unknown consumer "c": nothing is remembered here at all`)
		for _, args := range [][]string{{}, {""}, {"a", "b"}} {
			require.Equal(t, exitFailed, term.run(t, append([]string{"inbox", "why", "--db", url}, args...)...))
			require.Contains(t, term.err.String(), "name one message by its id")
		}
		require.Equal(t, exitFailed, term.run(t, "inbox", "--db", url))
		require.Contains(t, term.err.String(), "inbox why MESSAGE-ID")
	})
}
