package cli

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestAConsumerIsRenamedResetAndReplayed(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		remember(t, st, "shop.old", store.Applied, "a", "b")
		term := terminal{env: map[string]string{"HEADRACE_DB": url, "HEADRACE_ACTOR": "bert"}}
		do := func(want int, args ...string) string {
			t.Helper()
			require.Equal(t, want, term.run(t, args...), "%v: %s", args, &term.err)
			return steady(term.out.String(), url)
		}
		require.Equal(t, "shop.old is shop.new now: 2 rows moved. Start its processes under the new name.\n",
			do(exitOK, "consumer", "rename", "shop.old", "shop.new", "--as", "anna"))
		require.Contains(t, do(exitOK, "inbox", "why", "a"), "shop.new: applied at TIME.\n")

		term.input = "no\n"
		do(exitFailed, "consumer", "reset", "shop.new")
		require.Contains(t, term.err.String(), "shop.new forgets 2 messages (2 applied): "+
			"what of it is delivered again is handled again.\nType yes to go on:\nheadrace: nothing was changed")
		term.input = "yes\n"
		reset := do(exitOK, "consumer", "reset", "shop.new", "--note", "restored\x1b from a backup")
		require.Contains(t, reset, "shop.new has forgotten 2 messages.\n\nNothing is delivered by this alone.")
		require.Contains(t, reset, "kafka-consumer-groups")

		remember(t, st, "shop.new", store.Applied, "c", "d")
		from := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
		do(exitFailed, "consumer", "replay", "shop.new", "--from", from)
		require.Contains(t, term.err.String(), `"shop.new" remembers messages since`)
		require.Contains(t, term.err.String(), "choose a later --from, or pass --beyond")
		replayed := do(exitOK, "consumer", "replay", "shop.new", "--from", from, "--beyond")
		require.Contains(t, term.err.String(), "shop.new forgets 2 messages (2 applied), decided from ")
		require.Contains(t, replayed, "shop.new has forgotten 2 messages, decided from TIME to TIME. Others are skipped")

		why := result[whyJSON](t, exitOK, "inbox", "why", "c", "--db", url)
		require.Empty(t, why.Consumers, "nothing is remembered, nor logged")
		repeat(t, st, store.VerdictLogRow{Consumer: "shop.new", MessageID: "x", Verdict: store.Duplicate})
		require.Regexp(t, `(?s)shop.new: never seen. It remembers no message.\n`+
			` +TIME reset by bert \(restored· from a backup\): 2 messages forgotten\n`+
			` +TIME replay of what was decided from \S+ to \S+ by bert: 2 messages forgotten\n`,
			do(exitOK, "inbox", "why", "c"))
		why = result[whyJSON](t, exitOK, "inbox", "why", "c", "--db", url)
		require.Len(t, why.Consumers[0].Changes, 2)
		require.Equal(t, "bert", why.Consumers[0].Changes[0].Actor)

		changed := result[changedJSON](t, exitOK, "consumer", "rename", "shop.new", "shop.old", "--db", url, "--as", "anna")
		require.Equal(t, "anna", changed.Actor)
		require.EqualValues(t, 1, changed.Rows)
		require.Equal(t, "shop.old", changed.To)
		remember(t, st, "shop.old", store.Applied, "e")
		changed = result[changedJSON](t, exitOK, "consumer", "reset", "shop.old", "--yes", "--db", url)
		require.NotEmpty(t, changed.Actor, "who the system says this is")
		if host, err := os.Hostname(); err == nil {
			require.Contains(t, changed.Actor, "@"+host)
		}
		remember(t, st, "shop.old", store.Applied, "f")
		changed = result[changedJSON](t, exitOK,
			"consumer", "replay", "shop.old", "--from", from, "--beyond", "--yes", "--db", url)
		require.EqualValues(t, 1, changed.Rows)
		require.WithinDuration(t, time.Now(), *changed.Until, time.Minute)
	})
}

func TestWhatIsWrongWithAChangeOfAConsumer(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		remember(t, st, "shop.orders", store.Applied, "a")
		remember(t, st, "shop.held", store.Parked, "a")
		remember(t, st, "shop.live", store.Applied, "a")
		lease(t, st, store.PresenceLease("shop.live", "host-1"), "host-1", time.Minute)
		future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
		for _, test := range []struct {
			want string
			args []string
		}{
			{"has other arguments, not 1 argument: headrace consumer rename OLD NEW", []string{"rename", "shop.orders"}},
			{"both names are needed", []string{"rename", "shop.orders", ""}},
			{"both names are needed", []string{"rename", "", "x"}},
			{`it is called "shop.orders" already`, []string{"rename", "shop.orders", "shop.orders"}},
			{`unknown consumer "shop.order": known are shop.held, shop.live, shop.orders`, []string{"rename", "shop.order", "x"}},
			{`messages are remembered as "shop.held"`, []string{"rename", "shop.orders", "shop.held"}},
			{`"shop.live" is handled by "host-1" (1 in all); stop it`, []string{"rename", "shop.live", "x"}},
			{`"shop.live" is handled by "host-1" (1 in all); stop it`, []string{"reset", "shop.live", "--yes"}},
			{`"shop.live" is handled by "host-1"`, []string{"replay", "shop.live", "--from", "2026-01-01", "--beyond", "--yes"}},
			{"the consumer's name is needed", []string{"reset", "", "--yes"}},
			{"unknown consumer", []string{"reset", "nobody", "--yes"}},
			{`unknown consumer "nobody": known are shop.held, shop.live, shop.orders`, []string{"reset", "nobody"}},
			{`1 are "parked"; release or discard them first`, []string{"reset", "shop.held", "--yes"}},
			{"--from is required", []string{"replay", "shop.orders"}},
			{`--from "yesterday" is no time such as`, []string{"replay", "shop.orders", "--from", "yesterday"}},
			{`--to "·[31m" is no time such as`, []string{"replay", "shop.orders", "--from", "2026-01-01", "--to", "\x1b[31m"}},
			{"not a range of the past", []string{"replay", "shop.orders", "--from", future}},
			{"not a range of the past", []string{"replay", "shop.orders", "--from", "2026-01-01", "--to", future}},
			{"before it begins", []string{"replay", "shop.orders", "--from", "2026-01-02", "--to", "2026-01-01"}},
			{"choose a later --from", []string{"replay", "shop.orders", "--from", "2026-01-01 10:00"}},
			{"unknown consumer", []string{"replay", "nobody", "--from", "2026-01-01"}},
		} {
			var term terminal
			args := append([]string{"consumer", "--db", url}, test.args...)
			require.Equal(t, exitFailed, term.run(t, args...), "%v", args)
			require.Contains(t, term.err.String(), test.want)
			require.Empty(t, term.out.String())
		}
	})
}
