package conformance

import (
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Consumer groups of facts.
const (
	groupOne = "one"
	groupTwo = "two"
)

func deliveryFacts() []Fact {
	return []Fact{
		{
			Name:  "delivery/what is published arrives",
			Claim: "every message that was published without an error is delivered",
			Check: checkArrives,
		},
		{
			Name:  "delivery/a batch arrives whole",
			Claim: "every message of one Publish call is delivered",
			Check: checkBatch,
		},
		{
			Name:  "delivery/concurrent publishers lose nothing",
			Claim: "publishers may publish at the same time, and each key keeps its order where that is promised",
			Check: checkConcurrentPublishers,
		},
		{
			Name:  "delivery/nacked comes again",
			Claim: "a message is redelivered until it is acked",
			Check: checkNacked,
		},
		{
			Name:  "delivery/nack is no hot loop",
			Claim: "a message that fails at once, again and again, is redelivered at most 100 times a second",
			Check: checkHotLoop,
		},
		{
			Name:  "delivery/poison drifts nowhere",
			Claim: "a message that failed many times is still delivered, and what came with it too",
			Check: checkDrift,
		},
		{
			Name:  "delivery/poison blocks no other key",
			Claim: "while a message fails again and again, messages of other keys are delivered",
			Needs: needsLanes,
			Issue: "parking",
			Check: checkPoison,
		},
		{
			Name:  "delivery/from within a handler",
			Claim: "a handler may publish to its own topic before it acks",
			Check: checkFromHandler,
		},
		{
			Name:  "delivery/sent again on purpose",
			Claim: "a message that was handled and is published again under the same UUID arrives again",
			Check: checkSentAgain,
		},
	}
}

// missing says which hook of the harness a fact can't do without.
func missing(is bool, hook string) string {
	if !is {
		return ""
	}

	return "the harness has no " + hook
}

func checkArrives(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	messages := t.Interleaved(10, "a", "b", "", "c")
	c.AckEverything()
	t.Publish(messages...)
	t.MustAck(groupOne, messages)

	return Holds()
}

func checkBatch(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	c.AckEverything()
	for _, each := range []int{13, 60} { // beyond ten and beyond a hundred, which some services take at once
		messages := t.Interleaved(each, "a", "b")
		t.PublishBatch(messages...)
		t.MustAck(groupOne, messages)
	}

	return Holds()
}

func checkConcurrentPublishers(t *Trial) Observation {
	const publishers, each = 6, 8
	c := t.Subscribe(groupOne)
	pub := t.Publisher()
	var all []*message.Message
	errs := make(chan error, publishers)
	for p := range publishers {
		messages := t.Messages(fmt.Sprintf("p%d", p), each)
		all = append(all, messages...)
		go func() {
			var err error
			for _, msg := range messages {
				t.history.add(published, msg, "", 0, "")
				if err = t.safely(func() error { return pub.Publish(t.Topic, msg) }); err != nil {
					break
				}
			}
			errs <- err
		}()
	}
	for range publishers {
		if err := t.call("publish", func() error { return <-errs }); err != nil {
			t.Unknownf("publish: %v", err)
		}
	}
	c.AckEverything() // not before: what one has acked can't be reordered any more
	t.MustAck(groupOne, all)
	if !t.Capabilities.KeyOrder {
		return Holds()
	}

	return t.inOrder(perKey, false)
}

func checkNacked(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	c.Next().Nack()
	began := time.Now()
	again := c.NextAgain()
	took := time.Since(began)
	again.Ack()

	return HoldsWith("after %v", took.Round(time.Millisecond))
}

// checkHotLoop counts how often a message comes again within a second.
func checkHotLoop(t *Trial) Observation {
	const most, window = 100, time.Second
	c := t.Subscribe(groupOne)
	t.Publish(t.Message("a"))
	c.Next().Nack()
	began := time.Now()
	times := 0
	for ; time.Since(began) < window && times <= most; times++ {
		d, _ := c.poll(window)
		if d == nil {
			break
		}
		d.Nack()
	}
	if times > most {
		return Lacks("a message that is nacked at once came again %d times in %v",
			times, time.Since(began).Round(time.Microsecond))
	}
	c.NextAgain().Ack()

	return HoldsWith("%d times in a second", times)
}

func checkDrift(t *Trial) Observation {
	const failures = 7
	c := t.Subscribe(groupOne)
	messages := append(t.Messages("poison", 1), t.Messages("good", 3)...)
	t.PublishBatch(messages...)
	failed := 0
	c.Handle(func(d *Delivery) {
		if d.Name == "poison-0" {
			t.mu.Lock()
			failed++
			enough := failed > failures
			t.mu.Unlock()
			if !enough {
				d.Nack()

				return
			}
		}
		d.Ack()
	})
	t.MustAck(groupOne, messages)

	return HoldsWith("delivered after %d failures", failures)
}

func checkPoison(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	poison, others := t.Message("poison"), t.Interleaved(2, keysNamed(24)...)
	var stop sync.Once
	cured := make(chan struct{})
	c.Handle(func(d *Delivery) {
		if d.Name == "poison-0" {
			select {
			case <-cured:
			default:
				d.Nack()

				return
			}
		}
		d.Ack()
	})
	t.Publish(poison)
	t.Until("poison to fail once", t.Harness.Patience, func(events []event) bool {
		return count(events, nacked, groupOne) > 0
	})
	t.PublishBatch(others...)
	flowed := t.flows(needsLanes, others)
	stop.Do(func() { close(cured) })
	t.MustAck(groupOne, append(others, poison))
	if len(flowed) < len(others) {
		return Lacks("while a message failed again and again, %d of %d messages of other keys came; the rest only after it",
			len(flowed), len(others))
	}

	return Holds()
}

// flows waits for messages to be acked, and returns the names of those that
// were. Where a capability promises it, it waits with patience; else until
// nothing more has come for the quiet time.
func (t *Trial) flows(promised Need, messages []*message.Message) []string {
	want := map[string]bool{}
	for _, msg := range messages {
		want[t.history.of(msg).name] = true
	}
	came := func(events []event) (found []string) {
		for _, name := range names(events, acked, groupOne) {
			if want[name] {
				found = append(found, name)
			}
		}

		return found
	}
	patience := t.Harness.Quiet
	if promised.In(t.Capabilities) {
		patience = t.Harness.Patience
	}
	for last := 0; ; last = len(came(t.events())) {
		more := t.Until("messages to flow", patience, func(events []event) bool {
			n := len(came(events))

			return n == len(messages) || n > last
		})
		if found := came(t.events()); !more || len(found) == len(messages) {
			return found
		}
	}
}

// keysNamed returns k0, k1 and so on.
func keysNamed(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}

	return keys
}

func checkFromHandler(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	first, second := t.Message("a"), t.Message("a")
	t.Publish(first)
	d := c.Next()
	second.SetContext(d.Context())
	pub := t.Publisher()
	timer := time.NewTimer(t.Harness.Patience)
	defer timer.Stop()
	t.history.add(published, second, "", 0, "from within the handler")
	err, returned := t.callWithin("publish from a handler", timer.C, func() error { return pub.Publish(t.Topic, second) })
	if !returned {
		d.Ack()

		return Lacks("Publish from a handler to its own topic did not return within %v", t.Harness.Patience)
	}
	if err != nil {
		return Lacks("Publish from a handler to its own topic failed: %s", short(err.Error()))
	}
	d.Ack()
	c.AckAll([]*message.Message{second})

	return Holds()
}

func checkSentAgain(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	msg := t.Message("a")
	t.Publish(cloned(msg))
	c.Next().Ack()
	t.Publish(cloned(msg))
	c.Next().Ack()

	return Holds()
}
