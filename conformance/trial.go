package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// Trial is one fact being tried: a topic of its own, and helpers that wait by
// signals. Methods end the fact at once when something can't go on (a call that
// fails makes it unknown, a message that doesn't come makes it lack), and may
// therefore only be called by the goroutine that runs the fact.
type Trial struct {
	Harness      Harness
	Capabilities brokers.Capabilities
	Topic        string

	ctx     context.Context //nolint:containedctx // a trial is as short-lived as a call
	mark    string          // tells its groups from those of other facts
	history *history
	// takeTopic refuses names that no topic of a fact's own can have.
	takeTopic func(name string) error

	mu        sync.Mutex
	doing     string // what the fact waits for
	spoiled   string // what was seen beside the fact and must not be
	publisher message.Publisher
	consumers []*Consumer
	closers   []func() error
	topics    []string
}

// verdictReached ends a fact from any depth.
type verdictReached struct {
	Observation

	unknown string
}

// Unknownf ends the fact without a verdict.
func (t *Trial) Unknownf(format string, args ...any) {
	panic(verdictReached{unknown: fmt.Sprintf(format, args...)})
}

// Lack ends the fact with the observation that it isn't true.
func (t *Trial) Lack(o Observation) { panic(verdictReached{Observation: o}) }

// Lacksf is Lack for what concerns all keys.
func (t *Trial) Lacksf(format string, args ...any) { t.Lack(Lacks(format, args...)) }

// spoil has the fact lack, whatever it finds out. Any goroutine may call it.
func (t *Trial) spoil(by string) {
	t.Notef("%s", by)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spoiled = firstOf(t.spoiled, by)
}

// Notef puts a line into the history.
func (t *Trial) Notef(format string, args ...any) {
	t.history.add(noted, nil, "", 0, fmt.Sprintf(format, args...))
}

// Context ends with the fact.
func (t *Trial) Context() context.Context { return t.ctx }

// call runs what may block without regard for a context. At the fact's deadline
// it is left behind.
func (t *Trial) call(doing string, f func() error) error {
	err, finished := t.callWithin(doing, nil, f)
	if !finished {
		t.Unknownf("%s did not return before the fact's deadline", doing)
	}

	return err
}

// callWithin is call with a bound of its own; finished is false when it is over.
//
//nolint:revive // the error is the call's, not this function's
func (t *Trial) callWithin(doing string, over <-chan time.Time, f func() error) (err error, finished bool) {
	t.setDoing(doing)
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- fmt.Errorf("%s panicked: %v", doing, p)
			}
		}()
		result <- f()
	}()
	select {
	case err := <-result:
		return err, true
	case <-over:
		return nil, false
	case <-t.ctx.Done():
		return nil, false
	}
}

func (t *Trial) setDoing(doing string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doing = doing
}

// Message makes the next message of a key; "" is none. Its name in histories is
// key-number, and its payload that name as JSON, which every broker takes.
func (t *Trial) Message(key string) *message.Message {
	return t.MessageWith(key, nil)
}

// MessageWith makes the next message of a key with a payload; nil is its name, quoted.
func (t *Trial) MessageWith(key string, payload []byte) *message.Message {
	shown := key
	if shown == "" {
		shown = "(no key)"
	}
	name := fmt.Sprintf("%s-%d", shown, t.history.next(key))
	if payload == nil {
		payload = []byte(strconv.Quote(name))
		if limit := t.Capabilities.MaxBody; limit > 0 && len(payload) > limit {
			payload = []byte(strconv.Itoa(t.history.next(key)))
		}
	}
	msg := message.NewMessage(watermill.NewUUID(), payload)
	msgmeta.SetKey(msg, key)
	t.history.register(msg, key, name)

	return msg
}

// cloned returns a copy with a payload of its own, which message.Copy doesn't
// give it.
func cloned(msg *message.Message) *message.Message {
	c := msg.Copy()
	c.Payload = bytes.Clone(msg.Payload)

	return c
}

// Messages makes the next n messages of a key.
func (t *Trial) Messages(key string, n int) []*message.Message {
	all := make([]*message.Message, n)
	for i := range all {
		all[i] = t.Message(key)
	}

	return all
}

// Interleaved makes n messages of each key, in turns.
func (t *Trial) Interleaved(n int, keys ...string) []*message.Message {
	var all []*message.Message
	for range n {
		for _, key := range keys {
			all = append(all, t.Message(key))
		}
	}

	return all
}

// Publish sends messages one call each, in order.
func (t *Trial) Publish(messages ...*message.Message) {
	for _, msg := range messages {
		t.PublishBatch(msg)
	}
}

