package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Consumer is one subscription of a trial.
type Consumer struct {
	Group  string
	Number int // of the trial's consumers, from 1

	trial    *Trial
	sub      message.Subscriber
	messages <-chan *message.Message
	cancel   context.CancelFunc
	process  Process // nil for one of this process

	mu      sync.Mutex
	inHand  map[*Delivery]bool
	pumping chan struct{} // closed when Handle's loop has ended; nil without
	closed  chan struct{} // closed when Close has returned; nil before it began
}

// Delivery is one message as it came.
type Delivery struct {
	*message.Message

	Name     string // as in histories: key-number
	consumer *Consumer
}

// Subscribe hears the fact's topic as a group.
func (t *Trial) Subscribe(group string) *Consumer { return t.SubscribeTo(t.Topic, group) }

// SubscribeTo hears a topic as a group.
func (t *Trial) SubscribeTo(topic, group string) *Consumer {
	c, err := t.TrySubscribe(topic, group)
	if err != nil {
		t.Unknownf("subscribe as group %s: %v", group, err)
	}

	return c
}

// TrySubscribe hears a topic as a group, or returns why that can't be.
func (t *Trial) TrySubscribe(topic, group string) (*Consumer, error) {
	sub, err := t.OpenSubscriber(group)
	if err != nil {
		return nil, fmt.Errorf("open a subscriber: %w", err)
	}

	return t.SubscribeBy(t.ctx, sub, topic, group)
}

// OpenSubscriber opens a subscriber, which is closed with the fact.
func (t *Trial) OpenSubscriber(group string) (message.Subscriber, error) {
	var sub message.Subscriber
	err := t.call("open a subscriber", func() (err error) {
		opened, err := t.Harness.Subscriber(t.ctx, t.groupName(group))
		if err == nil && opened == nil {
			err = errors.New("the harness returned no subscriber")
		}
		sub = opened

		return err
	})
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closers = append(t.closers, sub.Close)

	return sub, nil
}

// SubscribeBy hears a topic through a subscriber that is open. The subscription
// ends with the context too.
func (t *Trial) SubscribeBy(ctx context.Context, sub message.Subscriber, topic, group string) (*Consumer, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &Consumer{Group: group, trial: t, sub: sub, cancel: cancel, inHand: map[*Delivery]bool{}}
	err := t.call("subscribe", func() (err error) {
		messages, err := sub.Subscribe(ctx, topic)
		if err == nil && messages == nil {
			err = errors.New("Subscribe returned no channel")
		}
		c.messages = messages

		return err
	})
	if err != nil {
		cancel()

		return nil, fmt.Errorf("subscribe: %w", err)
	}
	t.mu.Lock()
	t.consumers = append(t.consumers, c)
	c.Number = len(t.consumers)
	t.mu.Unlock()
	t.Notef("consumer %d of group %s has subscribed", c.Number, group)

	return c, nil
}

// Next waits for the next message; that none comes is a lack.
func (c *Consumer) Next() *Delivery { return c.NextWithin(c.trial.Harness.Patience) }

// NextAgain is Next for a message that was delivered before.
func (c *Consumer) NextAgain() *Delivery { return c.NextWithin(c.trial.Again()) }

// NextWithin is Next with a patience of its own.
func (c *Consumer) NextWithin(patience time.Duration) *Delivery {
	d, open := c.poll(patience)
	switch {
	case d != nil:
		return d
	case !open:
		c.trial.Lacksf("the subscription of consumer %d ended by itself", c.Number)
	default:
		c.trial.Lacksf("no message came to consumer %d of group %s within %v", c.Number, c.Group, patience)
	}

	return nil
}

// None waits for the harness's quiet time, and returns what came all the same.
func (c *Consumer) None() *Delivery {
	d, _ := c.poll(c.trial.Harness.Quiet)

	return d
}

func (c *Consumer) poll(patience time.Duration) (d *Delivery, open bool) {
	t := c.trial
	t.setDoing(fmt.Sprintf("a message for consumer %d of group %s", c.Number, c.Group))
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case msg, open := <-c.messages:
		if !open {
			return nil, false
		}

		return c.take(msg), true
	case <-timer.C:
		return nil, true
	case <-t.ctx.Done():
		t.Unknownf("the fact's deadline was over, waiting for a message")

		return nil, true
	}
}

func (c *Consumer) take(msg *message.Message) *Delivery {
	if msg == nil {
		c.trial.Lacksf("%s", c.gaveNil())
	}
	d := &Delivery{Message: msg, Name: c.trial.history.of(msg).name, consumer: c}
	c.mu.Lock()
	c.inHand[d] = true
	c.mu.Unlock()
	c.trial.history.add(received, msg, c.Group, c.Number, "")

	return d
}

// gaveNil is what is wrong with adapters that read on from a closed channel.
func (c *Consumer) gaveNil() string {
	return fmt.Sprintf("the subscription of consumer %d gave nil instead of a message", c.Number)
}

// AckAll acks messages until each of some has come, in any number of copies.
func (c *Consumer) AckAll(messages []*message.Message) { c.ackAll(messages, func(*Delivery) {}) }

// ackSame is AckAll for messages that must be as they were.
func (c *Consumer) ackSame(messages []*message.Message) Observation {
	o := Holds()
	c.ackAll(messages, func(d *Delivery) {
		for _, want := range messages {
			if same := sameAs(d, want); o.Holds && d.UUID == want.UUID && !same.Holds {
				o = Lacks("%s: %s", d.Name, same.Note).Of(c.trial.history.of(want).key)
			}
		}
	})

	return o
}

