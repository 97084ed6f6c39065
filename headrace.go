// Package headrace adds Headrace to a running Watermill application in a few
// lines, without a change in its handlers:
//
//	hr, err := headrace.New(ctx, db, headrace.Config{Service: "warehouse", Publisher: publisher})
//	if err != nil {
//		return err
//	}
//	defer hr.Close()
//	router.AddPlugin(hr.Attach)
//	db, publisher = hr.DB(), hr.Publisher()
//
// From there on a message's mark as handled, its handler's statements through db
// and what the handler publishes or returns are one database transaction; a
// forwarder relays what was committed to the real publisher. docs/adopting.md
// leads through it step by step.
//
// It is a bundle of what packages store, middleware and forwarder offer singly,
// with nothing that they don't.
package headrace

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// ErrClosed says that the plugin was closed.
var ErrClosed = errors.New("headrace is closed")

// ErrScheduled says that Drain has left messages whose time has not come.
var ErrScheduled = errors.New("messages wait to be sent later")

// ErrParked says that Drain has left messages that are parked, in the outbox or for a
// handler, and what waits behind them.
var ErrParked = errors.New("messages are parked")

// Plugin is the usual set: a store, Dedupe, an outbox and its forwarder, and the
// purge. It is safe for concurrent use.
type Plugin struct {
	cfg       Config
	db        *sql.DB
	store     *store.Store
	dedupe    *middleware.Dedupe
	parking   *middleware.Parking // nil without Config.Park
	presence  *middleware.Presence
	forwarder *forwarder.Forwarder
	// destinations are the real publishers.
	destinations map[string]message.Publisher
	// publishers are what handlers are given, by destination.
	publishers map[string]message.Publisher
	// outboxes are behind them.
	outboxes map[string]*forwarder.Outbox
	watch    *watch

	mu sync.Mutex
	// bound are the handlers whose subscribers are wrapped.
	bound  map[string]bool
	closed bool
	// started says that the forwarder was started, which it can be once; relaying
	// that it has not ended.
	started, relaying bool
	// drains are the forwarders of Drain.
	drains  map[*forwarder.Forwarder]struct{}
	stop    context.CancelFunc
	stopped context.Context //nolint:containedctx // of the tasks that Attach starts and Close ends
	tasks   sync.WaitGroup
}

