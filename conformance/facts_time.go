package conformance

import (
	"fmt"
	"slices"
	"time"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// longestDeadline is the longest ack deadline that is waited for.
const longestDeadline = time.Minute

func timeFacts() []Fact {
	return []Fact{
		{
			Name:  "time/past the ack deadline it comes again",
			Claim: "a message that its consumer holds for longer than the ack deadline is delivered again",
			Needs: needsDeadline,
			Shy:   true, // a copy may have other reasons than a deadline
			Missing: func(h Harness) string {
				return missing(h.Capabilities.AckDeadline > longestDeadline, "ack deadline of at most "+longestDeadline.String())
			},
			Check: checkPastDeadline,
		},
		{
			Name:  "time/held for as long as it takes",
			Claim: "a message that a live consumer holds is given to nobody else",
			Needs: needsNoDeadline, Issue: "deadline extension",
			Shy: true, // a deadline may be noticed late
			Missing: func(h Harness) string {
				return missing(h.Capabilities.AckDeadline > longestDeadline, "ack deadline of at most "+longestDeadline.String())
			},
			Check: checkHeld,
		},
		{
			Name:  "time/an ack before the deadline counts",
			Claim: "a message that is acked late, and before the ack deadline, does not come again",
			Check: checkLateAck,
		},
		{
			Name:  "time/clock skew changes nothing",
			Claim: "messages whose event times lie in the future or the past are delivered like others, in order",
			Check: checkSkew,
		},
		{
			Name:  "time/delay",
			Claim: "a message can be published now and delivered at a later time",
			// No capability promises it yet.
			Needs:      Need{"a delay", func(brokers.Capabilities) bool { return false }},
			Shy:        true,
			Check:      checkDelay,
			ByHeadrace: checkDelayByHeadrace,
		},
		{
			Name:  "time/nacks back off",
			Claim: "the pause before a failing message comes again grows with its failures",
			// Where it doesn't, Parking's retries do.
			Optional: true,
			Check:    checkBackoff,
		},
	}
}

// checkPastDeadline holds a message, and lets another consumer of the group wait
// for it too: whose it becomes is the broker's choice.
func checkPastDeadline(t *Trial) Observation {
	held := t.holdBesideAnother()
	again := held.copyWithin(t.whole(t.Again()))
	if again == nil {
		deadline := "no ack deadline is declared"
		if t.Capabilities.AckDeadline > 0 {
			deadline = "the ack deadline is " + t.Capabilities.AckDeadline.String()
		}

		return Lacks("a message that was held for %v did not come again; %s",
			time.Since(held.since).Round(time.Millisecond), deadline)
	}
	held.GiveUp()
	again.Ack()

	return HoldsWith("after %v", time.Since(held.since).Round(time.Second/10))
}

// whole is a patience where the deadline is declared, else the quiet time.
func (t *Trial) whole(patience time.Duration) time.Duration {
	if t.Capabilities.AckDeadline == 0 {
		return t.Harness.Quiet
	}

	return patience
}

func checkHeld(t *Trial) Observation {
	held := t.holdBesideAnother()
	if again := held.copyWithin(t.whole(t.Capabilities.AckDeadline + t.Harness.Quiet)); again != nil {
		held.GiveUp()
		again.Ack()

		return Lacks("a held message came again")
	}
	if err := held.Context().Err(); err != nil {
		return Lacks("a held message's context ended: %v", err)
	}
	took := time.Since(held.since).Round(time.Millisecond)
	held.Ack()
	marker := t.Message("a")
	t.Publish(marker)
	d, _ := t.either(held.first, held.second)
	d.Ack()
	if d.Name != t.history.of(marker).name {
		return Lacks("the ack after %v did not count: %s came again", took, d.Name)
	}

	return Holds()
}

// heldBeside is a message in the hand of one of two consumers of a group.
type heldBeside struct {
	*Delivery

	t             *Trial
	first, second *Consumer
	since         time.Time
}

// holdBesideAnother has two consumers share a topic, and one of them hold a
// message. They share it already when it comes: a broker that moves messages from
// one to the other when a consumer joins would do so with the held one, too, and
// whether it does is another fact's question.
func (t *Trial) holdBesideAnother() *heldBeside {
	first, second := t.Subscribe(groupOne), t.Subscribe(groupOne)
	// Until both have had something: on a broker that gives a group's messages to
	// one consumer only, never. By default Kafka's clients hear of a newcomer
	// within three seconds, the default quiet time.
	const rounds = 40
	met := map[*Consumer]bool{}
	for n := 0; len(met) < 2 && n < rounds; n++ {
		msg := t.Message(fmt.Sprintf("k%d", n))
		t.Publish(msg)
		for name := ""; name != t.history.of(msg).name; {
			d, other := t.either(first, second)
			name, met[other] = d.Name, true
			d.Ack()
		}
		t.rest(2 * t.Harness.Quiet / rounds)
	}

	msg := t.Message("a")
	t.Publish(msg)
	for {
		d, _ := t.either(first, second)
		if d.Name == t.history.of(msg).name {
			return &heldBeside{Delivery: d, t: t, first: first, second: second, since: time.Now()}
		}
		d.Ack()
	}
}

// copyWithin returns the held message's next copy, or nil when the patience is over.
func (h *heldBeside) copyWithin(patience time.Duration) *Delivery {
	h.t.setDoing("another copy")
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		var d *Delivery
		select {
		case msg, open := <-h.first.messages:
			if open {
				d = h.first.take(msg)
			}
		case msg, open := <-h.second.messages:
			if open {
				d = h.second.take(msg)
			}
		case <-timer.C:
			return nil
		case <-h.t.ctx.Done():
			h.t.Unknownf("the fact's deadline was over, waiting for another copy")
		}
		if d == nil || d.Name == h.Name {
			return d
		}
		d.Ack()
	}
}

