package conformance

import (
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// networkFacts are those about a broker that can't be reached for a while.
func networkFacts() []Fact {
	noCut := func(h Harness) string {
		return missing(h.Own == nil && h.Cut == nil, "Cut")
	}

	return []Fact{
		{
			Name:  "network/cut while publishing",
			Claim: "what Publish took while the broker was cut off arrives, and publishers recover by themselves",
			// An error may be wrong, a success must not.
			Breaks: true, Missing: noCut,
			Check: checkCutPublishing,
		},
		{
			Name:   "network/cut while receiving",
			Claim:  "subscriptions recover by themselves from a broken connection, and nothing is lost",
			Breaks: true, Missing: noCut,
			Check: func(t *Trial) Observation { return checkCutReceiving(t, time.Second, (*Delivery).Nack) },
		},
		{
			Name:   "network/cut for longer than the deadline",
			Claim:  "nothing is lost when consumers are cut off for longer than they may hold a message",
			Breaks: true, Missing: noCut,
			Check: func(t *Trial) Observation {
				const longest = 15 * time.Second
				deadline := max(t.Capabilities.AckDeadline, t.Capabilities.Takeover)

				return checkCutReceiving(t, min(deadline+time.Second, longest), (*Delivery).Ack)
			},
		},
	}
}

// cut breaks the connections; what it returns mends them. They are mended with
// the fact at the latest.
func (t *Trial) cut() func() {
	var mend func()
	err := t.call("cut the broker off", func() (err error) {
		mend, err = t.Harness.Cut(t.ctx)

		return err
	})
	if err != nil {
		t.Unknownf("cut the broker off: %v", err)
	}
	t.mu.Lock()
	t.closers = append(t.closers, func() error { mend(); return nil })
	t.mu.Unlock()
	t.Notef("the broker is cut off")

	return func() {
		t.Notef("the broker can be reached again")
		mend()
	}
}

// pause lets some time pass for which there is no signal.
func (t *Trial) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
		t.Unknownf("the fact's deadline was over")
	}
}

// PublishAnyway publishes messages one by one, each as often as it takes.
func (t *Trial) PublishAnyway(messages ...*message.Message) {
	for _, msg := range messages {
		for began := time.Now(); ; t.pause(50 * time.Millisecond) {
			err := t.TryPublish(t.Topic, cloned(msg))
			if err == nil {
				break
			}
			if time.Since(began) > t.Again() {
				t.Lacksf("the publisher did not recover: %s", short(err.Error()))
			}
		}
	}
}

// checkCutPublishing has a publisher at work while the broker goes and comes.
func checkCutPublishing(t *Trial) Observation {
	const before, outage = 5, time.Second
	t.Subscribe(groupOne).AckEverything()
	t.Publish(t.Message("first"))
	pub := t.Publisher()
	messages := t.Messages("a", 2000)
	var taken []*message.Message
	failed := 0
	some, mended, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		var last error
		again := 0 // taken after the end of the outage
		for i, msg := range messages {
			isMended := isClosed(mended)
			t.history.add(published, msg, "", 0, "")
			if last = t.safely(func() error { return pub.Publish(t.Topic, msg) }); last != nil {
				t.history.add(refused, msg, "", 0, short(last.Error()))
				failed++
			} else {
				taken = append(taken, msg)
			}
			if last == nil && isMended {
				again++
			}
			if i == before {
				close(some)
			}
			if again >= before || t.ctx.Err() != nil {
				break
			}
			t.rest(10 * time.Millisecond)
		}
		if again < before && last == nil {
			last = errors.New("it took everything before the outage was over")
		} else if again >= before {
			last = nil
		}
		done <- last
	}()
	_ = t.call("publish before the cut", func() error { <-some; return nil }) // there is no error
	mend := t.cut()
	t.pause(outage)
	mend()
	close(mended)
	if err := t.call("publish after the cut", func() error { return <-done }); err != nil {
		return Lacks("the publisher did not recover: %s", short(err.Error()))
	}
	t.MustAck(groupOne, taken)

	return HoldsWith("%d were taken, %d refused", len(taken), failed)
}

// rest waits a little, or until the fact is over.
func (t *Trial) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// checkCutReceiving has a handler end in the middle of an outage.
func checkCutReceiving(t *Trial, outage time.Duration, end func(d *Delivery) bool) Observation {
	c := t.Subscribe(groupOne)
	before, after := t.Interleaved(3, "a", "b"), t.Interleaved(3, "a", "b")
	t.Publish(before...)
	c.Next().Ack()
	held := c.Next()
	mend := t.cut()
	t.pause(outage / 2)
	end(held) // an ack may count or not, as it is the handler's; a nack may not
	t.pause(outage / 2)
	mend()
	began := time.Now()
	c.AckEverything()
	t.PublishAnyway(after...)
	t.MustAck(groupOne, append(before, after...))

	return HoldsWith("flowing again after %v", time.Since(began).Round(time.Second/10))
}
