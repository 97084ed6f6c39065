package headrace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
)

// Attach protects every handler of a router, and relays and purges in the
// background until Close. It is a message.RouterPlugin: give it to
// router.AddPlugin. The router calls it when it starts, so that Headrace stands
// inside of all middlewares that were added before, wherever the line is: a
// Retry or PoisonQueue then sees each attempt as a transaction of its own.
//
// Purged are the handlers that the router has then; name others in
// Config.Purge.Consumers.
func (p *Plugin) Attach(router *message.Router) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if router.IsRunning() {
		return errors.New("headrace: the router is running, and its handlers would stay unprotected: " +
			"give Attach to router.AddPlugin before Run")
	}
	handlers := slices.Sorted(maps.Keys(router.Handlers()))
	if err := p.checkBound(handlers); err != nil {
		return err
	}
	purge, err := p.purge(p.consumers(handlers))
	if err != nil {
		return err
	}
	p.watch.end()
	p.announce(handlers)
	router.AddMiddleware(p.protect)
	for _, handler := range handlers {
		p.presence.Add(p.consumer(handler))
	}
	if purge != nil {
		p.background("purge", purge.Run)
	}
	if !p.started {
		p.started, p.relaying = true, true
		p.background("forwarder", p.relay)
		p.background("presence", p.presence.Run)
	}
	return nil
}

// announce logs what is protected, relayed and remembered, once for each router
// and for Run. Handlers that are added to a running router are not in it.
func (p *Plugin) announce(handlers []string) {
	if p.cfg.Logger == nil {
		return
	}
	what := "Headrace protects the router's handlers"
	switch {
	case handlers == nil:
		what = "Headrace relays"
	case p.cfg.Observe:
		what = "Headrace observes the router's handlers, and changes nothing"
	}
	fields := watermill.LogFields{
		"service": p.cfg.Service, "database": p.cfg.Store.Dialect, "observe": p.cfg.Observe, "strict": p.cfg.Store.Strict,
		"parks":     p.parks(),
		"relays_to": strings.Join(slices.Sorted(maps.Keys(p.destinations)), ","),
		"remembers": cmp.Or(p.cfg.Dedupe.Window, middleware.DefaultWindow),
	}
	if handlers != nil {
		fields["handlers"] = strings.Join(handlers, ",")
	}
	p.cfg.Logger.Info(what, fields)
}

// relay runs the forwarder. Close may be quicker than its start, which is no
// failure.
func (p *Plugin) relay(ctx context.Context) error { return relay(ctx, p.forwarder) }

func relay(ctx context.Context, f *forwarder.Forwarder) error {
	if err := f.Run(ctx); !errors.Is(err, forwarder.ErrClosed) {
		return err
	}
	return nil
}

// consumers are the names under which a router's handlers remember messages.
func (p *Plugin) consumers(handlers []string) []string {
	consumers := slices.Clone(p.cfg.Purge.Consumers)
	for _, handler := range handlers {
		consumers = append(consumers, p.consumer(handler))
	}
	slices.Sort(consumers)
	return slices.Compact(consumers)
}

func (p *Plugin) purge(consumers []string) (*middleware.Purge, error) {
	if len(consumers) == 0 {
		return nil, nil //nolint:nilnil // nothing to purge
	}
	cfg := p.cfg.Purge
	cfg.Consumers = consumers
	purge, err := middleware.NewPurge(p.store, cfg)
	if err != nil {
		return nil, fmt.Errorf("headrace: %w", err)
	}
	return purge, nil
}

// background is called with the lock held.
func (p *Plugin) background(name string, run func(context.Context) error) {
	p.tasks.Go(func() {
		if err := run(p.stopped); err != nil && p.cfg.Logger != nil {
			p.cfg.Logger.Error("Headrace's "+name+" has ended", err, watermill.LogFields{"service": p.cfg.Service})
		}
	})
}

