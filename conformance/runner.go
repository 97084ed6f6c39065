package conformance

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"
)

// runner tries facts side by side.
type runner struct {
	harness Harness
	ctx     context.Context //nolint:containedctx // a runner is as short-lived as a call

	started func(fact string) // optional

	rooms    *rooms
	slots    chan struct{}
	busy     chan struct{} // for facts that keep the machine busy, beside a slot
	quiet    sync.RWMutex  // facts that break the broker of all others lock it
	breaking sync.Mutex    // facts that break the harness's own broker lock it
	own      func() (Harness, error)

	mu     sync.Mutex
	dead   string          // why the broker can't be asked any more
	topics map[string]bool // that the harness has made
	once   sync.Once
}

// newRunner checks the harness. The context ends all facts.
func newRunner(ctx context.Context, h Harness) (*runner, error) {
	h, err := h.withDefaults()
	if err != nil {
		return nil, err
	}

	r := &runner{
		harness: h, ctx: ctx, rooms: newRooms(), slots: make(chan struct{}, h.Parallel), topics: map[string]bool{},
		busy: make(chan struct{}, max(1, h.Parallel/2)),
	}
	r.own = sync.OnceValues(r.openOwnInTime)

	return r, nil
}

// start tries a fact when there is room, and returns where its result comes.
func (r *runner) start(f Fact) <-chan Result {
	result := make(chan Result, 1)
	go func() { result <- r.run(f) }()

	return result
}

func (r *runner) run(f Fact) Result {
	if f.Missing != nil {
		if missing := f.Missing(r.harness); missing != "" {
			return r.result(f, outcome{unknown: missing}, 0)
		}
	}
	if err := r.rooms.enter(r.ctx, f.Busy); err == nil {
		defer r.rooms.leave()
	}
	if f.Busy {
		r.busy <- struct{}{}
		defer func() { <-r.busy }()
	}
	ownBroker := f.Breaks && r.harness.Own != nil
	if ownBroker {
		r.breaking.Lock() // before the slot: who waits for it takes none
		defer r.breaking.Unlock()
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-r.ctx.Done():
		return r.result(f, outcome{unknown: "the run was ended before the fact's turn", broken: true}, 0)
	}
	if f.Breaks && !ownBroker {
		r.quiet.Lock()
		defer r.quiet.Unlock()
	} else {
		r.quiet.RLock()
		defer r.quiet.RUnlock()
	}

	began := time.Now()
	if r.started != nil {
		r.started(f.Name)
	}
	r.once.Do(func() { r.probe("at the beginning") })
	if why := r.isDead(); why != "" {
		return r.result(f, outcome{unknown: why, broken: true}, 0)
	}
	h := r.harness
	if ownBroker {
		own, err := r.own()
		if err != nil {
			return r.result(f, outcome{unknown: fmt.Sprintf("a broker of its own: %v", err), broken: true}, time.Since(began))
		}
		if missing := f.Missing(own); missing != "" {
			return r.result(f, outcome{unknown: missing}, 0)
		}
		h = own
	}

	return r.result(f, r.tryBoth(h, f), time.Since(began))
}

// tryBoth tries a fact on the broker, and with Headrace where it lacks.
func (r *runner) tryBoth(h Harness, f Fact) outcome {
	o := r.try(h, f.Check, f.deadline(h))
	if o.broken && r.ctx.Err() != nil {
		return outcome{unknown: "the run was ended while the fact was being tried", broken: true, left: o.left}
	}
	if o.unknown == "" && !o.Holds || o.broken {
		// A broker that is gone breaks everything: then nothing is known.
		if why := r.probe("after " + f.Name); why != "" {
			o.unknown, o.broken = fmt.Sprintf("%s (what was seen before: %s)", why, firstOf(o.unknown, o.Note)), true
		}
	}
	if o.unknown == "" && !o.Holds && !f.declared(h) && f.ByHeadrace != nil && !h.Bare {
		fallback := r.try(h, f.ByHeadrace, f.deadline(h))
		o.fallback = &fallback
	}

	return o
}

// openOwnInTime is openOwn that neither panics nor takes longer than a fact.
func (r *runner) openOwnInTime() (Harness, error) {
	t := &Trial{history: newHistory()}
	var deadline context.CancelFunc
	t.ctx, deadline = context.WithTimeout(r.ctx, Fact{}.deadline(r.harness))
	defer deadline()
	opened := make(chan Harness, 1)
	err, finished := t.callWithin("open it", nil, func() error {
		own, err := r.openOwn()
		opened <- own

		return err
	})
	switch {
	case !finished:
		return Harness{}, fmt.Errorf("the harness's Own did not return within %v", Fact{}.deadline(r.harness))
	case err != nil:
		return Harness{}, err
	}

	return <-opened, nil
}

