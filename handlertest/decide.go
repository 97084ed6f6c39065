package handlertest

import (
	"fmt"
	"slices"
)

// decide chooses what happens to a delivery at a gate.
func (t *trial) decide(d *delivery) error {
	o := d.op
	switch c := t.choose(t.choices(d)...); c.fault {
	case crash:
		t.story.add(d, "the process stops "+d.where()+", before the ack")
		t.lose(d)
		return nil
	case fails:
		d.disturbed = true
		d.state, d.order = ready, fmt.Errorf("%w: %s", errInjected, o.words(d.statements+1))
		t.story.add(d, o.words(d.statements+1)+" fails")
		t.passes(d)
		return nil
	case unanswered:
		d.disturbed = true
		d.state, d.order = ready, errUnanswered
		t.story.add(d, o.words(0)+" takes effect, but its connection is lost, and it returns an error")
		t.passes(d)
		return nil
	case meanwhile:
		d.disturbed = true
		t.passes(d)
		t.story.add(d, d.whereBefore()+", meanwhile:")
		return t.deliver(c.message, 1-slices.Index(t.slots[:], d.process))
	case resume:
		t.passes(d)
		t.story.add(d, d.whereBefore()+" the other one goes on:")
		t.current = t.other(d)
		return nil
	case again, early, resent: // no choices of a gate
	}
	t.passes(d)
	return nil
}

// passes lets the delivery do what it asks for.
func (t *trial) passes(d *delivery) {
	if d.state == atGate {
		d.state, d.order = ready, nil
	}
	d.before = d.done
	d.beforeCount = d.statements
	if d.op.kind == statement {
		d.statements++
	}
	d.done = d.op
}

// choices are the faults that are possible at a delivery's gate.
func (t *trial) choices(d *delivery) []choice {
	choices := []choice{{fault: crash}}
	switch d.op.kind {
	case statement, publish:
		choices = append(choices, choice{fault: fails})
	case commit:
		choices = append(choices, choice{fault: fails}, choice{fault: unanswered})
	case taken, ack: // others could as well come before or after
		return choices
	}
	if other := t.other(d); other != nil {
		if other.state == ready || other.state == atGate {
			choices = append(choices, choice{fault: resume})
		}
		return choices
	}
	choices = append(choices, choice{fault: meanwhile, message: d.message})
	msgs := t.env.c.Messages
	for _, i := range t.free() {
		if !t.env.c.tied(msgs[i], msgs[d.message]) {
			choices = append(choices, choice{fault: meanwhile, message: i})
		}
	}
	return choices
}

// other is the delivery that is at work beside this one, or nil.
func (t *trial) other(d *delivery) *delivery {
	for _, o := range t.active {
		if o != d {
			return o
		}
	}
	return nil
}

// remove takes a delivery out of its process's hands.
func (t *trial) remove(d *delivery) {
	d.cancel()
	d.process.handles(nil)
	t.active = slices.DeleteFunc(t.active, func(o *delivery) bool { return o == d })
	t.current = nil
	if len(t.active) > 0 {
		t.current = t.active[0]
	}
}

// lose stops a delivery's process. The message comes again.
func (t *trial) lose(d *delivery) {
	p := d.process
	p.stop()
	t.slots[slices.Index(t.slots[:], p)] = nil
	t.active = slices.DeleteFunc(t.active, func(o *delivery) bool { return o == d })
	t.current = nil
	if len(t.active) > 0 {
		t.current = t.active[0]
	}
	t.inbox[d.message].acked = false
}

// finish hears of a handler's end.
func (t *trial) finish(d *delivery) {
	t.remove(d)
	state := &t.inbox[d.message]
	if d.err == nil {
		state.acked, state.failures = true, 0
		t.story.add(d, "it is handled and acked")
		return
	}
	state.acked = false
	t.story.add(d, "the handler fails: "+d.err.Error())
	if !d.disturbed {
		state.failures++
	}
	if state.failures >= attempts {
		t.breaks(fmt.Sprintf("m%d is never handled", d.message+1), d.err)
	}
}