// PublishBatch sends messages in one call.
func (t *Trial) PublishBatch(messages ...*message.Message) {
	if err := t.TryPublish(t.Topic, messages...); err != nil {
		t.Unknownf("publish: %v", err)
	}
}

// TryPublish sends messages to a topic in one call, and returns what the
// publisher said.
func (t *Trial) TryPublish(topic string, messages ...*message.Message) error {
	pub := t.Publisher()
	for _, msg := range messages {
		t.history.add(published, msg, "", 0, "")
	}
	err := t.call("publish", func() error { return pub.Publish(topic, messages...) })
	if err != nil {
		for _, msg := range messages {
			t.history.add(refused, msg, "", 0, short(err.Error()))
		}
	}

	return err
}

// Publisher opens the fact's publisher, at the first call.
func (t *Trial) Publisher() message.Publisher {
	t.mu.Lock()
	pub := t.publisher
	t.mu.Unlock()
	if pub != nil {
		return pub
	}

	err := t.call("open a publisher", func() error {
		opened, err := t.Harness.Publisher(t.ctx)
		if err == nil && opened == nil {
			err = errors.New("the harness returned none")
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.publisher = opened

		return err
	})
	if err != nil {
		t.Unknownf("open a publisher: %v", err)
	}

	return t.Publisher()
}

// ReopenPublisher closes the fact's publisher. The next publish opens another.
func (t *Trial) ReopenPublisher() {
	pub := t.Publisher()
	if err := t.call("close the publisher", pub.Close); err != nil {
		t.Unknownf("close the publisher: %v", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publisher = nil
}

// NewTopic makes a further topic.
func (t *Trial) NewTopic() string {
	var topic string
	err := t.call("make a topic", func() (err error) {
		topic, err = t.Harness.Topic(t.ctx)
		if err == nil {
			err = t.takeTopic(topic)
		}
		if err == nil {
			t.UsesTopic(topic) // before the fact can end, which would forget it
		}

		return err
	})
	if err != nil {
		t.Unknownf("make a topic: %v", err)
	}

	return topic
}

// groupName is a group's name for the broker. Each fact has groups of its own:
// where one spans topics, as Kafka's do, a consumer that comes, goes or freezes
// in one fact would interrupt those of all others.
func (t *Trial) groupName(group string) string { return group + "_" + t.mark }

// UsesTopic has a topic removed at the end.
func (t *Trial) UsesTopic(topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.topics = append(t.topics, topic)
}

// Until waits for something in the history, for as long as the broker may take
// to deliver (or to deliver again); it returns whether it came.
func (t *Trial) Until(doing string, patience time.Duration, is func(events []event) bool) bool {
	t.setDoing(doing)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		events, changed := t.history.now()
		if is(events) {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-t.ctx.Done():
			t.Unknownf("the fact's deadline was over, waiting: %s", doing)
		}
	}
}

// MustAck waits until a group has acked each of some messages.
func (t *Trial) MustAck(group string, messages []*message.Message) {
	want := map[string]string{}
	for _, msg := range messages {
		e := t.history.of(msg)
		want[e.name] = e.key
	}
	missing := func(events []event) (left []string, key string) {
		done := map[string]bool{}
		for _, name := range names(events, acked, group) {
			done[name] = true
		}
		for _, msg := range messages {
			if name := t.history.of(msg).name; !done[name] {
				left, key = append(left, name), want[name]
			}
		}

		return left, key
	}
	// What comes on the way shows that the broker is at it: the clock begins anew.
	for {
		before := progress(t.events(), group)
		came := t.Until("messages to be handled", t.Again(), func(events []event) bool {
			left, _ := missing(events)

			return len(left) == 0 || progress(events, group) > before
		})
		left, key := missing(t.events())
		if len(left) == 0 {
			return
		}
		if !came {
			t.Lack(Lacks("%d of %d messages did not come to group %s, the last of them %s",
				len(left), len(messages), group, left[len(left)-1]).Of(key))
		}
	}
}

// progress counts what a group has been given and has answered.
func progress(events []event, group string) int {
	return count(events, acked, group) + count(events, nacked, group)
}

// Again is how long another copy of a message may take to come.
func (t *Trial) Again() time.Duration {
	return t.Harness.Patience + min(t.Capabilities.AckDeadline, time.Minute)
}

// events is the history so far.
func (t *Trial) events() []event {
	events, _ := t.history.now()

	return events
}

func short(text string) string {
	const most = 300
	if len(text) > most {
		return text[:most] + "…"
	}

	return text
}