// openOwn opens the harness's own broker, with what it has in common with the
// shared one.
func (r *runner) openOwn() (Harness, error) {
	own, err := r.harness.Own(r.ctx)
	if err != nil {
		return own, err
	}
	h := r.harness
	h.Own, h.Publisher, h.Subscriber, h.DeleteTopic = nil, own.Publisher, own.Subscriber, own.DeleteTopic
	h.Restart, h.Cut, h.State, h.Topic = own.Restart, own.Cut, own.State, own.Topic

	return h.withDefaults()
}

// outcome is what came of trying a fact.
type outcome struct {
	Observation

	unknown  string // why there is no observation
	broken   bool   // unknown because something went wrong, not for want of a hook
	history  []string
	state    string
	topic    string
	left     string // what didn't end in time
	fallback *outcome
}

// try runs a check with a topic of its own, and never longer than its deadline
// and the time to clean up.
func (r *runner) try(h Harness, check func(*Trial) Observation, deadline time.Duration) (o outcome) {
	ctx, cancel := context.WithTimeout(r.ctx, deadline)
	defer cancel()
	t := &Trial{
		Harness: h, Capabilities: h.Capabilities, ctx: ctx, mark: random(), history: newHistory(),
		takeTopic: r.takeTopic,
	}

	done := make(chan outcome, 1)
	// The label is inherited by every goroutine that the fact makes the broker
	// start: that is how those which stay behind are found.
	go pprof.Do(ctx, pprof.Labels(leakLabel, t.label()), func(context.Context) { done <- t.observe(check) })

	const grace = 5 * time.Second // for a fact to notice that its time is over
	timer := time.NewTimer(deadline + grace)
	defer timer.Stop()
	select {
	case o = <-done:
	case <-timer.C:
		t.mu.Lock()
		doing := t.doing
		t.mu.Unlock()
		o.unknown = fmt.Sprintf("not over after its deadline of %v; it was left behind, waiting: %s", deadline, doing)
		o.broken = true
	}
	if o.broken || !o.Holds {
		o.topic = t.Topic
		o.history = t.history.lines(o.Keys)
		o.state = t.state()
	}
	cancel()
	o.left = t.end(r.harness.Patience)

	return o
}

// takeTopic returns what is wrong with a topic's name that the harness has made.
func (r *runner) takeTopic(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if name == "" {
		return errors.New("the harness's Topic returned an empty name")
	}
	if r.topics[name] {
		return fmt.Errorf("the harness's Topic returned %.100q a second time; each call must make one of its own", name)
	}
	r.topics[name] = true

	return nil
}

// observe runs a check up to its verdict.
func (t *Trial) observe(check func(*Trial) Observation) (o outcome) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case verdictReached:
			o = outcome{Observation: p.Observation, unknown: p.unknown, broken: p.unknown != ""}
		default:
			o = outcome{unknown: fmt.Sprintf("panicked: %v\n%s", p, debug.Stack()), broken: true}
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.spoiled != "" {
			o = outcome{Observation: Lacks("%s", t.spoiled)}
		}
		if o.broken && errors.Is(t.ctx.Err(), context.DeadlineExceeded) {
			o.unknown += "; if the broker is merely slow, give it more Patience"
		}
	}()
	t.Topic = t.NewTopic()
	o.Observation = check(t)
	if err := t.ctx.Err(); err != nil && !o.Holds {
		return outcome{unknown: "the fact's deadline was over: " + o.Note, broken: true}
	}

	return o
}

// state asks the broker itself about a fact that didn't hold.
func (t *Trial) state() string {
	if t.Harness.State == nil || t.Topic == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), t.Harness.Patience)
	defer cancel()
	said := make(chan string, 1)
	go func() {
		var state string
		err := t.safely(func() (err error) {
			state, err = t.Harness.State(ctx, t.Topic, t.groupName(groupOne))

			return err
		})
		if err != nil {
			state = "can't tell: " + err.Error()
		}
		said <- state
	}()
	select {
	case state := <-said:
		return state
	case <-ctx.Done():
		return "no answer"
	}
}

// probe asks whether the broker takes and delivers a single message, and if it
// doesn't, says so from then on.
func (r *runner) probe(when string) string {
	if why := r.isDead(); why != "" {
		return why
	}
	o := r.try(r.harness, func(t *Trial) Observation {
		c := t.Subscribe(groupOne)
		t.Publish(t.Message("probe"))
		c.Next().Ack()

		return Holds()
	}, 2*r.harness.Patience)
	if o.Holds {
		return ""
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(r.ctx.Err(), context.Canceled) {
		return "the run was ended"
	}
	r.dead = fmt.Sprintf("the broker did not take and deliver a single message %s: %s", when, firstOf(o.unknown, o.Note))

	return r.dead
}

func (r *runner) isDead() string {
	r.mu.Lock()
	defer r.mu.Unlock()

	return r.dead
}

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}

	return ""
}