// Run relays, and purges Config.Purge.Consumers, until the context is cancelled
// or Close is called, and returns nil then. It is for programs without Attach:
// those that protect single handlers with Middleware, or only relay. A plugin
// runs once: after Attach, or a second time, it is an error.
func (p *Plugin) Run(ctx context.Context) error {
	p.mu.Lock()
	if p.closed || p.started {
		defer p.mu.Unlock()
		if p.closed {
			return ErrClosed
		}
		return errors.New("headrace: it is running already: Attach runs it, and Run may be called once")
	}
	purge, err := p.purge(p.cfg.Purge.Consumers)
	if err != nil {
		p.mu.Unlock()
		return err
	}
	p.started, p.relaying = true, true
	p.tasks.Add(1)
	p.mu.Unlock()
	p.watch.end()
	p.announce(nil)
	defer p.tasks.Done()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.relaying = false
	}()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.stopped, cancel)() //nolint:contextcheck // whichever ends first ends it
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.relay(ctx) })
	group.Go(func() error { return p.presence.Run(ctx) })
	if purge != nil {
		group.Go(func() error { return purge.Run(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	return nil
}

// Running is closed when the forwarder has begun to relay.
func (p *Plugin) Running() <-chan struct{} { return p.forwarder.Running() }

const (
	// drainInterval is how often Drain looks whether the outbox is empty.
	drainInterval = 50 * time.Millisecond
	// parkedEvery is how many times of those it looks whether what is left is parked,
	// for which it counts all of it.
	parkedEvery = 20
	// countTimeout bounds the counting of what a Drain left.
	countTimeout = 5 * time.Second
)

// Drain waits until nothing of the service is left in the outbox, relaying by itself where
// neither Attach nor Run does. It is the last step of a removal: when the
// protected instances are gone, a program that still has New, Drain and Close
// sends what they left behind.
//
// When the context ends first, the error says how much is left. Messages for later
// are sent when they are due: where some are not, the error matches ErrScheduled, and
// says how many. What is parked waits for a person, in the outbox or for one of the
// service's handlers: where nothing else is left, the error matches ErrParked.
func (p *Plugin) Drain(ctx context.Context) error {
	relaying, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := p.relayFor(relaying); err != nil {
		return err
	}
	ticker := time.NewTicker(drainInterval)
	defer ticker.Stop()
	for look := 0; ; look++ {
		if done, err := p.drained(ctx, look%parkedEvery == 0); done {
			return err
		}
		select {
		case <-ticker.C:
		case <-p.stopped.Done():
			return ErrClosed
		case <-ctx.Done():
			return p.left(ctx)
		}
	}
}

// drained reports whether nothing is left that could be sent now. The error says
// what is left for later.
func (p *Plugin) drained(ctx context.Context, lookForParked bool) (bool, error) {
	// What is due goes from here to the outbox, so this is looked at first.
	scheduled, err := p.store.CountScheduled(ctx)
	if err != nil {
		return false, nil //nolint:nilerr // it is asked again
	}
	var later []string
	for _, c := range scheduled {
		switch {
		case c.Service != p.cfg.Service:
		case c.NextIn <= 0:
			return false, nil
		default:
			later = append(later, fmt.Sprintf("%d for topic %q of destination %q, the next in %s",
				c.Waiting, c.Topic, c.Destination, c.NextIn.Round(time.Second)))
		}
	}
	waiting, err := p.store.WaitingPartitions(ctx, p.cfg.Service)
	if err != nil || len(waiting) > 0 && !lookForParked {
		return false, nil //nolint:nilerr // it is asked again
	}
	if len(waiting) > 0 {
		if err = p.parkedAlone(ctx); err == nil {
			return false, nil
		}
	}
	if len(waiting) == 0 {
		kept, unread := p.parkedForHandlers(ctx)
		if unread != nil {
			return false, nil //nolint:nilerr // it is asked again
		}
		err = kept
	}
	if len(later) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %s (headrace scheduled ls, cancel)", ErrScheduled, strings.Join(later, "; ")))
	}
	if err != nil {
		err = fmt.Errorf("headrace: drain: all that can be sent now is sent, but %w", err)
	}
	return true, err
}

// parkedAlone returns an error where nothing is left in the outbox but what is
// parked, and what waits behind it.
func (p *Plugin) parkedAlone(ctx context.Context) error {
	in, err := p.store.CountParkedInOutbox(ctx, p.cfg.Service)
	if err != nil || in.Parked == 0 || in.Left > 0 {
		return nil //nolint:nilerr // it is asked again
	}
	counts, err := p.store.CountOutbox(ctx)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	var parked []string
	for _, c := range counts {
		if c.Service == p.cfg.Service && c.Parked > 0 {
			parked = append(parked,
				fmt.Sprintf("%d for topic %q of destination %q (%s)", c.Parked, c.Topic, c.Destination, c.LastError))
		}
	}
	return fmt.Errorf("%w: %s; %d more wait behind them", ErrParked, strings.Join(parked, ", "), in.Behind)
}

// parkedForHandlers returns an error where something is kept for handlers of the
// service, which nobody will handle when its tables are gone.
func (p *Plugin) parkedForHandlers(ctx context.Context) (kept, err error) {
	counts, err := p.store.CountParked(ctx)
	if err != nil {
		return nil, err
	}
	var parked []string
	for _, c := range counts {
		if strings.HasPrefix(c.Consumer, p.cfg.Service+".") {
			parked = append(parked, fmt.Sprintf("%d for consumer %q (%d of them in review)", c.Open(), c.Consumer, c.Review))
		}
	}
	if len(parked) == 0 {
		return nil, nil
	}
	return fmt.Errorf("%w: %s (headrace parked ls, review ls)", ErrParked, strings.Join(parked, ", ")), nil
}

// relayFor relays until the context ends, where nothing else in this plugin does.
// A forwarder runs once, and Drain may be called again.
func (p *Plugin) relayFor(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.watch.end()
	if p.relaying {
		return nil
	}
	f, err := forwarder.New(p.store, p.destinations, p.cfg.Forwarder)
	if err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	p.drains[f] = struct{}{}
	p.background("forwarder", func(context.Context) error {
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.drains, f)
		}()
		return relay(ctx, f)
	})
	return nil
}

