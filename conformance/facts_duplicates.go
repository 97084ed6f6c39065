package conformance

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

func duplicateFacts() []Fact {
	return []Fact{
		{
			Name:  "duplicates/none without trouble",
			Claim: "a message that is acked in time comes once, with two consumers of its group",
			Needs: needsKeyOrder, Shy: true,
			Check: checkNoDuplicates,
		},
		{
			Name:  "duplicates/repeats of one sending are dropped",
			Claim: "a message that is published twice with the same send id has its effects once",
			Needs: needsSendDedup,
			Check: func(t *Trial) Observation { return t.comesOnce(sentAs(t.Message("a"))) },
			ByHeadrace: func(t *Trial) Observation {
				return t.hasEffectsOnce(sentAs(t.Message("a")))
			},
		},
		{
			Name:  "duplicates/repeats of a sending that was handled are dropped",
			Claim: "a message that is published again with the same send id after it was acked has no effects again",
			Needs: needsSendDedup,
			Check: checkSentAgainHandled,
			ByHeadrace: func(t *Trial) Observation {
				return t.hasEffectsOnce(sentAs(t.Message("a")))
			},
		},
		{
			Name:     "duplicates/a repeated UUID is dropped",
			Claim:    "a message that is published twice has its effects once",
			Optional: true,
			Check:    func(t *Trial) Observation { return t.comesOnce(t.Message("a")) },
			ByHeadrace: func(t *Trial) Observation {
				return t.hasEffectsOnce(t.Message("a"))
			},
		},
		{
			Name:  "duplicates/a refused batch leaves nothing",
			Claim: "when a Publish call fails because a message is too large, none of the call's messages is sent",
			Missing: func(h Harness) string {
				if h.Capabilities.MaxBody == 0 {
					return "the broker declares no limit"
				}

				return missing(h.Capabilities.MaxBody > largest, "limit small enough to be tried")
			},
			Check: checkRefusedBatch,
		},
		{
			Name:  "duplicates/a failed batch is sent again",
			Claim: "after a batch that failed in the middle, publishing all of it again delivers each message at least once",
			Check: checkPartialBatch,
		},
	}
}

func checkNoDuplicates(t *Trial) Observation {
	t.Subscribe(groupOne).AckEverything()
	t.Subscribe(groupOne).AckEverything()
	messages := t.Interleaved(8, "a", "b", "c", "d")
	t.PublishBatch(messages...)
	t.MustAck(groupOne, messages)
	// What is doubled comes before a marker that is published afterwards, or soon
	// after it.
	marker := t.Interleaved(1, "a", "b", "c", "d")
	t.Publish(marker...)
	t.MustAck(groupOne, marker)
	t.Until("copies", t.Harness.Quiet, func(events []event) bool {
		_, again := twice(events, groupOne)

		return again
	})
	if o, again := twice(t.events(), groupOne); again {
		return o
	}

	return Holds()
}

// sentAs gives a message a send id.
func sentAs(msg *message.Message) *message.Message {
	msgmeta.SetSendID(msg, msg.UUID)

	return msg
}

// checkSentAgainHandled repeats a sending as a relay does that doesn't know any
// more that it was through.
func checkSentAgainHandled(t *Trial) Observation {
	msg, between, marker := sentAs(t.Message("a")), t.Message("a"), t.Message("a")
	c := t.Subscribe(groupOne)
	t.Publish(cloned(msg), between)
	c.AckAll([]*message.Message{msg, between}) // the second comes after the first one's ack
	t.Publish(cloned(msg), marker)
	c.AckEverything()
	t.MustAck(groupOne, []*message.Message{marker})
	t.Until("the repeated sending", t.Harness.Quiet, func(events []event) bool {
		_, again := twice(events, groupOne)

		return again
	})
	if o, again := twice(t.events(), groupOne); again {
		return o
	}

	return Holds()
}

// hasEffectsOnce publishes a message twice, and once more after it was handled, to
// a service with Dedupe.
func (t *Trial) hasEffectsOnce(msg *message.Message) Observation {
	d := t.deskByHeadrace()
	of := t.history.of(msg).name
	deliveries := 0
	settleUntil := func(enough func() bool) {
		for !enough() {
			next, _ := d.poll(d.again)
			if next == nil {
				t.Lacksf("after %d deliveries nothing came within %v", deliveries, d.again)
			}
			d.settle(next, func(ctx context.Context) error {
				if next.Name != of {
					return nil
				}

				return d.effect(ctx, deliveries)
			})
			deliveries++
		}
	}
	t.Publish(cloned(msg), cloned(msg))
	settleUntil(func() bool { return count(t.events(), acked, groupOne) >= 2 })
	t.Publish(cloned(msg))
	settleUntil(func() bool { return count(t.events(), acked, groupOne) >= 3 })
	o := d.once(deliveries)
	if o.Holds {
		o.Note = fmt.Sprintf("by Dedupe, of %d deliveries", deliveries)
	}

	return o
}

// comesOnce publishes a message twice before anybody listens.
func (t *Trial) comesOnce(msg *message.Message) Observation {
	marker := t.Message("a")
	c := t.Subscribe(groupOne)
	t.Publish(cloned(msg), cloned(msg), marker)
	c.AckEverything()
	t.MustAck(groupOne, []*message.Message{msg, marker})
	name := t.history.of(msg).name
	copies := func(events []event) (n int) {
		for _, e := range events {
			if e.kind == acked && e.name == name {
				n++
			}
		}

		return n
	}
	t.Until("the second copy", t.Harness.Quiet, func(events []event) bool { return copies(events) > 1 })
	if copies(t.events()) > 1 {
		return Lacks("both copies came")
	}

	return Holds()
}

func checkRefusedBatch(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	small := t.Message("a")
	over := t.MessageWith("a", filled(t.Capabilities.MaxBody+1))
	if err := t.TryPublish(t.Topic, small, over); err == nil {
		return Lacks("a batch with a message over the limit of %d bytes was taken", t.Capabilities.MaxBody)
	}
	marker := t.Message("a")
	t.Publish(marker)
	d := c.Next()
	d.Ack()
	if d.Name != t.history.of(marker).name {
		return Lacks("%s of the refused call came", d.Name).Of("a")
	}

	return Holds()
}

// checkPartialBatch does what a relay does after a batch of which some went out.
func checkPartialBatch(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Messages("a", 6)
	t.PublishBatch(copies(messages[:3])...)
	t.PublishBatch(copies(messages)...)
	c.AckEverything()
	t.MustAck(groupOne, messages)

	return Holds()
}

func copies(messages []*message.Message) []*message.Message {
	all := make([]*message.Message, len(messages))
	for i, msg := range messages {
		all[i] = cloned(msg)
	}

	return all
}
