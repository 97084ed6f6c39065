package conformance

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

func concurrencyFacts() []Fact {
	return []Fact{
		{
			Name:  "concurrency/several keys at once",
			Claim: "one subscription has messages of several keys in hand at the same time",
			Needs: needsLanes, Issue: orderIssue,
			Check: checkSeveralKeys,
		},
		{
			Name:  "concurrency/a held key holds up no other",
			Claim: "while a handler is busy with one key, all messages of other keys are delivered",
			Needs: needsLanes, Issue: orderIssue,
			Check: checkHeldKey,
		},
		{
			Name:  "concurrency/never two of one key",
			Claim: "no two messages of a key are in hand at once within a group",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: checkNeverTwo,
		},
		{
			Name:  "concurrency/never two of one key at two consumers",
			Claim: "nor at different consumers of the group",
			Needs: needsKeyOrder, Issue: orderIssue,
			Check: checkNeverTwoAtTwo,
		},
		{
			Name:  "concurrency/a hot key does not starve others",
			Claim: "with a long backlog of one key, messages of other keys don't wait for its end",
			Needs: needsKeyLanes, Issue: orderIssue, Shy: true,
			Check: checkHotKey,
		},
		{
			Name:  "concurrency/one message in one hand",
			Claim: "while a consumer holds a message, no other consumer of its group is given it before the ack deadline",
			Check: checkOneHand,
		},
		{
			Name:  "concurrency/many subscriptions at once",
			Claim: "subscriptions to many topics at once all work",
			Check: checkManyTopics,
		},
	}
}

// holdAll holds what comes until free is closed, and acks then.
func holdAll(free <-chan struct{}) func(d *Delivery) {
	return func(d *Delivery) {
		select {
		case <-free:
		case <-d.Over():
		case <-d.Context().Done():
		}
		d.Ack()
	}
}

func checkSeveralKeys(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	free := make(chan struct{})
	var once sync.Once
	defer once.Do(func() { close(free) })
	c.Handle(holdAll(free))
	messages := t.Interleaved(1, keysNamed(40)...)
	t.PublishBatch(messages...)

	const several = 4
	patience := t.Harness.Quiet
	if t.Capabilities.Lanes {
		patience = t.Harness.Patience
	}
	held := func() int { return len(names(t.events(), received, groupOne)) }
	atLeast := func(n int) func(events []event) bool {
		return func(events []event) bool { return len(names(events, received, groupOne)) >= n }
	}
	t.Until("the first message", t.Harness.Patience, atLeast(1))
	t.Until("several messages at once", patience, atLeast(several))
	// How many in all is only known when no more come.
	for n := held(); ; n = held() {
		if !t.Until("yet more", t.Harness.Quiet, atLeast(n+1)) {
			break
		}
	}
	n := held()
	once.Do(func() { close(free) })
	t.MustAck(groupOne, messages)
	if n < several {
		return Lacks("%d at once, of %d messages of as many keys", n, len(messages))
	}

	return HoldsWith("%d at once, of %d keys", n, len(messages))
}

func checkHeldKey(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	held, others := t.Messages("held", 1), t.Interleaved(1, keysNamed(40)...)
	free := make(chan struct{})
	hold := holdAll(free)
	c.Handle(func(d *Delivery) {
		if d.Name == "held-0" {
			hold(d)
		} else {
			d.Ack()
		}
	})
	t.Publish(held...)
	t.Until("the key to be held", t.Harness.Patience, func(events []event) bool { return count(events, received, groupOne) > 0 })
	t.PublishBatch(others...)
	flowed := t.flows(needsLanes, others)
	close(free)
	t.MustAck(groupOne, append(held, others...))
	if len(flowed) < len(others) {
		return Lacks("%d of %d messages of other keys came while one key was held", len(flowed), len(others))
	}

	return Holds()
}