// left is the error of a Drain that was cut off.
func (p *Plugin) left(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	counts, err := p.store.CountOutbox(bounded)
	if err != nil {
		return fmt.Errorf("headrace: drain: %w; what is left could not be counted: %w", ctx.Err(), err)
	}
	var left []string
	for _, c := range counts {
		if c.Service != p.cfg.Service {
			continue
		}
		line := fmt.Sprintf("%d for topic %q of destination %q", c.Unsent, c.Topic, c.Destination)
		if c.LastError != "" {
			line += " (" + c.LastError + ")"
		}
		left = append(left, line)
	}
	return fmt.Errorf("headrace: drain: %w with messages left in the outbox: %s", ctx.Err(), strings.Join(left, ", "))
}

// Close stops what Attach, Run or Drain have started, waits for publishes in
// flight (Config.Forwarder.CloseTimeout at most), and frees what the plugin
// holds. Close the router first: its handlers need the plugin. What is left in
// the outbox is sent by other instances, or by the next start. It may be called
// more than once.
func (p *Plugin) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	forwarders := append(slices.Collect(maps.Keys(p.drains)), p.forwarder)
	p.mu.Unlock()
	if closed {
		return nil
	}
	p.stop()
	p.watch.end()
	for _, f := range forwarders {
		if err := f.Close(); err != nil {
			return fmt.Errorf("headrace: %w", err)
		}
	}
	p.tasks.Wait()
	if err := p.store.Close(); err != nil {
		return fmt.Errorf("headrace: %w", err)
	}
	return nil
}
