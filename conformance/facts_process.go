package conformance

import (
	"time"
)

// processFacts are those about consumers that die and freeze as processes do.
func processFacts() []Fact {
	noProcess := func(h Harness) string { return missing(h.Consumer == nil, "Consumer") }

	return []Fact{
		{
			Name:    "delivery/a killed consumer's messages go to another",
			Claim:   "what a consumer process had received and not acked when it was killed is delivered to another consumer",
			Missing: noProcess,
			Check:   func(t *Trial) Observation { return t.inHandAfter(t.SubscribeProcess, (*Consumer).Kill) },
		},
		{
			Name:    "delivery/kills during a rebalance lose nothing",
			Claim:   "nothing is lost when a consumer process is killed while another one joins its group",
			Missing: noProcess,
			Check:   checkKilledInRebalance,
		},
		{
			Name:  "order/per key after a kill",
			Claim: "what a killed consumer process had in hand comes before its successors",
			Needs: needsKeyOrder, Issue: orderIssue,
			Missing: noProcess,
			Check:   checkOrderAfterKill,
		},
		{
			Name:  "time/a frozen consumer's messages go to another",
			Claim: "a message in the hand of a frozen process is delivered to another, and its ack after waking loses nothing",
			Needs: needsTakeover,
			Missing: func(h Harness) string {
				return firstOf(noProcess(h), missing(h.Capabilities.Takeover > longestDeadline,
					"Takeover of at most "+longestDeadline.String()))
			},
			Check: checkFrozen,
		},
	}
}

// checkKilledInRebalance kills a process as soon as another one has joined.
func checkKilledInRebalance(t *Trial) Observation {
	work := func(d *Delivery) {
		d.Work(2 * time.Millisecond)
		d.Ack()
	}
	messages := t.Interleaved(8, keysNamed(6)...)
	first := t.SubscribeProcess(groupOne)
	first.Handle(work)
	t.PublishBatch(messages[:24]...)
	t.Until("the first to get on", t.Again(), func(events []event) bool { return count(events, acked, groupOne) > 4 })
	second := t.SubscribeProcess(groupOne)
	second.Handle(work)
	first.Kill()
	t.PublishBatch(messages[24:]...)
	t.Subscribe(groupOne).Handle(work)
	second.Kill()
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkOrderAfterKill(t *Trial) Observation {
	return t.orderAfter(t.SubscribeProcess, (*Consumer).Kill)
}

// checkFrozen lets a consumer sleep with a message in hand until another one has
// it, and wake up with an ack on its lips.
func checkFrozen(t *Trial) Observation {
	first := t.SubscribeProcess(groupOne)
	messages := t.Messages("a", 2)
	t.Publish(messages[0])
	held := first.Next()
	first.Pause()
	began := time.Now()
	patience := t.Harness.Quiet
	if takeover := t.Capabilities.Takeover; takeover > 0 {
		patience = takeover + t.Harness.Patience
	}
	second := t.Subscribe(groupOne)
	again, _ := second.poll(patience)
	if again == nil {
		return Lacks("what a frozen consumer had in hand came to nobody else within %v", patience)
	}
	took := time.Since(began)
	t.Publish(messages[1])
	held.GiveUp()
	held.Message.Ack() // which it does when it wakes up
	first.Resume()
	again.Work(min(t.Harness.Quiet, 300*time.Millisecond)) // no signal tells that the late ack is through
	again.Ack()
	first.AckEverything()
	second.AckEverything()
	t.MustAck(groupOne, messages)

	return HoldsWith("after %v", took.Round(time.Second/10))
}
