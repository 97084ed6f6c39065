package conformance

import (
	"maps"
	"slices"
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
			Name: "delivery/in hand at close comes again",
			Claim: "a message that its consumer held or had nacked when it closed, or its context ended, " +
				"is delivered to the next one, whatever was acked after it",
			Check: checkInHandAtClose,
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

// inHand is a topic whose consumer is about to go.
type inHand struct {
	topic string
	first *Consumer
	left  []*message.Message // copies of what the consumer doesn't ack
}

// hold has a consumer hold the first of some messages, and the others of its key,
// and ack those of other keys as far as they come: a broker that only remembers
// how far a consumer has come must not take them for all that is before them.
func (t *Trial) hold(first *Consumer, topic string, messages ...*message.Message) inHand {
	left := map[string]*message.Message{}
	for _, msg := range messages {
		left[t.history.of(msg).name] = cloned(msg)
		if err := t.TryPublish(topic, msg); err != nil {
			t.Unknownf("publish: %v", err)
		}
	}
	held := first.Next()
	key := t.history.of(held.Message).key
	for range messages[1:] {
		d := first.None()
		if d == nil {
			break
		}
		if t.history.of(d.Message).key != key {
			d.Ack()
			delete(left, d.Name)
		}
	}

	return inHand{topic: topic, first: first, left: slices.Collect(maps.Values(left))}
}

// comesAgain has another consumer of the group ack what is left, which must be as
// it was.
func (h inHand) comesAgain(t *Trial) Observation {
	return t.SubscribeTo(h.topic, h.first.Group).ackSame(h.left)
}

// inHandAfter loses a consumer with messages in hand.
func (t *Trial) inHandAfter(subscribe func(group string) *Consumer, lose func(*Consumer)) Observation {
	h := t.hold(subscribe(groupOne), t.Topic, append(t.Messages("a", 3), t.Interleaved(1, keysNamed(6)...)...)...)
	lose(h.first)
	began := time.Now()
	if o := h.comesAgain(t); !o.Holds {
		return o
	}

	return HoldsWith("after %v", time.Since(began).Round(time.Millisecond))
}

// checkInHandAtClose loses consumers in every way in which one goes without being
// killed, and waits for all that they leave at once: it may be an ack deadline.
// Those that hold something are of different groups: where one spans topics, the
// one's handler would hold up the other's beginning.
func checkInHandAtClose(t *Trial) Observation {
	topic := t.NewTopic()
	failed := t.hold(t.SubscribeTo(topic, groupTwo), topic, t.Message("nacked"))
	for _, d := range failed.first.deliveries() {
		d.Nack()
	}
	failed.first.Drop()
	topic = t.NewTopic()
	held := t.hold(t.SubscribeTo(topic, groupTwo), topic, t.Message("cancelled"))
	closed := t.hold(t.Subscribe(groupOne), t.Topic, append(t.Messages("a", 1), t.Interleaved(1, keysNamed(6)...)...)...)
	closed.first.StartClose()
	held.first.cancel()
	held.first.Ended(t.Harness.Quiet) // or never, while the handler is at work
	held.first.StartClose()
	closed.first.Drop()
	held.first.Drop()
	began := time.Now()
	for _, h := range []inHand{closed, held, failed} {
		if o := h.comesAgain(t); !o.Holds {
			return o
		}
	}

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
