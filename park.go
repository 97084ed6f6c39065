package headrace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/parking"
)

// ErrUnbound says that a handler's subscriber is not wrapped, so that what is parked
// for the handler would never come back.
var ErrUnbound = errors.New("handler's subscriber is not wrapped by Plugin.Subscriber")

// Subscriber wraps the subscriber of one handler, by the handler's name in the router:
//
//	router.AddConsumerHandler("orders", topic, hr.Subscriber("orders", subscriber), handle)
//
// What was parked for the handler comes back through it, in order, beside what sub
// delivers; while the database is away nothing more is taken from sub. Closing it
// closes sub. Without Config.Park, and while observing, it is sub.
func (p *Plugin) Subscriber(handler string, sub message.Subscriber) message.Subscriber {
	if !p.parks() {
		return sub
	}
	wrapped, err := p.reentry(handler, sub)
	if err != nil {
		return noSubscriber{err}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound[handler] = true
	return wrapped
}

func (p *Plugin) reentry(handler string, sub message.Subscriber) (message.Subscriber, error) {
	cfg := p.cfg.Reentry
	cfg.Consumer = p.consumer(handler)
	if cfg.Valve == nil {
		cfg.Valve = p.parking.Valve()
	}
	wrapped, err := parking.NewSubscriber(p.store, sub, cfg)
	if err != nil {
		return nil, fmt.Errorf("headrace: %w", err)
	}
	return wrapped, nil
}

// ParkMiddleware is the part of the protection that puts aside what fails, for handlers
// with a stage in front of Dedupe (effects.Client.Stage): what fails there is put aside
// then, too.
//
//	handler.AddMiddleware(hr.ParkMiddleware, client.Stage("charge", charge))
//
// Attach, or Middleware, adds the rest. Without Config.Park, and while observing, it is
// h.
func (p *Plugin) ParkMiddleware(h message.HandlerFunc) message.HandlerFunc {
	if !p.parks() {
		return h
	}
	return p.known(p.parking.Middleware(h))
}

// parks: the middleware is in the stack and has an effect.
func (p *Plugin) parks() bool { return p.cfg.Park && !p.cfg.Observe }

// checkBound is called with the lock held.
func (p *Plugin) checkBound(handlers []string) error {
	if !p.parks() {
		return nil
	}
	unbound := slices.DeleteFunc(slices.Clone(handlers), func(handler string) bool { return p.bound[handler] })
	if len(unbound) == 0 {
		return nil
	}
	return fmt.Errorf("headrace: %w: %s: with Config.Park give router.AddHandler hr.Subscriber(%q, subscriber); wrapped are: %s",
		ErrUnbound, strings.Join(unbound, ", "), unbound[0], strings.Join(slices.Sorted(maps.Keys(p.bound)), ", "))
}

// noSubscriber is one that can't be had.
type noSubscriber struct{ err error }

func (n noSubscriber) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return nil, n.err
}

func (noSubscriber) Close() error { return nil }
