package conformance

import (
	"context"
	"sync"
)

// rooms keeps facts that wait and measure apart from those that keep the machine
// busy: they run side by side with their own kind, and never with the other.
type rooms struct {
	mu      sync.Mutex
	busy    bool // the kind inside
	inside  int
	changed chan struct{} // closed and replaced when the last one has left
}

func newRooms() *rooms { return &rooms{changed: make(chan struct{})} }

// enter waits for the other kind to leave.
func (r *rooms) enter(ctx context.Context, busy bool) error {
	for {
		r.mu.Lock()
		if r.inside == 0 || r.busy == busy {
			r.busy = busy
			r.inside++
			r.mu.Unlock()

			return nil
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err() //nolint:wrapcheck // the run was ended
		}
	}
}

func (r *rooms) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inside--; r.inside == 0 {
		close(r.changed)
		r.changed = make(chan struct{})
	}
}
