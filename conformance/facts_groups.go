package conformance

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

const groupsIssue = "fan-out"

func groupFacts() []Fact {
	return []Fact{
		{
			Name:  "groups/each hears everything",
			Claim: "two consumer groups each hear all messages of a topic",
			Needs: needsGroups, Issue: groupsIssue,
			Check: checkFanOut,
		},
		{
			Name:  "groups/no group takes another's messages",
			Claim: "a second group hears all messages as well, or is refused; it never takes some of the first one's",
			Check: checkNoTheft,
		},
		{
			Name:  "groups/consumers of one share",
			Claim: "of two consumers of one group, each message comes to one",
			Check: checkSharing,
		},
		{
			Name:  "groups/a late one hears the past",
			Claim: "a group that comes late hears what was published before, even if another group has acked it",
			Needs: needsGroups, Issue: groupsIssue,
			Check: checkLateGroup,
		},
		{
			Name:  "groups/failures stay in their group",
			Claim: "what one group nacks or is slow with, another is not bothered by",
			Needs: needsGroups, Issue: groupsIssue,
			Check: checkGroupsApart,
		},
		{
			Name:  "groups/progress is kept",
			Claim: "a group that was away goes on where it stopped",
			Check: checkProgress,
		},
	}
}

func checkFanOut(t *Trial) Observation {
	one := t.Subscribe(groupOne)
	two, err := t.TrySubscribe(t.Topic, groupTwo)
	if err != nil {
		return refusedGroup(err)
	}
	one.AckEverything()
	two.AckEverything()
	messages := t.Interleaved(5, "a", "b")
	t.Publish(messages...)

	return t.bothHear(messages)
}

func refusedGroup(err error) Observation {
	if errors.Is(err, brokers.ErrOneGroup) {
		return Lacks("a second group is refused by name")
	}

	return Lacks("a second group is refused: %v", err)
}

// bothHear says whether each message comes to both groups. Where the broker
// promises it, it waits with patience; else until nothing more comes.
func (t *Trial) bothHear(messages []*message.Message) Observation {
	if t.Capabilities.Groups {
		t.MustAck(groupOne, messages)
		t.MustAck(groupTwo, messages)

		return Holds()
	}
	heard := func(events []event, group string) int { return len(names(events, acked, group)) }
	t.Until("messages at either group", t.Harness.Patience, func(events []event) bool {
		return heard(events, groupOne)+heard(events, groupTwo) >= len(messages)
	})
	all := func(events []event) int { return heard(events, groupOne) + heard(events, groupTwo) }
	for n := all(t.events()); n < 2*len(messages); n = all(t.events()) {
		if !t.Until("messages at both groups", t.Harness.Quiet, func(events []event) bool { return all(events) > n }) {
			break
		}
	}
	one, two := heard(t.events(), groupOne), heard(t.events(), groupTwo)
	if one < len(messages) || two < len(messages) {
		return Lacks("of %d messages, one group heard %d and the other %d", len(messages), one, two)
	}

	return Holds()
}

func checkNoTheft(t *Trial) Observation {
	one := t.Subscribe(groupOne)
	one.AckEverything()
	two, err := t.TrySubscribe(t.Topic, groupTwo)
	if err == nil {
		two.AckEverything()
	}
	messages := t.Messages("a", 8)
	t.Publish(messages...)
	if err == nil {
		return t.bothHear(messages)
	}
	t.MustAck(groupOne, messages)

	return HoldsWith("%s", refusedGroup(err).Note)
}

// checkSharing has both consumers hold nothing back: whatever is delivered twice
// is seen, wherever it goes.
func checkSharing(t *Trial) Observation {
	consumers := []*Consumer{t.Subscribe(groupOne), t.Subscribe(groupOne)}
	for _, c := range consumers {
		c.AckEverything()
	}
	messages := t.Interleaved(4, keysNamed(8)...)
	t.Publish(messages...)
	t.MustAck(groupOne, messages)

	both := func(events []event) string {
		at := map[string]int{}
		for _, e := range events {
			if e.kind != received {
				continue
			}
			if before, ok := at[e.name]; ok && before != e.consumer {
				return e.name
			}
			at[e.name] = e.consumer
		}

		return ""
	}
	t.Until("copies at the other consumer", t.Harness.Quiet, func(events []event) bool { return both(events) != "" })
	if name := both(t.events()); name != "" {
		return Lacks("%s came to both consumers of one group, and neither had failed", name)
	}
	per := map[int]int{}
	for _, e := range t.events() {
		if e.kind == received {
			per[e.consumer]++
		}
	}

	return HoldsWith("%s", fmt.Sprintf("%d and %d messages", per[consumers[0].Number], per[consumers[1].Number]))
}

func checkLateGroup(t *Trial) Observation {
	one := t.Subscribe(groupOne)
	messages := t.Messages("a", 5)
	t.Publish(messages...)
	one.AckAll(messages)

	two, err := t.TrySubscribe(t.Topic, groupTwo)
	if err != nil {
		return refusedGroup(err)
	}
	two.AckEverything()
	if !t.Capabilities.Groups {
		t.Until("the past at a late group", t.Harness.Quiet, func(events []event) bool {
			return len(names(events, acked, groupTwo)) == len(messages)
		})
		if n := len(names(t.events(), acked, groupTwo)); n < len(messages) {
			return Lacks("a late group heard %d of %d earlier messages", n, len(messages))
		}

		return Holds()
	}
	t.MustAck(groupTwo, messages)

	return Holds()
}

// checkGroupsApart lets one group fail at everything while the other gets on.
func checkGroupsApart(t *Trial) Observation {
	one := t.Subscribe(groupOne)
	two, err := t.TrySubscribe(t.Topic, groupTwo)
	if err != nil {
		return refusedGroup(err)
	}
	cured := make(chan struct{})
	one.Handle(func(d *Delivery) {
		select {
		case <-cured:
			d.Ack()
		default:
			d.Nack()
		}
	})
	two.AckEverything()
	messages := t.Messages("a", 5)
	t.Publish(messages...)
	t.Until("a failure in one group", t.Harness.Patience, func(events []event) bool {
		return count(events, nacked, groupOne) > 0
	})
	if !t.Capabilities.Groups {
		close(cured)

		return t.bothHear(messages)
	}
	t.MustAck(groupTwo, messages)
	failed := count(t.events(), nacked, groupOne)
	t.Until("more failures in one group", t.Again(), func(events []event) bool {
		_, again := twice(events, groupTwo)

		return again || count(events, nacked, groupOne) > failed+2
	})
	if o, again := twice(t.events(), groupTwo); again && t.Capabilities.KeyOrder {
		return o
	}
	close(cured)
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkProgress(t *Trial) Observation {
	first := t.Subscribe(groupOne)
	before, away, after := t.Messages("a", 3), t.Messages("a", 3), t.Messages("a", 3)
	t.Publish(before...)
	first.AckAll(before)
	first.Close()
	t.Publish(away...)
	t.Subscribe(groupOne).AckEverything()
	t.Publish(after...)
	t.MustAck(groupOne, append(away, after...))
	if o, again := twice(t.events(), groupOne); again && t.Capabilities.KeyOrder {
		return o
	}

	return Holds()
}
