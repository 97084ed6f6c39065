package parking

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/headrace-go/headrace/store"
)

// Valve tells whether the store is there. A message's failure says nothing of the
// message while it isn't. It is safe for concurrent use.
type Valve struct {
	store *store.Store
	cfg   ValveConfig
	// asking is held by the one that asks.
	asking chan struct{}

	mu sync.Mutex
	// opened is closed when the store is there again; nil while nobody has missed it.
	opened chan struct{}
}

// ValveConfig says how a store is asked whether it is there.
type ValveConfig struct {
	// Timeout bounds one question. Default 2 s.
	Timeout time.Duration
	// Interval is the time between questions while there is no answer. It doubles up
	// to MaxInterval. Default 250 ms and 2 s.
	Interval, MaxInterval time.Duration
}

func (c ValveConfig) withDefaults() ValveConfig {
	const timeout, interval, longest = 2 * time.Second, 250 * time.Millisecond, 2 * time.Second
	if c.Timeout <= 0 {
		c.Timeout = timeout
	}
	if c.Interval <= 0 {
		c.Interval = interval
	}
	c.MaxInterval = max(c.MaxInterval, c.Interval)
	if c.MaxInterval == c.Interval {
		c.MaxInterval = max(longest, c.Interval)
	}
	return c
}

// NewValve returns the valve of a store.
func NewValve(st *store.Store, cfg ValveConfig) *Valve {
	return &Valve{store: st, cfg: cfg.withDefaults(), asking: make(chan struct{}, 1)}
}

// Open asks whether the store is there. The end of ctx is no answer, and counts as
// yes.
func (v *Valve) Open(ctx context.Context) bool {
	asked, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	return v.store.DB().PingContext(asked) == nil || ctx.Err() != nil
}

// Wait returns when the store is there, or with ctx's error. Of all that wait one
// asks.
func (v *Valve) Wait(ctx context.Context) error {
	opened := v.shut()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // a context's
	case v.asking <- struct{}{}:
		defer func() { <-v.asking }()
	}
	select {
	case <-opened: // while this one waited to ask
		return nil
	default:
	}
	policy := retrypolicy.NewBuilder[bool]().WithMaxRetries(-1).HandleResult(false).
		WithBackoff(v.cfg.Interval, v.cfg.MaxInterval).Build()
	_, err := failsafe.With(policy).WithContext(ctx).Get(func() (bool, error) { return v.Open(ctx), ctx.Err() })
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.opened = nil
		close(opened)
	}
	return err //nolint:wrapcheck // a context's
}

// shut says that somebody waits, until the channel is closed.
func (v *Valve) shut() chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.opened == nil {
		v.opened = make(chan struct{})
	}
	return v.opened
}

// Pass waits as Wait does where somebody has found that the store isn't there, and
// else costs nothing. It is for those who would take on more.
func (v *Valve) Pass(ctx context.Context) error {
	v.mu.Lock()
	shut := v.opened != nil
	v.mu.Unlock()
	if !shut {
		return nil
	}
	return v.Wait(ctx)
}
