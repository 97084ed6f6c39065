package crash_test

import (
	"math/rand/v2"
	"os"
	"strings"

	"github.com/headrace-go/headrace/internal/step"
)

// kill is one death. Either the process does it itself, at a point, or the test
// does it after so many signs of progress, which is at any moment.
type kill struct {
	point killPoint
	after int64
}

// slot is a process that is started again after each kill, and then goes on
// until its phase ends.
type slot struct {
	name             string
	consume, forward bool
	kills            []kill
}

// phase is processes that run side by side.
type phase struct {
	name  string
	slots []slot
}

// full reports whether the long version was asked for.
func full() bool { return os.Getenv("HEADRACE_FAULTS") == "full" }

// makePlan returns at least 20 kills, 100 in the full size: every named step,
// and random moments.
func makePlan(rng *rand.Rand, c combination) []phase {
	rounds, random := 1, 7
	if full() {
		rounds, random = 5, 30
	}
	var consumer, forwarder []kill //nolint:prealloc // short
	for range rounds {
		consumer = append(consumer, consumerKills(rng, c.join)...)
		forwarder = append(forwarder, forwarderKills(rng)...)
	}
	if c.oneProcess {
		kills := append(append(consumer, forwarder...), randomKills(rng, random)...)
		return []phase{{"together", []slot{{"both", true, true, shuffled(rng, kills)}}}}
	}
	pair := (random + 1) / 3 // each
	return []phase{
		{"apart", []slot{
			{"consumer", true, false, shuffled(rng, consumer)},
			{"forwarder", false, true, shuffled(rng, forwarder)},
		}},
		{"pair", []slot{
			{"first", true, true, randomKills(rng, pair)},
			{"second", true, true, randomKills(rng, pair)},
		}},
		{"together", []slot{{"both", true, true, randomKills(rng, random-2*pair)}}},
	}
}

// consumerKills has every step that a consumer reaches, once. Where handlers
// join, the subscriber begins and ends their transactions.
func consumerKills(rng *rand.Rand, join bool) (kills []kill) {
	for _, name := range []string{
		step.TxBegun, step.DedupeInserted, step.HandlerReturned, step.OutboxWritten,
		step.TxBeforeCommit, step.TxAfterCommit, step.AckBefore, step.AckAfter,
	} {
		who := apply
		if name != step.OutboxWritten && rng.IntN(2) == 0 {
			who = recommend // writes nothing to the outbox
		}
		if join && strings.HasPrefix(name, "tx.") {
			who = subscriber
		}
		kills = append(kills, kill{point: killPoint{who, name, 1 + rng.IntN(4)}})
	}
	return kills
}

// forwarderKills has every step of the relay, once, and one of the transactions
// in which it takes and renews its leases.
func forwarderKills(rng *rand.Rand) (kills []kill) {
	for _, name := range []string{
		step.RelayRead, step.RelayBeforePublish, step.RelayAfterPublish, step.RelayBeforeConfirm, step.RelayAfterConfirm,
	} {
		kills = append(kills, kill{point: killPoint{relay, name, 1 + rng.IntN(3)}})
	}
	return append(kills, kill{point: killPoint{relay, step.TxBeforeCommit, 1 + rng.IntN(20)}})
}

func randomKills(rng *rand.Rand, n int) (kills []kill) {
	for range n {
		kills = append(kills, kill{after: 1 + rng.Int64N(80)})
	}
	return kills
}

func shuffled(rng *rand.Rand, kills []kill) []kill {
	rng.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
	return kills
}