func checkLateAck(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Messages("a", 2)
	t.Publish(messages[0])
	d := c.Next()
	hold := t.Harness.Quiet / 2
	if deadline := t.Capabilities.AckDeadline; deadline > 0 {
		hold = min(hold, deadline/3)
	}
	d.Work(hold)
	d.Ack()
	t.Publish(messages[1])
	next := c.Next()
	next.Ack()
	if next.Name != t.history.of(messages[1]).name {
		return Lacks("%s came again after it was acked, %v after its delivery", next.Name, hold)
	}

	return Holds()
}

func checkSkew(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Messages("a", 4)
	const year = 365 * 24 * time.Hour
	for i, skew := range []time.Duration{year, -year, time.Hour, 0} {
		msgmeta.SetEventTime(messages[i], time.Now().Add(skew))
	}
	sent := map[string]time.Time{}
	for _, msg := range messages {
		sent[msg.UUID], _, _ = msgmeta.GetEventTime(msg)
	}
	t.PublishBatch(messages...)
	for left := len(messages); left > 0; {
		d := c.NextAgain()
		at, _, err := msgmeta.GetEventTime(d.Message)
		if want, known := sent[d.UUID]; known && (err != nil || !at.Equal(want)) {
			return Lacks("an event time of %v came back as %v", want, at).Of("a")
		} else if known {
			left--
		}
		delete(sent, d.UUID)
		d.Ack()
	}
	if !t.Capabilities.KeyOrder {
		return Holds()
	}

	return t.inOrder(perKey, true)
}

// checkDelay asks by the only entry that speaks of time: there is no other. On a busy
// machine a message may be late by itself, so it asks for longer and longer delays.
func checkDelay(t *Trial) Observation {
	const longest = 8
	c := t.Subscribe(groupOne)
	for delay := t.Harness.Quiet; delay <= longest*t.Harness.Quiet; delay *= 2 {
		msg := t.Message("a")
		due := time.Now().Add(delay)
		msgmeta.SetEventTime(msg, due)
		t.Publish(msg)
		d := c.Next()
		early := time.Until(due)
		d.Ack()
		if early > 0 {
			return Lacks("it came at once: there is no way to ask for a later delivery")
		}
	}

	return Holds()
}

// checkDelayByHeadrace leaves the message in the outbox until it is due.
func checkDelayByHeadrace(t *Trial) Observation {
	// Databases' clocks are read to the millisecond.
	const precision = 5 * time.Millisecond
	c := t.Subscribe(groupOne)
	msg := t.Message("a")
	due := time.Now().Add(t.Harness.Quiet)
	outbox, stop := t.relayed()
	defer stop()
	if err := outbox.PublishAt(t.ctx, due, t.Topic, msg); err != nil {
		t.Unknownf("publish through the outbox: %v", err)
	}
	d := c.Next()
	late := time.Since(due)
	d.Ack()
	if late < -precision {
		return Lacks("it came %v before its time", -late)
	}

	return HoldsWith("%v after its time", late.Round(time.Millisecond))
}

func checkBackoff(t *Trial) Observation {
	const (
		failures = 8
		slow     = time.Second // from where on fewer failures have to do
		slowMin  = 4
		enough   = 40 * time.Second
	)
	c := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	var pauses []time.Duration
	d, first := c.Next(), time.Now()
	for len(pauses) < failures {
		began := time.Now()
		d.Nack()
		d = c.NextAgain()
		pauses = append(pauses, time.Since(began).Round(time.Millisecond))
		// A broker may look slow because the machine is: it gets its failures too.
		n := len(pauses)
		if pauses[0] >= slow && n >= slowMin && (time.Since(first) > enough || backedOff(pauses, n-1, 1)) {
			break
		}
	}
	d.Ack()
	early, late := 3, 3
	if len(pauses) < failures {
		early, late = len(pauses)-1, 1
	}
	if !backedOff(pauses, early, late) {
		return Lacks("pauses of %v", pauses)
	}

	return HoldsWith("pauses of %v", pauses)
}

// backedOff compares the shortest of the first pauses with the shortest of the last: a
// busy machine makes any pause longer, and none shorter.
func backedOff(pauses []time.Duration, early, late int) bool {
	const grown = 4 // times
	last := slices.Min(pauses[len(pauses)-late:])

	return last > time.Millisecond && last >= grown*slices.Min(pauses[:early])
}
