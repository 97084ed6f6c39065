package cli

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestConsumersAreListedWithWhoIsRunning(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "consumer", "ls", "--db", url), term.err.String())
		require.Equal(t, "No consumer remembers any message here, and none is running.\n", term.out.String())
		require.Empty(t, result[consumersJSON](t, exitOK, "consumer", "ls", "--db", url).Consumers)

		remember(t, st, "shop.orders", store.Applied, "a", "b")
		remember(t, st, "shop.held", store.Parked, "a")
		repeat(t, st, store.VerdictLogRow{Consumer: "shop.gone", MessageID: "m", Verdict: store.Duplicate})
		for consumer, owner := range map[string]string{"shop.orders": "host-1", "shop.new one/2": "host-1"} {
			lease(t, st, store.PresenceLease(consumer, owner), owner, time.Minute)
		}
		lease(t, st, store.PresenceLease("shop.orders", "host-2"), "host-2", time.Minute)
		lease(t, st, store.PresenceLease("shop.held", "host-3"), "host-3", -time.Second) // has died

		require.Equal(t, exitOK, term.run(t, "consumer", "ls", "--db", url), term.err.String())
		require.Equal(t, `CONSUMER  PROCESSES  REMEMBERS SINCE  LAST
shop.gone  0  nothing
shop.held  0  nothing  TIME
shop.new one/2  1  nothing
shop.orders  2  TIME  TIME
`, steady(term.out.String(), url))
		listed := result[consumersJSON](t, exitOK, "consumer", "ls", "--db", url).Consumers
		require.Len(t, listed, 4)
		require.Equal(t, 2, listed[3].Processes)
		require.WithinDuration(t, time.Now(), *listed[3].RemembersSince, time.Minute)

		require.Equal(t, exitOK, term.run(t, "status", "--db", url), term.err.String())
		require.Contains(t, term.out.String(), noLeases, "of those status says nothing")
	})
}

func TestConsumerNeedsASubcommand(t *testing.T) {
	t.Parallel()
	var term terminal
	require.Equal(t, exitFailed, term.run(t, "consumer"))
	require.Contains(t, term.err.String(), "ls, rename, reset or replay")
}
