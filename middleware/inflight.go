package middleware

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// inFlight lets copies of a message that is being handled in this process wait
// without a database connection: waiting at the database's lock, a burst of
// copies could use up the pool that the first one needs to finish.
type inFlight struct {
	mu      sync.Mutex
	holders map[inFlightKey]chan struct{}
}

type inFlightKey struct{ consumer, id string }

// enter waits until no copy is being handled, and returns how to leave. Errors
// match ErrBusy when that takes longer than timeout.
func (f *inFlight) enter(ctx context.Context, key inFlightKey, timeout time.Duration) (leave func(), err error) {
	var timer *time.Timer // made for copies only, which are rare
	for {
		f.mu.Lock()
		holder, busy := f.holders[key]
		if !busy {
			if f.holders == nil {
				f.holders = map[inFlightKey]chan struct{}{}
			}
			done := make(chan struct{})
			f.holders[key] = done
			f.mu.Unlock()
			return func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.holders, key)
				close(done)
			}, nil
		}
		f.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(timeout)
			defer timer.Stop()
		}
		select {
		case <-holder:
		case <-ctx.Done():
			return nil, fmt.Errorf("middleware: wait for the delivery in progress: %w", ctx.Err())
		case <-timer.C:
			return nil, fmt.Errorf("%w: message %q of consumer %q, waited %s", ErrBusy, key.id, key.consumer, timeout)
		}
	}
}
