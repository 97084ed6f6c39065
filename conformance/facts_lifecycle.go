package conformance

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

func lifecycleFacts() []Fact {
	return []Fact{
		{
			Name:  "lifecycle/close lets the handler finish",
			Claim: "Close waits for the handler in hand, whose message's context goes on, and its ack counts",
			Check: checkDrain,
		},
		{
			Name:  "lifecycle/close ends the subscription",
			Claim: "after Close the subscription's channel is closed, and nothing is delivered any more",
			Check: checkCloseEnds,
		},
		{
			Name:  "lifecycle/close while nobody reads",
			Claim: "Close returns though a message waits that nobody takes, and that message is not lost",
			Check: checkCloseUnread,
		},
		{
			Name:  "lifecycle/close twice",
			Claim: "closing a subscriber or publisher twice, or from several goroutines, does no harm",
			Check: checkCloseTwice,
		},
		{
			Name:  "lifecycle/subscribe after close",
			Claim: "subscribing by a closed subscriber is refused, or ends at once",
			Check: checkSubscribeClosed,
		},
		{
			Name:  "lifecycle/cancelled context",
			Claim: "the end of a subscription's context ends that subscription alone",
			Check: checkCancel,
		},
		{
			Name:  "lifecycle/context that is over already",
			Claim: "subscribing with a context that is over fails, or ends at once",
			Check: checkCancelled,
		},
		{
			Name:  "lifecycle/ack after close",
			Claim: "an ack that comes after its subscriber has closed does no harm, and loses nothing",
			Check: checkAckAfterClose,
		},
		{
			Name:  "lifecycle/subscribe twice",
			Claim: "two subscriptions to one topic by one subscriber both work, and lose nothing",
			Check: checkSubscribeTwice,
		},
		{
			Name:  "lifecycle/two topics",
			Claim: "one subscriber's subscriptions to two topics don't disturb each other",
			Check: checkTwoTopics,
		},
		{
			Name:  "lifecycle/publishing nothing",
			Claim: "Publish without messages does nothing, and is no error",
			Check: checkPublishNothing,
		},
		{
			Name:  "lifecycle/no goroutine left",
			Claim: "subscriptions that have ended leave no goroutine behind",
			Check: checkLeaks,
		},
	}
}

func checkDrain(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	held := c.Next()
	closed := c.StartClose()
	wait := time.NewTimer(min(t.Harness.Quiet, 200*time.Millisecond)) // of a handler that takes its time
	defer wait.Stop()
	select {
	case <-closed:
		return Lacks("Close returned while a handler was at work")
	case <-held.Context().Done():
		return Lacks("Close cancelled the context of a handler at work")
	case <-wait.C:
	}
	held.Ack()
	c.Close()

	marker := t.Message("a")
	t.Subscribe(groupOne).AckEverything()
	t.Publish(marker)
	t.MustAck(groupOne, []*message.Message{marker})
	if o, again := twice(t.events(), groupOne); again {
		o.Note = "an ack while closing did not count: " + o.Note

		return o
	}

	return Holds()
}

func checkCloseEnds(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Messages("a", 2)
	t.Publish(messages[0])
	c.Next().Ack()
	c.Close()
	if !c.Ended(t.Harness.Patience) {
		return Lacks("the subscription's channel was not closed within %v of Close", t.Harness.Patience)
	}
	second := t.Subscribe(groupOne)
	t.Publish(messages[1])
	second.AckAll(messages[1:])

	return Holds()
}

func checkCloseUnread(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Interleaved(2, "a", "b", "c")
	t.PublishBatch(messages...)
	first := c.Next()
	first.Ack()
	// No signal tells that the next one waits at the channel by now.
	first.Work(min(t.Harness.Quiet, 300*time.Millisecond))
	c.Close()
	acks := names(t.events(), acked, groupOne)
	var rest []*message.Message
	for _, msg := range messages {
		if t.history.of(msg).name != acks[0] {
			rest = append(rest, msg)
		}
	}
	t.Subscribe(groupOne).AckAll(rest)

	return Holds()
}

func checkCloseTwice(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	pub := t.Publisher()
	t.Publish(t.Message("a"))
	c.Next().Ack()
	const closers = 3
	for what, close := range map[string]func() error{"subscriber": c.sub.Close, "publisher": pub.Close} {
		results := make(chan error, closers)
		for range closers {
			go func() { results <- t.safely(close) }()
		}
		timer := time.NewTimer(t.Harness.Patience)
		for range closers {
			err, returned := t.callWithin("close "+what+" twice", timer.C, func() error { return <-results })
			if !returned {
				return Lacks("Close of the %s, called %d times, did not return within %v", what, closers, t.Harness.Patience)
			}
			if err != nil && isPanic(err) {
				return Lacks("Close of the %s, called %d times: %v", what, closers, err)
			}
		}
		timer.Stop()
	}

	return Holds()
}

// panicked is what a broker's function panicked with.
type panicked struct{ with any }

func (p panicked) Error() string { return fmt.Sprintf("panicked: %v", p.with) }

func isPanic(err error) bool {
	_, is := err.(panicked) //nolint:errorlint // never wrapped

	return is
}

func (*Trial) safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked{p}
		}
	}()

	return f()
}