func (c *Consumer) ackAll(messages []*message.Message, look func(d *Delivery)) {
	left := map[string]bool{}
	for _, msg := range messages {
		left[c.trial.history.of(msg).name] = true
	}
	for len(left) > 0 {
		d, open := c.poll(c.trial.Again())
		if d == nil {
			why := "did not come"
			if !open {
				why = "did not come before the subscription ended by itself"
			}
			for _, msg := range messages {
				if e := c.trial.history.of(msg); left[e.name] {
					c.trial.Lack(Lacks("%d of %d messages, %s among them, %s", len(left), len(messages), e.name, why).Of(e.key))
				}
			}
		}
		delete(left, d.Name)
		look(d)
		d.Ack()
	}
}

// Handle starts to hand each message to f in a goroutine of its own, as a
// watermill router does, until the subscription ends. f acks or nacks; it must
// return when Delivery.Over is closed.
func (c *Consumer) Handle(f func(d *Delivery)) {
	pumping := make(chan struct{})
	c.mu.Lock()
	c.pumping = pumping
	c.mu.Unlock()
	go func() {
		var handlers sync.WaitGroup
		defer close(pumping)
		defer handlers.Wait()
		for msg := range c.messages {
			if msg == nil {
				c.trial.spoil(c.gaveNil()) // and not read on, for what may never end

				return
			}
			d := c.take(msg)
			handlers.Go(func() { f(d) })
		}
	}()
}

// AckEverything handles each message by acking it.
func (c *Consumer) AckEverything() { c.Handle(func(d *Delivery) { d.Ack() }) }

// Over is closed when the fact is over.
func (d *Delivery) Over() <-chan struct{} { return d.consumer.trial.ctx.Done() }

// Work takes some time, as a handler does, and returns early when the fact or
// the delivery is over.
func (d *Delivery) Work(for_ time.Duration) { //nolint:revive // "for" is the word
	timer := time.NewTimer(for_)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.Over():
	}
}

// Ack acks, and returns whether watermill took it. The history has it first: the
// broker may answer with the next message at once.
func (d *Delivery) Ack() bool {
	if d.let() {
		d.consumer.trial.history.add(acked, d.Message, d.consumer.Group, d.consumer.Number, "")
	}

	return d.Message.Ack()
}

// Nack nacks, in the same way.
func (d *Delivery) Nack() bool {
	if d.let() {
		d.consumer.trial.history.add(nacked, d.Message, d.consumer.Group, d.consumer.Number, "")
	}

	return d.Message.Nack()
}

// GiveUp notes that whoever had the message in hand has let it go without a
// word, as a crashed process does.
func (d *Delivery) GiveUp() {
	if d.let() {
		d.consumer.trial.history.add(gaveUp, d.Message, d.consumer.Group, d.consumer.Number, "")
	}
}

func (d *Delivery) let() bool {
	d.consumer.mu.Lock()
	defer d.consumer.mu.Unlock()
	had := d.consumer.inHand[d]
	delete(d.consumer.inHand, d)

	return had
}

// Close closes the consumer's subscriber and waits for it; that it doesn't
// return in the harness's patience is a lack.
func (c *Consumer) Close() {
	closed := c.StartClose()
	timer := time.NewTimer(c.trial.Harness.Patience)
	defer timer.Stop()
	c.trial.setDoing("Close to return")
	select {
	case <-closed:
	case <-timer.C:
		c.trial.Lacksf("Close of consumer %d did not return within %v", c.Number, c.trial.Harness.Patience)
	case <-c.trial.ctx.Done():
		c.trial.Unknownf("the fact's deadline was over, waiting for Close")
	}
}

// StartClose begins to close the consumer's subscriber; the channel is closed
// when that is done.
func (c *Consumer) StartClose() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return c.closed
	}
	c.trial.Notef("consumer %d of group %s begins to close", c.Number, c.Group)
	closed := make(chan struct{})
	c.closed = closed
	go func() {
		defer close(closed)
		if err := c.trial.safely(c.sub.Close); err != nil {
			c.trial.Notef("closing consumer %d: %v", c.Number, err)
		}
		c.trial.Notef("consumer %d has closed", c.Number)
	}()

	return closed
}

// Drop closes the consumer as if its process had died: what it has in hand is
// never acked.
func (c *Consumer) Drop() {
	closed := c.StartClose()
	timer := time.NewTimer(c.trial.Harness.Patience)
	defer timer.Stop()
	messages := c.messages
	c.mu.Lock()
	if c.pumping != nil {
		messages = nil // Handle's loop reads it
	}
	c.mu.Unlock()
	for {
		select {
		case msg, open := <-messages:
			if open {
				c.take(msg)

				continue
			}
			messages = nil
		case <-closed:
			c.giveUpAll()

			return
		case <-timer.C:
			c.trial.Lacksf("Close of consumer %d did not return within %v", c.Number, c.trial.Harness.Patience)
		case <-c.trial.ctx.Done():
			c.trial.Unknownf("the fact's deadline was over, waiting for Close")
		}
	}
}

func (c *Consumer) giveUpAll() {
	for _, d := range c.deliveries() {
		d.GiveUp()
	}
}

func (c *Consumer) deliveries() []*Delivery {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Delivery
	for d := range c.inHand {
		all = append(all, d)
	}

	return all
}

// Ended waits for the end of the subscription's channel, and returns whether it
// came.
func (c *Consumer) Ended(patience time.Duration) bool {
	for {
		d, open := c.poll(patience)
		if !open {
			return true
		}
		if d == nil {
			return false
		}
		d.Nack()
	}
}
