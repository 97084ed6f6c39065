package handlertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

const (
	// patience is how long an instance may take to its next gate, before another
	// one that could go on does: it may be waiting for a lock of that one which the
	// database knows nothing of. Thinking so wrongly, on a machine that is slow,
	// breaks nothing that holds, but can hide what doesn't: then both run at once.
	patience = time.Second
	// limit is how long nothing may happen at all.
	limit = 30 * time.Second
	// attempts is how often in a row a message's handler may fail by itself.
	attempts = 3
)

// trial is one run: it delivers messages by a plan, from one goroutine, that lets
// one instance at a time go on.
type trial struct {
	ctx       context.Context //nolint:containedctx // of one run
	cancel    context.CancelFunc
	env       *environment
	protected bool
	plan      plan

	// point is the number of the next point where there is something to choose;
	// further are the choices that there are behind the plan's last.
	point   int
	further []choice
	// taken is how many of the plan's choices there were.
	taken int

	inbox []inboxState
	// slots hold the instances: the first handles messages in turn, the second
	// comes in meanwhile.
	slots     [2]*process
	processes []*process
	active    []*delivery
	current   *delivery
	events    chan event
	working   sync.WaitGroup

	mu        sync.Mutex
	published []Published

	story  story
	broken error
}

// inboxState is what the broker knows of a message.
type inboxState struct {
	acked      bool
	deliveries int
	failures   int // in a row, without anybody's doing
}

// outcome is what came of a run.
type outcome struct {
	story   []string
	broken  error
	further []choice
	taken   int
}

// run tries one plan. The error says that trying was not possible.
func (e *environment) run(ctx context.Context, protected bool, p plan) (outcome, error) {
	if err := e.reset(ctx); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &trial{
		ctx: ctx, cancel: cancel, env: e, protected: protected, plan: p,
		inbox: make([]inboxState, p.sent), events: make(chan event),
	}
	err := t.play()
	return outcome{t.story.lines, t.broken, t.further, t.taken}, errors.Join(err, t.end())
}

func (t *trial) play() error {
	for t.broken == nil {
		if len(t.active) == 0 {
			more, err := t.deliverNext()
			if err != nil {
				return err
			}
			if !more {
				break
			}
		}
		if err := t.advance(); err != nil {
			return err
		}
	}
	if t.protected && t.broken == nil {
		if err := t.relay(); err != nil {
			return err
		}
	}
	if t.broken == nil {
		t.breaks("the invariant is broken", t.env.c.Invariant(t.ctx, t.state()))
	}
	return t.ctx.Err()
}

// end releases what is held, waits for it to end and frees it.
func (t *trial) end() error {
	for _, p := range t.processes {
		p.mu.Lock()
		p.stopped = true
		p.mu.Unlock()
		p.release()
	}
	t.cancel()
	ended := make(chan struct{})
	go func() { t.working.Wait(); close(ended) }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		return fmt.Errorf("handlertest: a handler has not returned, %s after its context was cancelled", limit)
	}
	var err error
	for _, p := range t.processes {
		err = errors.Join(err, p.close())
	}
	return err
}

// choose asks the plan what happens at this point. None of the choices is the
// ordinary course.
func (t *trial) choose(choices ...choice) choice {
	at := t.point
	t.point++
	for _, c := range t.plan.choices {
		if c.at != at {
			continue
		}
		for _, possible := range choices {
			possible.at = at
			if possible == c {
				t.taken++
				return c
			}
		}
	}
	if at > t.plan.last() {
		for _, c := range choices {
			c.at = at
			t.further = append(t.further, c)
		}
	}
	return choice{}
}

// free lists what the broker may deliver now, beside what is in hand.
func (t *trial) free() (next []int) {
	msgs := t.env.c.Messages
	for i := range t.inbox {
		if t.inbox[i].acked || t.inHand(i) {
			continue
		}
		if !slices.ContainsFunc(msgs[:i], func(before *message.Message) bool {
			return !t.inbox[slices.Index(msgs, before)].acked && t.env.c.tied(before, msgs[i])
		}) {
			next = append(next, i)
		}
	}
	return next
}

func (t *trial) inHand(i int) bool {
	return slices.ContainsFunc(t.active, func(d *delivery) bool { return d.message == i })
}

// deliverNext hands out a message when nobody is at work.
func (t *trial) deliverNext() (more bool, err error) {
	next := t.free()
	var choices []choice
	for i := range t.inbox {
		if t.inbox[i].acked {
			choices = append(choices, choice{fault: again, message: i})
		}
	}
	for _, i := range next[min(1, len(next)):] {
		choices = append(choices, choice{fault: early, message: i})
	}
	c := t.choose(choices...)
	switch {
	case c.fault != "":
		return true, t.deliver(c.message, 0)
	case len(next) > 0:
		return true, t.deliver(next[0], 0)
	}
	return false, nil
}