// checkNeverTwo holds the first message of a key. Where other keys are delivered
// meanwhile, theirs, published last, show that the key's next ones had the
// chance to come.
func checkNeverTwo(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Messages("a", 4)
	t.Publish(messages[0])
	first := c.Next()
	t.Publish(messages[1:]...)
	marker := t.Message("marker")
	t.Publish(marker)
	for range 8 {
		d := c.None()
		if d == nil {
			break
		}
		if t.history.of(d.Message).key == "a" {
			o := Lacks("%s came while %s was in hand", d.Name, first.Name).Of("a")
			d.Ack()

			return o
		}
		d.Ack()
	}
	first.Ack()
	c.AckAll(messages[1:])

	return Holds()
}

func checkNeverTwoAtTwo(t *Trial) Observation {
	work := func(d *Delivery) {
		d.Work(5 * time.Millisecond)
		d.Ack()
	}
	t.Subscribe(groupOne).Handle(work)
	t.Subscribe(groupOne).Handle(work)
	messages := t.Interleaved(20, "a", "b", "c")
	t.Publish(messages...)
	t.MustAck(groupOne, messages)

	return t.inOrder(perKey, true)
}

// checkHotKey looks where the others stand in the order of acks.
func checkHotKey(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	hot := t.Messages("hot", 120)
	others := t.Interleaved(1, keysNamed(8)...)
	t.PublishBatch(hot[:60]...)
	t.PublishBatch(hot[60:]...)
	t.PublishBatch(others...)
	c.Handle(func(d *Delivery) {
		d.Work(5 * time.Millisecond)
		d.Ack()
	})
	t.MustAck(groupOne, slices.Concat(hot, others))

	hotBefore := 0
	for _, name := range names(t.events(), acked, groupOne) {
		if len(name) > 3 && name[:4] == "hot-" {
			hotBefore++
		} else if name == "k7-0" {
			break
		}
	}
	if hotBefore > len(hot)*3/4 {
		return Lacks("the last other key was handled after %d of the hot key's %d messages", hotBefore, len(hot))
	}

	return HoldsWith("the last other key was handled after %d of the hot key's %d messages", hotBefore, len(hot))
}

func checkOneHand(t *Trial) Observation {
	first, second := t.Subscribe(groupOne), t.Subscribe(groupOne)
	msg := t.Message("a")
	t.Publish(msg)

	held, other := t.either(first, second)
	quiet := t.Harness.Quiet
	if deadline := t.Capabilities.AckDeadline; deadline > 0 {
		quiet = min(quiet, deadline/2)
	}
	if d, _ := other.poll(quiet); d != nil {
		return Lacks("%s came to consumer %d while consumer %d held it", d.Name, other.Number, held.consumer.Number)
	}
	held.Ack()

	return Holds()
}

// either waits for the next message at one of two consumers, and returns it and
// the other one.
func (t *Trial) either(first, second *Consumer) (*Delivery, *Consumer) {
	timer := time.NewTimer(t.Harness.Patience)
	defer timer.Stop()
	t.setDoing("a message at one of two consumers")
	select {
	case msg, open := <-first.messages:
		if open {
			return first.take(msg), second
		}
	case msg, open := <-second.messages:
		if open {
			return second.take(msg), first
		}
	case <-timer.C:
		t.Lacksf("no message came to either of two consumers within %v", t.Harness.Patience)
	case <-t.ctx.Done():
		t.Unknownf("the fact's deadline was over, waiting for a message at one of two consumers")
	}
	t.Lacksf("a subscription ended by itself")

	return nil, nil
}

func checkManyTopics(t *Trial) Observation {
	const topics = 5
	var all []*message.Message
	for i := range topics {
		topic := t.NewTopic()
		t.SubscribeTo(topic, groupOne).AckEverything()
		msg := t.Message(fmt.Sprintf("topic%d", i))
		if err := t.TryPublish(topic, msg); err != nil {
			t.Unknownf("publish: %v", err)
		}
		all = append(all, msg)
	}
	t.MustAck(groupOne, all)
	if n := len(t.events()); n == 0 {
		return Lacks("nothing came")
	}
	if o, again := twice(t.events(), groupOne); again && t.Capabilities.KeyOrder {
		return o
	}

	return Holds()
}
