// Package delivery is what every broker's subscriber needs around a message in
// hand: to end without losing it, and to wait before it comes again.
package delivery

import (
	"context"
	"sync"

	"github.com/headrace-go/headrace/brokers"
)

// Lifetime is a subscriber's: its subscriptions begin before Close or not at all,
// and Close waits until they have ended. Its methods may be called concurrently.
type Lifetime struct {
	closing context.Context //nolint:containedctx // done when Close has been called
	close   context.CancelFunc

	mu      sync.Mutex // orders Begin before or after Close
	running sync.WaitGroup
}

// NewLifetime returns a lifetime that has begun.
func NewLifetime() *Lifetime {
	l := &Lifetime{}
	l.closing, l.close = context.WithCancel(context.Background())

	return l
}

// Closing is done when Close has been called.
func (l *Lifetime) Closing() context.Context { return l.closing }

// Begin prepares a subscription and runs it on a goroutine that Close waits for.
// run gets a context that ends with ctx or with Close, whichever comes first.
// Errors match brokers.ErrClosed after Close, else they are prepare's.
func (l *Lifetime) Begin(
	ctx context.Context, prepare func(stop context.Context) (run func(), err error),
) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing.Err() != nil {
		return brokers.ErrClosed
	}
	stop, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(l.closing, cancel) //nolint:contextcheck // Close ends it too
	end := func() {
		unhook()
		cancel()
	}
	run, err := prepare(stop)
	if err != nil {
		end()

		return err
	}
	l.running.Go(func() {
		defer end()
		run()
	})

	return nil
}

// Close ends all subscriptions and returns when they have ended. Calling it again
// waits as well.
func (l *Lifetime) Close() {
	l.mu.Lock()
	l.close()
	l.mu.Unlock()
	l.running.Wait()
}
