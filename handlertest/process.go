package handlertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Errors that a handler sees.
var (
	errStopped  = errors.New("handlertest: this process has stopped")
	errInjected = errors.New("handlertest: made to fail")
	// errUnanswered is also a gate's order to commit before it is returned.
	errUnanswered = errors.New("handlertest: made to fail: the connection was lost during the commit, before its answer")
)

// process is one instance of the service: a handler with its memory, and the
// connections that are lost with it.
type process struct {
	trial *trial
	name  string

	db      *sql.DB
	store   *store.Store // nil without Headrace
	handler message.HandlerFunc

	// gone is closed when goroutines of a process that has stopped may end.
	gone    chan struct{}
	release func()

	// gating is held by the goroutine of this process that is at a gate.
	gating sync.Mutex

	mu       sync.Mutex
	delivery *delivery
	stopped  bool
	conns    map[*conn]struct{}
	// statements is how many the delivery has run.
	statements int
}

// newProcess starts an instance. What its constructors do passes no gate.
func (t *trial) newProcess(name string) (*process, error) {
	p := &process{trial: t, name: name, conns: map[*conn]struct{}{}, gone: make(chan struct{})}
	p.release = sync.OnceFunc(func() { close(p.gone) })
	p.db = sql.OpenDB(connector{p})
	bare := barePublisher{p}
	app := App{DB: p.db, Publisher: bare, BareDB: p.db, BarePublisher: bare}
	c := t.env.c
	protect := func(h message.HandlerFunc) message.HandlerFunc { return h }
	if t.protected {
		st, err := store.Open(t.ctx, p.db, c.Store)
		if err != nil {
			return p, fmt.Errorf("handlertest: open the store: %w", err)
		}
		p.store = st
		outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{Key: c.Dedupe.Key})
		if err != nil {
			return p, fmt.Errorf("handlertest: %w", err)
		}
		cfg := c.Dedupe
		cfg.Outbox = outbox
		dedupe, err := middleware.NewDedupe(st, cfg)
		if err != nil {
			return p, fmt.Errorf("handlertest: %w", err)
		}
		app.DB, app.Publisher = store.JoinDB(st), gatedPublisher{p, outbox.Publisher()}
		protect = dedupe.Middleware
	}
	p.handler = protect(c.build(app))
	return p, nil
}

// build returns the handler with the publishing that the router does after it.
func (c Case) build(app App) message.HandlerFunc {
	if c.Handler != nil {
		h := c.Handler(app)
		return func(msg *message.Message) ([]*message.Message, error) { return nil, h(msg) }
	}
	h := c.Returning(app)
	return func(msg *message.Message) ([]*message.Message, error) {
		produced, err := h(msg)
		if err != nil {
			return nil, err
		}
		for _, out := range produced {
			out.SetContext(msg.Context())
		}
		return nil, app.Publisher.Publish(c.ReturnTopic, produced...)
	}
}

func (p *process) own(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *process) disown(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *process) handles(d *delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delivery, p.statements = d, 0
}

// alive keeps goroutines of a process that has stopped where they are: a process
// that is killed runs no deferred functions and handles no errors.
func (p *process) alive() error {
	p.mu.Lock()
	stopped := p.stopped
	p.mu.Unlock()
	if !stopped {
		return nil
	}
	<-p.gone
	return errStopped
}

// stop ends the process as a kill does: its goroutines do nothing more, and its
// transactions are undone.
func (p *process) stop() {
	p.mu.Lock()
	p.stopped = true
	conns := p.conns
	p.conns = map[*conn]struct{}{}
	p.mu.Unlock()
	for c := range conns {
		c.kill()
	}
}

// close frees what is left of a process when its goroutines have ended. What is
// idle goes back to the test's database.
func (p *process) close() error {
	var err error
	if p.store != nil {
		err = p.store.Close()
	}
	err = errors.Join(err, p.db.Close())
	p.stop()
	return err
}

// op is what a handler is about to do at a gate.
type op struct {
	kind opKind
	text string // of the statement, the topic, or of what it is the commit
}

type opKind int

const (
	taken opKind = iota // the message has arrived, nothing was done yet
	statement
	commit
	publish
	ack
)

// parse returns a statement in one line, and its first word.
func parse(query string) (words, verb string) {
	words = strings.Join(strings.Fields(query), " ")
	verb, _, _ = strings.Cut(strings.ToUpper(words), " ")
	return words, strings.TrimRight(verb, ";")
}

func commits(query string) bool {
	words, verb := parse(query)
	return verb == "COMMIT" || verb == "END" || words == "SELECT 1; COMMIT"
}