// deliver starts the delivery of a message to an instance.
func (t *trial) deliver(i, slot int) error {
	p := t.slots[slot]
	if p == nil {
		var err error
		p, err = t.newProcess([]string{"the first instance", "the second instance"}[slot])
		t.processes = append(t.processes, p)
		if err != nil {
			return err
		}
		t.slots[slot] = p
	}
	sent := t.env.c.Messages[i]
	d := &delivery{
		process: p, message: i, orders: make(chan error), disturbed: len(t.active) > 0,
		copy: message.NewMessage(sent.UUID, slices.Clone(sent.Payload)),
	}
	d.copy.Metadata = maps.Clone(sent.Metadata)
	if d.copy.Metadata == nil {
		d.copy.Metadata = message.Metadata{}
	}
	var ctx context.Context
	ctx, d.cancel = context.WithCancel(t.ctx)
	d.copy.SetContext(ctx)
	t.story.delivered(d, t.inbox[i].deliveries, len(t.active) > 0)
	t.inbox[i].deliveries++
	t.active = append(t.active, d)
	t.current = d
	p.handles(d)
	t.working.Go(d.run)
	return t.await(d)
}

// advance takes one step with the delivery whose turn it is.
func (t *trial) advance() error {
	d := t.turn()
	if d == nil {
		return t.await(nil)
	}
	switch d.state {
	case atGate:
		t.check()
		return t.decide(d)
	case finished:
		t.check()
		t.finish(d)
		return nil
	case ready:
		return t.let(d, d.order)
	case waiting:
		// Nobody else can go on. What it waits for may have been let go of; when it
		// is asked for the second time, it was not.
		order := error(nil)
		if d.retried || len(t.active) > 1 {
			order = errStopped
		}
		d.retried = true
		return t.let(d, order)
	case running:
	}
	return nil
}

// turn returns the delivery that goes on, or nil when all are on their way.
func (t *trial) turn() *delivery {
	order := slices.Clone(t.active)
	if i := slices.Index(order, t.current); i > 0 {
		order[0], order[i] = order[i], order[0]
	}
	var last *delivery
	for _, d := range order {
		switch d.state {
		case atGate, ready, finished:
			return d
		case waiting:
			if last == nil {
				last = d
			}
		case running:
		}
	}
	if slices.ContainsFunc(t.active, func(d *delivery) bool { return d.state == running }) {
		return nil
	}
	return last
}

// let sends a delivery on its way and waits for what comes of it.
func (t *trial) let(d *delivery, order error) error {
	d.state = running
	select {
	case d.orders <- order:
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
	return t.await(d)
}

// await waits until the delivery has got somewhere, or, where there is another
// that could go on, until it seems to wait for that one.
func (t *trial) await(d *delivery) error {
	giveUp := time.NewTimer(limit)
	defer giveUp.Stop()
	dead := time.NewTimer(patience)
	defer dead.Stop()
	var stalled, look <-chan time.Time
	if d != nil && slices.ContainsFunc(t.active, func(o *delivery) bool { return o != d && o.state != running }) {
		timer, ticker := time.NewTimer(patience), time.NewTicker(t.env.lookInterval())
		defer timer.Stop()
		defer ticker.Stop()
		stalled, look = timer.C, ticker.C
	}
	for {
		select {
		case e := <-t.events:
			e.d.state, e.d.op, e.d.err = e.state, e.op, e.err
			switch e.state {
			case atGate:
				e.d.retried = false
			case waiting:
				t.story.waits(e.d)
			case running, ready, finished:
			}
			if d == nil || e.d == d {
				return nil
			}
		case <-look:
			if t.env.locked(t.ctx, d.process) {
				t.story.waits(d)
				return nil
			}
		case <-stalled:
			return nil
		case <-dead.C:
			t.bury()
		case <-giveUp.C:
			return t.stuck()
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

// bury lets the goroutines of stopped processes end: what instances share in this
// program, a lock in a package's variable, must not die locked.
func (t *trial) bury() {
	for _, p := range t.processes {
		if !slices.Contains(t.slots[:], p) {
			p.release()
		}
	}
}

func (t *trial) stuck() error {
	where := make([]string, 0, len(t.active))
	for _, d := range t.active {
		where = append(where, fmt.Sprintf("%s with m%d %s", d.process.name, d.message+1, d.where()))
	}
	return fmt.Errorf("handlertest: nothing has happened for %s: %s; so far:\n%s",
		limit, strings.Join(where, "; "), numbered(t.story.lines))
}

// reached notes a message that the broker has taken.
func (t *trial) reached(topic string, msg *message.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.published = append(t.published, Published{topic, msg.Copy()})
}

func (t *trial) state() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return State{DB: t.env.db, Sent: t.env.c.Messages[:t.plan.sent], Published: slices.Clone(t.published)}
}

// check asks the invariant that holds at any time.
func (t *trial) check() {
	if always := t.env.c.Always; always != nil && t.broken == nil {
		t.breaks("the invariant that always holds is broken", always(t.ctx, t.state()))
	}
}

func (t *trial) breaks(what string, err error) {
	if err != nil && t.broken == nil {
		t.broken = err
		t.story.say(what + ": " + err.Error())
	}
}
