package conformance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
)

// seeded is a fault, the kind of toy that has it, and the facts that each find it
// on their own. The same facts hold on the sound toys: see TestSoundToysPass.
type seeded struct {
	fault toy.Fault
	toy   func() toy.Config
	found []string
}

// slow is whether what comes takes its time: compositions run services on
// databases, and a hot key lets all come, only late. Elsewhere nothing comes,
// however long one waits.
func (s seeded) slow() bool {
	return s.fault == toy.HotKeyStarves ||
		slices.ContainsFunc(s.found, func(fact string) bool { return strings.HasPrefix(fact, "composition/") })
}

//nolint:funlen // a table
func seededFaults() []seeded {
	return []seeded{
		{toy.AcksOnDelivery, ordered, []string{
			"delivery/in hand at close comes again", "delivery/a killed consumer's messages go to another",
		}},
		{toy.LosesInHandOnClose, ordered, []string{
			"delivery/in hand at close comes again", "delivery/a killed consumer's messages go to another",
			"delivery/kills during a rebalance lose nothing",
		}},
		{toy.NeverRedelivers, ordered, []string{"delivery/nacked comes again"}},
		{toy.HotLoop, ordered, []string{"delivery/nack is no hot loop"}},
		{toy.DriftsAway, ordered, []string{"delivery/poison drifts nowhere"}},
		{toy.PoisonBlocksAll, ordered, []string{"delivery/poison blocks no other key"}},
		{toy.LosesRestOfBatch, ordered, []string{"delivery/a batch arrives whole"}},
		{toy.LosesConcurrent, ordered, []string{"delivery/concurrent publishers lose nothing"}},
		{toy.ForgetsAcks, ordered, []string{"delivery/acked stays acked", "groups/progress is kept"}},
		{toy.NewestOnly, ordered, []string{"delivery/before anybody listens"}},
		{toy.DropsKnownUUIDs, ordered, []string{"delivery/sent again on purpose"}},
		{toy.DeadlocksOnSelf, ordered, []string{"delivery/from within a handler"}},
		{toy.LosesOnRestart, ordered, []string{"delivery/a restart of the broker loses nothing"}},
		{toy.NoDeadline, total, []string{"time/a frozen consumer's messages go to another"}},
		{toy.LateAckLosesNext, total, []string{"time/a frozen consumer's messages go to another"}},
		{toy.LosesOnCut, ordered, []string{"network/cut while receiving"}},
		{toy.LiesWhileCut, ordered, []string{"network/cut while publishing"}},
		{toy.DeafAfterCut, ordered, []string{
			"network/cut while receiving", "network/cut for longer than the deadline", "network/cut while publishing",
		}},
		{toy.LosesUnread, ordered, []string{"lifecycle/close while nobody reads"}},

		{toy.CommitsPastHeld, ordered, []string{
			"delivery/in hand at close comes again", "delivery/a killed consumer's messages go to another",
		}},
		{toy.LosesNackedOnClose, ordered, []string{"delivery/in hand at close comes again"}},
		{toy.LosesOnCancel, ordered, []string{"delivery/in hand at close comes again"}},
		{toy.ForgetsKeyOnLoss, ordered, []string{
			"delivery/in hand at close comes again", "delivery/a killed consumer's messages go to another",
		}},
		{toy.LosesBeyond100, ordered, []string{"delivery/a batch arrives whole"}},
		{toy.ReordersCrowd, ordered, []string{"delivery/concurrent publishers lose nothing"}},

		{toy.ReordersAfterNack, ordered, []string{"order/per key with nacks"}},
		{toy.ReordersAfterNack, total, []string{"order/total with nacks"}},
		{toy.ReordersOnLoss, ordered, []string{"order/per key after a consumer is lost", "order/per key after a kill"}},
		{toy.ReordersBatch, ordered, []string{"order/per key within a batch", "order/per key across growth"}},
		{toy.TwoOfAKey, ordered, []string{"concurrency/never two of one key", "order/per key"}},
		{toy.TwoOfAKeyAtTwo, ordered, []string{
			"concurrency/never two of one key at two consumers", "order/per key across a rebalance",
		}},
		{toy.OneAtATime, ordered, []string{"concurrency/several keys at once", "concurrency/a held key holds up no other"}},
		{toy.HotKeyStarves, ordered, []string{"concurrency/a hot key does not starve others"}},
		{toy.OrdersKeysOnly, total, []string{"order/total"}},
		{toy.HandsOutTwice, ordered, []string{"concurrency/one message in one hand"}},

		{toy.DoublesSome, ordered, []string{"duplicates/none without trouble"}},
		{toy.SendsHalfARefused, ordered, []string{"duplicates/a refused batch leaves nothing"}},
		{toy.ForgetsSendIDs, joined, []string{
			"duplicates/repeats of one sending are dropped", "duplicates/repeats of a sending that was handled are dropped",
		}},
		{toy.ForgetsHandled, joined, []string{"duplicates/repeats of a sending that was handled are dropped"}},
		{toy.GroupsSteal, ordered, []string{"groups/each hears everything"}},
		{toy.GroupsSteal, plain, []string{"groups/no group takes another's messages"}},
		{toy.ConsumersAllHear, ordered, []string{"groups/consumers of one share"}},
		{toy.LateGroupHears, ordered, []string{"groups/a late one hears the past"}},
		{toy.NackHitsAllGroups, ordered, []string{"groups/failures stay in their group"}},

		{toy.DropsEntry, ordered, []string{"content/many entries"}},
		{toy.LowersNames, ordered, []string{"content/metadata names"}},
		{toy.TrimsValues, ordered, []string{"content/metadata values", "content/key"}},
		{toy.DropsEmptyEntries, ordered, []string{"content/metadata values"}},
		{toy.MangleBytes, ordered, []string{"content/payload"}},
		{toy.RewritesJSON, ordered, []string{"content/payload"}},
		{toy.NilIsEmpty, ordered, []string{"content/nil payload"}},
		{toy.Truncates, ordered, []string{"content/sizes up to the limit"}},
		{toy.TakesTooLarge, ordered, []string{"content/over the limit"}},
		{toy.CutsUUIDs, ordered, []string{"content/UUID"}},
		{toy.ForgetsKey, ordered, []string{"content/the same on redelivery"}},
		{toy.FreshUUID, ordered, []string{"content/the same on redelivery"}},
		{toy.SharesPayload, ordered, []string{"content/copies"}},
		{toy.ChangesSent, ordered, []string{"content/copies"}},
		{toy.LeaksContext, ordered, []string{"content/copies"}},
		{toy.AddsEntry, ordered, []string{"content/nothing is added"}},
		{toy.MixesTopics, ordered, []string{"content/odd topic names"}},
		{toy.RoundsEventTime, ordered, []string{"content/event time"}},
		{toy.MixesForeignUUIDs, ordered, []string{"content/foreign producer"}},

		{toy.NoDeadline, total, []string{"time/past the ack deadline it comes again"}},
		{toy.EarlyDeadline, ordered, []string{"time/held for as long as it takes"}},

		{toy.CommitsOnNack, joined, []string{
			"transactions/effects of a nacked attempt", "transactions/effects of a lost ack",
			"transactions/a conflict of transactions",
		}},
		{toy.CommitsPastDeadline, joined, []string{"transactions/effects of a handler past its deadline"}},
		{toy.AcksThoughAborted, joined, []string{"transactions/an aborted transaction"}},

		{toy.CloseDoesNotWait, ordered, []string{"lifecycle/close lets the handler finish"}},
		{toy.CloseHangsUnread, ordered, []string{"lifecycle/close while nobody reads"}},
		{toy.CloseTwicePanics, ordered, []string{"lifecycle/close twice"}},
		{toy.ChannelStaysOpen, ordered, []string{"lifecycle/close ends the subscription"}},
		{toy.IgnoresContext, ordered, []string{"lifecycle/cancelled context", "lifecycle/context that is over already"}},
		{toy.CancelEndsAll, ordered, []string{"lifecycle/cancelled context"}},
		{toy.SubscribesClosed, ordered, []string{"lifecycle/subscribe after close"}},
		{toy.LeaksGoroutine, ordered, []string{"lifecycle/no goroutine left"}},
		{toy.RefusesNothing, ordered, []string{"lifecycle/publishing nothing"}},
		{toy.TopicsBlockOthers, ordered, []string{"lifecycle/two topics"}},
		{toy.LateAckTakesNext, ordered, []string{"lifecycle/ack after close"}},
		{toy.EndsWithNil, ordered, []string{"lifecycle/close ends the subscription", "order/per key across a rebalance"}},
		{toy.SecondSubscription, ordered, []string{"lifecycle/subscribe twice"}},

		{toy.LosesInHandOnClose, ordered, []string{
			"composition/a crash at any step", "composition/two instances of a service",
		}},
		{toy.ReordersAfterNack, ordered, []string{"composition/order per key round the ring"}},
		{toy.GroupsSteal, ordered, []string{"composition/two services on one topic"}},
		{toy.LosesConcurrent, ordered, []string{"composition/a ring of two services"}},
		{toy.NeverRedelivers, ordered, []string{"composition/a handler that fails after it has written"}},
		{toy.DropsKnownUUIDs, ordered, []string{"composition/poison put aside"}},
		{toy.TrimsValues, ordered, []string{"composition/content round the ring"}},
		{toy.MangleBytes, ordered, []string{"composition/content round the ring"}},
	}
}

func TestSeededFaults(t *testing.T) {
	t.Parallel()
	for _, s := range seededFaults() {
		t.Run(string(s.fault), func(t *testing.T) {
			t.Parallel()
			config := s.toy()
			config.Faults = []toy.Fault{s.fault}
			h := harness(t, config)
			if !s.slow() {
				h.Patience = time.Second
			}
			report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(s.found...)})
			require.NoError(t, err)
			require.Len(t, report.Failed(), len(s.found), report.Text())
			for _, r := range report.Failed() {
				require.Equal(t, conformance.VerdictNo, r.Verdict, r.Note)
				require.NotEmpty(t, r.Note)
				require.NotEmpty(t, r.History, "a failing fact shows what happened to its messages")
			}
		})
	}
}
