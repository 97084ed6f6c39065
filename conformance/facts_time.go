package conformance

import (
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
			Needs: Need{"a delay", func(brokers.Capabilities) bool { return false }},
			Issue: "scheduling", Shy: true,
			Check: checkDelay,
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
	first := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	held := first.Next()
	began := time.Now()
	second := t.Subscribe(groupOne)

	again := t.eitherWithin(first, second, t.whole(t.Again()))
	if again == nil {
		deadline := "no ack deadline is declared"
		if t.Capabilities.AckDeadline > 0 {
			deadline = "the ack deadline is " + t.Capabilities.AckDeadline.String()
		}

		return Lacks("a message that was held for %v did not come again; %s",
			time.Since(began).Round(time.Millisecond), deadline)
	}
	held.GiveUp()
	again.Ack()

	return HoldsWith("after %v", time.Since(began).Round(time.Second/10))
}

// whole is a patience where the deadline is declared, else the quiet time.
func (t *Trial) whole(patience time.Duration) time.Duration {
	if t.Capabilities.AckDeadline == 0 {
		return t.Harness.Quiet
	}

	return patience
}

func checkHeld(t *Trial) Observation {
	first := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	held := first.Next()
	second := t.Subscribe(groupOne)
	again := t.eitherWithin(first, second, t.whole(t.Capabilities.AckDeadline+t.Harness.Quiet))
	if again != nil {
		held.GiveUp()
		again.Ack()

		return Lacks("a held message came again")
	}
	if err := held.Context().Err(); err != nil {
		return Lacks("a held message's context ended: %v", err)
	}
	held.Ack()
	marker := t.Message("a")
	t.Publish(marker)
	d, _ := t.either(first, second)
	d.Ack()
	if d.Name != t.history.of(marker).name {
		return Lacks("the ack after %v did not count: %s came again", t.Harness.Quiet, d.Name)
	}

	return Holds()
}

// eitherWithin is either, for what may not come.
func (t *Trial) eitherWithin(first, second *Consumer, patience time.Duration) *Delivery {
	t.setDoing("another copy")
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case msg, open := <-first.messages:
		if open {
			return first.take(msg)
		}
	case msg, open := <-second.messages:
		if open {
			return second.take(msg)
		}
	case <-timer.C:
	case <-t.ctx.Done():
		t.Unknownf("the fact's deadline was over, waiting for another copy")
	}

	return nil
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

// checkDelay asks by the only entry that speaks of time: there is no other.
func checkDelay(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	msg := t.Message("a")
	due := time.Now().Add(t.Harness.Quiet)
	msgmeta.SetEventTime(msg, due)
	t.Publish(msg)
	d := c.Next()
	early := time.Until(due)
	d.Ack()
	if early > 0 {
		return Lacks("it came at once: there is no way to ask for a later delivery")
	}

	return Holds()
}

func checkBackoff(t *Trial) Observation {
	const (
		grown = 4 // times
		slow  = time.Second
		none  = time.Millisecond
	)
	failures, some := 8, 3
	c := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	var pauses []time.Duration
	d := c.Next()
	for len(pauses) < failures {
		began := time.Now()
		d.Nack()
		d = c.NextAgain()
		pauses = append(pauses, time.Since(began).Round(none))
		if pauses[0] >= slow {
			failures, some = 4, 1
		}
	}
	d.Ack()
	// A busy machine makes any pause longer, and none shorter.
	if last := slices.Min(pauses[failures-some:]); last <= none || last < grown*slices.Min(pauses[:some]) {
		return Lacks("pauses of %v", pauses)
	}

	return HoldsWith("pauses of %v", pauses)
}
