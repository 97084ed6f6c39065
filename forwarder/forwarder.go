package forwarder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// ErrClosed is returned by Run of a forwarder that was closed.
var ErrClosed = errors.New("forwarder is closed")

// Forwarder relays the outbox. Several forwarders, in one process or many, share
// its partitions. Its methods may be called concurrently.
type Forwarder struct {
	store  *store.Store
	cfg    Config
	sender *sender
	hooks  []PublishHook
	late   lateLimits

	running  chan struct{}
	closing  chan struct{}
	finished chan struct{}

	mu      sync.Mutex
	started bool
	closed  bool
}

// New returns a forwarder that sends rows to the publishers under their
// destinations' names. The publishers stay the caller's: they must be safe for
// concurrent use, return only when the broker has taken the message, and are not
// closed by the forwarder.
func New(st *store.Store, destinations map[string]message.Publisher, cfg Config) (*Forwarder, error) {
	if st == nil {
		return nil, errors.New("forwarder: New needs a store")
	}
	if len(destinations) == 0 {
		return nil, errors.New("forwarder: New needs at least one destination")
	}
	for name, publisher := range destinations {
		if name == "" || publisher == nil {
			return nil, fmt.Errorf("forwarder: destination %q needs a name and a publisher", name)
		}
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	f := &Forwarder{
		store: st, cfg: cfg,
		sender: &sender{
			destinations: maps.Clone(destinations),
			inFlight:     make(chan struct{}, cfg.MaxInFlight),
			refused:      cfg.refused,
		},
		running:  make(chan struct{}),
		closing:  make(chan struct{}),
		finished: make(chan struct{}),
		hooks:    store.HooksOf[PublishHook](cfg.Hooks),
		late:     defaultLateLimits(),
	}
	return f, nil
}

// Run relays until the context is cancelled or Close is called, then waits for
// the publishes in flight, confirms them and gives its partitions back. It
// returns nil then. A forwarder runs once.
func (f *Forwarder) Run(ctx context.Context) error {
	f.mu.Lock()
	if f.closed || f.started {
		defer f.mu.Unlock()
		if f.closed {
			return ErrClosed
		}
		return errors.New("forwarder is already running")
	}
	f.started = true
	f.mu.Unlock()
	defer close(f.finished)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-f.closing:
			cancel()
		case <-ctx.Done():
		}
	}()
	o := newOwnership(f)
	defer o.releaseAll(ctx)
	defer f.store.OnOutboxWritten(o.wake)()
	m := &mover{f: f, owned: o.snapshot}
	var moving sync.WaitGroup
	defer moving.Wait()
	moving.Go(func() { m.run(ctx) })
	return o.run(ctx)
}

// Running is closed when the forwarder has begun to relay.
func (f *Forwarder) Running() <-chan struct{} { return f.running }

// Close stops the forwarder and waits until Run has returned, or for
// Config.CloseTimeout. It may be called more than once.
func (f *Forwarder) Close() error {
	f.mu.Lock()
	started := f.started
	if !f.closed {
		f.closed = true
		close(f.closing)
	}
	f.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case <-f.finished:
		return nil
	case <-f.cfg.Clock.After(f.cfg.CloseTimeout):
		return fmt.Errorf("forwarder: not finished after %s: a publisher hangs, or the database doesn't answer",
			f.cfg.CloseTimeout)
	}
}
