package conformance

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// handoverFacts are those about one consumer or publisher after another.
func handoverFacts() []Fact {
	return []Fact{
		{
			Name:  "delivery/acked stays acked",
			Claim: "after a clean close, the next consumer is given what is new and nothing that was acked",
			Check: checkAckedStays,
		},
		{
			Name:  "delivery/in hand at close comes again",
			Claim: "a message that its consumer held, unacked, when it closed is delivered to the next one",
			Check: func(t *Trial) Observation { return t.inHandAfter(t.Subscribe, (*Consumer).Drop, 1) },
		},
		{
			Name:  "delivery/consumers that come and go lose nothing",
			Claim: "no message is lost while consumers close with messages in hand and others take over",
			Check: checkComeAndGo,
		},
		{
			Name:  "delivery/before anybody listens",
			Claim: "what was published before the first subscription is delivered to it",
			Check: checkBeforeAnybody,
		},
		{
			Name:  "delivery/another publisher's messages",
			Claim: "what one publisher sent before it closed arrives, and another goes on",
			Check: checkAnotherPublisher,
		},
		{
			Name:    "delivery/a restart of the broker loses nothing",
			Claim:   "acked publishes survive a restart of the broker, and open subscriptions go on after it",
			Needs:   needsDurable,
			Breaks:  true,
			Missing: func(h Harness) string { return missing(h.Own == nil && h.Restart == nil, "Restart") },
			Check:   checkRestart,
		},
	}
}

func checkAckedStays(t *Trial) Observation {
	first := t.Subscribe(groupOne)
	messages := t.Messages("a", 6)
	t.Publish(messages...)
	first.AckAll(messages)
	first.Close()

	marker := t.Message("a")
	t.Subscribe(groupOne).AckEverything()
	t.Publish(marker)
	t.MustAck(groupOne, []*message.Message{marker})
	if o, again := twice(t.events(), groupOne); again {
		return o
	}

	return Holds()
}

// inHandAfter loses a consumer with the first of n messages in hand.
func (t *Trial) inHandAfter(subscribe func(group string) *Consumer, lose func(*Consumer), n int) Observation {
	first := subscribe(groupOne)
	messages := t.Messages("a", n)
	t.Publish(messages...)
	first.Next()
	lose(first)

	second := t.Subscribe(groupOne)
	began := time.Now()
	second.AckAll(messages)

	return HoldsWith("after %v", time.Since(began).Round(time.Millisecond))
}

// checkComeAndGo has each consumer ack a few messages and go with what it holds.
func checkComeAndGo(t *Trial) Observation {
	const generations, each = 3, 4
	messages := t.Interleaved(6, "a", "b", "c", "d")
	t.PublishBatch(messages...)
	for range generations {
		c := t.Subscribe(groupOne)
		for range each {
			c.NextAgain().Ack()
		}
		c.NextAgain()
		c.Drop()
	}
	t.Subscribe(groupOne).AckEverything()
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkBeforeAnybody(t *Trial) Observation {
	messages := t.Messages("a", 5)
	t.Publish(messages...)
	t.Subscribe(groupOne).AckEverything()
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkAnotherPublisher(t *Trial) Observation {
	t.Subscribe(groupOne).AckEverything()
	first := t.Messages("a", 2)
	t.Publish(first...)
	t.ReopenPublisher()
	second := t.Messages("a", 2)
	t.Publish(second...)
	t.MustAck(groupOne, append(first, second...))

	return Holds()
}

func checkRestart(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	before, after := t.Messages("a", 5), t.Messages("a", 5)
	t.Publish(before...)
	held := c.Next()
	if err := t.call("restart the broker", func() error { return t.Harness.Restart(t.ctx) }); err != nil {
		t.Unknownf("restart the broker: %v", err)
	}
	held.Nack() // of a handler that was at work all the time
	c.AckEverything()
	t.PublishAnyway(after...) // the first ones may meet connections that the restart broke
	t.MustAck(groupOne, append(before, after...))

	return Holds()
}