// beforeStatement is the gate before a statement. Headrace's own statements and
// those that open and undo transactions have none: what can happen there can
// happen just as well at the neighbouring gates.
func (c *conn) beforeStatement(query string) error {
	words, verb := parse(query)
	p := c.process
	switch {
	case verb == "BEGIN", verb == "START":
		c.numbers = nil
		return p.alive()
	case isControl[verb], p.trial.protected && strings.Contains(query, p.trial.env.prefix):
		return p.alive()
	}
	if err := p.gate(op{statement, words}); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.statements++
	c.numbers = append(c.numbers, strconv.Itoa(p.statements))
	return nil
}

// beforeCommit is the gate before a commit, which is named by its statements
// where they aren't all that there were.
func (c *conn) beforeCommit() error {
	p := c.process
	p.mu.Lock()
	all, what := p.statements, ""
	p.mu.Unlock()
	switch n := len(c.numbers); {
	case n == 1:
		what = " of statement " + c.numbers[0]
	case n > 0 && n < all:
		what = " of statements " + strings.Join(c.numbers, ", ")
	}
	c.numbers = nil
	return p.gate(op{commit, what})
}

//nolint:gochecknoglobals // a constant set
var isControl = map[string]bool{
	"SAVEPOINT": true, "RELEASE": true, "ROLLBACK": true, "SET": true, "PRAGMA": true,
}

// gate stops the goroutine until the run lets it go on. It returns an error when
// what comes behind it must not be done.
func (p *process) gate(o op) error {
	p.gating.Lock()
	defer p.gating.Unlock()
	if err := p.alive(); err != nil {
		return err
	}
	p.mu.Lock()
	d := p.delivery
	p.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.ask(event{d: d, state: atGate, op: o})
}

// awaitOther is called when another instance holds the lock that is needed. It
// returns false when trying again is no use.
func (p *process) awaitOther() bool {
	p.mu.Lock()
	d, stopped := p.delivery, p.stopped
	p.mu.Unlock()
	return d != nil && !stopped && d.ask(event{d: d, state: waiting}) == nil
}

// barePublisher sends to the broker at once, message by message.
type barePublisher struct{ process *process }

func (b barePublisher) Publish(topic string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		if err := b.process.gate(op{publish, topic}); err != nil {
			return err
		}
		b.process.trial.reached(topic, msg)
	}
	return nil
}

func (barePublisher) Close() error { return nil }

// gatedPublisher is Headrace's, with a gate.
type gatedPublisher struct {
	process *process
	outbox  message.Publisher
}

func (g gatedPublisher) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := g.process.gate(op{publish, topic}); err != nil {
		return err
	}
	return g.outbox.Publish(topic, msgs...)
}

func (gatedPublisher) Close() error { return nil }

// delivery is one message in the hands of one process.
type delivery struct {
	process *process
	message int
	copy    *message.Message
	cancel  context.CancelFunc
	// orders are the run's answers at gates.
	orders chan error

	// What follows is the run's own.
	state state
	op    op
	order error
	// done is the last thing that was done, statements how many statements were
	// begun; before and beforeCount are the same one gate ago.
	done, before            op
	statements, beforeCount int
	// disturbed: a fault of the plan befell it.
	disturbed bool
	retried   bool
	err       error
	// line is the last of the story's lines that is about it, from 1.
	line int
}

type state int

const (
	running  state = iota // on its way to the next gate
	atGate                // asks what to do
	ready                 // the answer is known
	waiting               // for another instance's lock
	finished              // err is the handler's
)

type event struct {
	d     *delivery
	state state
	op    op
	err   error
}

// ask tells the run where the delivery is and waits for its order. A process that
// was stopped gets none.
func (d *delivery) ask(e event) error {
	select {
	case d.process.trial.events <- e:
	case <-d.process.gone:
		return errStopped
	}
	select {
	case err := <-d.orders:
		return err
	case <-d.process.gone:
		return errStopped
	}
}

// run delivers the message as a router does.
func (d *delivery) run() {
	err := errors.New("the handler did not return") // runtime.Goexit
	defer func() {
		select {
		case d.process.trial.events <- event{d: d, state: finished, err: err}:
		case <-d.process.gone:
		}
	}()
	err = d.handle()
}

func (d *delivery) handle() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := d.process.gate(op{kind: taken}); err != nil {
		return err
	}
	if _, err := d.process.handler(d.copy); err != nil {
		return err
	}
	return d.process.gate(op{kind: ack})
}