// New opens Headrace's tables in a service's database. ctx bounds the opening
// only. The database and the publishers stay the caller's: close them after
// Close.
//
// Errors are those of a wrong configuration, of store.Open (ErrSchemaMissing
// where neither Config.Migrate is set nor `headrace migrate up` was run), and
// store.ErrUnreachable when the database has not answered within
// Config.ConnectTimeout.
func New(ctx context.Context, db *sql.DB, cfg Config) (*Plugin, error) {
	if db == nil {
		return nil, errors.New("headrace: New needs a *sql.DB")
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := store.Connect(ctx, db, cfg.ConnectTimeout); err != nil {
		return nil, fmt.Errorf("headrace: service %q: %w", cmp.Or(cfg.Service, cfg.Dedupe.Service), err)
	}
	if cfg.Store.Dialect == "" {
		dialect, err := store.DetectDialect(ctx, db)
		if err != nil {
			return nil, fmt.Errorf("headrace: %w", err)
		}
		cfg.Store.Dialect = dialect
	}
	cfg = cfg.spread()
	unattached := &watch{clock: clockwork.NewRealClock(), logger: cfg.Store.Logger, service: cfg.Service}
	cfg.Store.Hooks = append(cfg.Store.Hooks, unattached)
	st, err := store.Open(ctx, db, cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("headrace: %w", err)
	}
	p := &Plugin{
		cfg: cfg, db: db, store: st, watch: unattached,
		publishers: map[string]message.Publisher{}, outboxes: map[string]*forwarder.Outbox{},
		drains: map[*forwarder.Forwarder]struct{}{}, bound: map[string]bool{},
	}
	if err := p.build(); err != nil {
		return nil, errors.Join(err, st.Close())
	}
	p.stopped, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	return p, nil
}

func (p *Plugin) build() (err error) {
	destinations := maps.Clone(p.cfg.Destinations)
	if destinations == nil {
		destinations = map[string]message.Publisher{}
	}
	destinations[forwarder.DefaultDestination] = p.cfg.Publisher
	for name, real := range destinations {
		outbox, err := forwarder.NewOutbox(p.store, forwarder.OutboxConfig{
			Service: p.cfg.Service, Destination: name, Key: p.cfg.Key,
		})
		if err != nil {
			return fmt.Errorf("headrace: %w", err)
		}
		p.outboxes[name] = outbox
		p.publishers[name] = outbox.Publisher()
		if p.cfg.Observe {
			p.publishers[name] = keptOpen{real, p.watch}
		}
		if name == forwarder.DefaultDestination {
			p.cfg.Dedupe.Outbox = outbox
		}
	}
	if p.dedupe, err = middleware.NewDedupe(p.store, p.cfg.Dedupe); err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	if p.cfg.Park {
		if p.parking, err = middleware.NewParking(p.store, p.cfg.Parking); err != nil {
			return fmt.Errorf("headrace: %w", err)
		}
		// What is wrong with its configuration is said now.
		if _, err = p.reentry("any", nil); err != nil {
			return err
		}
	}
	p.presence, err = middleware.NewPresence(p.store, middleware.PresenceConfig{
		Name: hostName(), Logger: p.cfg.Dedupe.Logger,
	})
	if err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	// Attach makes the purge, when it knows the handlers; what is wrong with its
	// configuration is said now.
	if _, err = p.purge(p.consumers([]string{"any"})); err != nil {
		return err
	}
	p.destinations = destinations
	if p.forwarder, err = forwarder.New(p.store, destinations, p.cfg.Forwarder); err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	return nil
}

// DB returns the *sql.DB for the handlers: statements whose context is a
// message's run in that message's transaction, and BeginTx there opens a
// savepoint (store.JoinDB). Other statements go to the database as before, or
// are refused with Config.Strict. While observing it is the database itself.
func (p *Plugin) DB() *sql.DB {
	if p.cfg.Observe {
		p.watch.use(context.Background()) // what is done with it, nobody sees
		return p.db
	}
	return store.JoinDB(p.store)
}

// Publisher returns the message.Publisher for the handlers, the router and CQRS
// buses: what is published with a message's context (msg.SetContext(ctx), which
// buses do) is committed with that message and relayed to Config.Publisher.
// Anything else is committed to the outbox on its own, or refused with
// Config.Strict. Closing it does nothing. While observing it publishes directly.
func (p *Plugin) Publisher() message.Publisher {
	return p.publishers[forwarder.DefaultDestination]
}

// PublisherFor is Publisher for one of Config.Destinations. With a name that
// isn't configured every Publish fails, with an error that lists the names.
func (p *Plugin) PublisherFor(destination string) message.Publisher {
	if publisher, ok := p.publishers[destination]; ok {
		return publisher
	}
	return nowhere{fmt.Errorf("headrace: there is no destination %q in Config.Destinations; known are %s",
		destination, strings.Join(slices.Sorted(maps.Keys(p.publishers)), ", "))}
}

// Outbox returns the outbox of a destination, "" for Config.Publisher's: what it
// publishes with a message's context is committed with that message, as by
// Publisher, and it can publish later (PublishAt, PublishAfter, PublishInSlot). It
// is nil where there is no such destination. Observing changes nothing about it.
func (p *Plugin) Outbox(destination string) *forwarder.Outbox {
	return p.outboxes[cmp.Or(destination, forwarder.DefaultDestination)]
}

// nowhere is the publisher of a destination that isn't configured.
type nowhere struct{ err error }

func (n nowhere) Publish(string, ...*message.Message) error { return n.err }
func (nowhere) Close() error                                { return nil }

// Store returns the store, for what this package doesn't bundle.
func (p *Plugin) Store() *store.Store { return p.store }

// Middleware protects one handler, for routers in which only some handlers are
// to be protected; Run then has to be called too. Attach does both for all.
func (p *Plugin) Middleware(h message.HandlerFunc) message.HandlerFunc {
	p.watch.end()
	return p.protect(h)
}

// protect is Dedupe's middleware, behind Parking's where that is wanted.
func (p *Plugin) protect(h message.HandlerFunc) message.HandlerFunc {
	protected := p.dedupe.Middleware(h)
	if p.parking != nil {
		protected = p.parking.Middleware(protected)
	}
	return p.known(protected)
}

// known notes a handler at the latest when its first message comes.
func (p *Plugin) known(protected message.HandlerFunc) message.HandlerFunc {
	var (
		first   sync.Once
		unbound error
	)
	return func(msg *message.Message) ([]*message.Message, error) {
		first.Do(func() {
			if handler := message.HandlerNameFromCtx(msg.Context()); handler != "" {
				p.presence.Add(p.consumer(handler))
				p.mu.Lock()
				defer p.mu.Unlock()
				unbound = p.checkBound([]string{handler})
			}
		})
		if unbound != nil {
			return nil, unbound
		}
		return protected(msg)
	}
}

// consumer is the name under which a handler remembers messages.
func (p *Plugin) consumer(handler string) string { return p.cfg.Service + "." + handler }

// keptOpen is a publisher that a router may not close: routers close their
// handlers' publishers as soon as one handler stops.
type keptOpen struct {
	message.Publisher

	watch *watch
}

func (k keptOpen) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) > 0 && msgs[0] != nil {
		k.watch.use(msgs[0].Context())
	}
	return k.Publisher.Publish(topic, msgs...) //nolint:wrapcheck // observing changes nothing
}

func (keptOpen) Close() error { return nil }