func checkSubscribeClosed(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	c.Close()
	second, err := t.SubscribeBy(t.ctx, c.sub, t.Topic, groupOne)
	if err != nil {
		return HoldsWith("refused")
	}
	if !second.Ended(t.Harness.Patience) {
		return Lacks("a subscription by a closed subscriber neither failed nor ended")
	}

	return HoldsWith("ended at once")
}

func checkCancel(t *Trial) Observation {
	sub, err := t.OpenSubscriber(groupOne)
	if err != nil {
		t.Unknownf("open a subscriber: %v", err)
	}
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	ending, err := t.SubscribeBy(ctx, sub, t.Topic, groupOne)
	if err != nil {
		t.Unknownf("%v", err)
	}
	other := t.NewTopic()
	staying, err := t.SubscribeBy(t.ctx, sub, other, groupOne)
	if err != nil {
		t.Unknownf("%v", err)
	}
	t.Publish(t.Message("a"))
	ending.Next().Ack()

	cancel()
	if !ending.Ended(t.Harness.Patience) {
		return Lacks("the subscription's channel was not closed within %v of the end of its context", t.Harness.Patience)
	}
	messages := t.Messages("b", 2)
	if err := t.TryPublish(other, messages[0]); err != nil {
		t.Unknownf("publish: %v", err)
	}
	staying.AckAll(messages[:1])
	next := t.Subscribe(groupOne)
	t.Publish(messages[1])
	next.AckAll(messages[1:])

	return Holds()
}

func checkCancelled(t *Trial) Observation {
	sub, err := t.OpenSubscriber(groupOne)
	if err != nil {
		t.Unknownf("open a subscriber: %v", err)
	}
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	c, err := t.SubscribeBy(ctx, sub, t.Topic, groupOne)
	if err != nil {
		return HoldsWith("refused")
	}
	if !c.Ended(t.Harness.Patience) {
		return Lacks("a subscription whose context was over neither failed nor ended")
	}

	return HoldsWith("ended at once")
}

func checkAckAfterClose(t *Trial) Observation {
	first := t.Subscribe(groupOne)
	messages := t.Messages("a", 2)
	t.Publish(messages...)
	held := first.Next()
	first.Drop()
	held.Message.Ack()
	// Whether that ack still counted is open: what it must not do is to lose the
	// other message, or to break the broker.
	t.Subscribe(groupOne).AckAll(messages[1:])

	return Holds()
}

func checkSubscribeTwice(t *Trial) Observation {
	sub, err := t.OpenSubscriber(groupOne)
	if err != nil {
		t.Unknownf("open a subscriber: %v", err)
	}
	for range 2 {
		c, err := t.SubscribeBy(t.ctx, sub, t.Topic, groupOne)
		if err != nil {
			t.Unknownf("a second subscription by one subscriber: %v", err)
		}
		c.AckEverything()
	}
	messages := t.Interleaved(5, "a", "b", "c")
	t.Publish(messages...)
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkTwoTopics(t *Trial) Observation {
	sub, err := t.OpenSubscriber(groupOne)
	if err != nil {
		t.Unknownf("open a subscriber: %v", err)
	}
	stuck, err := t.SubscribeBy(t.ctx, sub, t.Topic, groupOne)
	if err != nil {
		t.Unknownf("%v", err)
	}
	other := t.NewTopic()
	flowing, err := t.SubscribeBy(t.ctx, sub, other, groupOne)
	if err != nil {
		t.Unknownf("%v", err)
	}
	t.Publish(t.Message("a"))
	held := stuck.Next()
	messages := t.Messages("b", 4)
	for _, msg := range messages {
		if err := t.TryPublish(other, msg); err != nil {
			t.Unknownf("publish: %v", err)
		}
	}
	flowing.AckAll(messages)
	held.Ack()

	return Holds()
}

func checkPublishNothing(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	if err := t.TryPublish(t.Topic); err != nil {
		return Lacks("Publish without messages: %s", short(err.Error()))
	}
	t.Publish(t.Message("a"))
	c.Next().Ack()

	return Holds()
}

// checkLeaks opens and closes again and again, and looks for a goroutine that
// stayed behind each time. What is there once is a pool's.
func checkLeaks(t *Trial) Observation {
	const warmUp, rounds = 2, 4
	var number atomic.Int64
	cycle := func() {
		c := t.Subscribe(groupOne)
		msg := t.Message(fmt.Sprintf("k%d", number.Add(1)))
		t.Publish(msg)
		c.AckAll([]*message.Message{msg})
		c.Close()
		c.Ended(t.Harness.Patience)
	}
	for range warmUp {
		cycle()
	}
	before := goroutinesOf(t.label())
	for range rounds {
		cycle()
	}
	var left []string
	settled := t.poll(t.Harness.Patience, func() bool {
		left = left[:0]
		for stack, n := range goroutinesOf(t.label()) {
			if n-before[stack] >= rounds {
				left = append(left, fmt.Sprintf("%d more of:\n%s", n-before[stack], stack))
			}
		}

		return len(left) == 0
	})
	if !settled {
		return Lacks("after %d subscriptions there are %s", rounds, left[0])
	}

	return Holds()
}
