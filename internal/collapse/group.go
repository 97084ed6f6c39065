// Package collapse makes one call for many who want to know the same.
package collapse

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/headrace-go/headrace/internal/step"
)

// Group makes calls, for a key one at a time: whoever comes while a call is under way
// waits for the one after it, which begins when this one is over, and serves all who have
// come by then. It is safe for concurrent use.
type Group[K comparable, V any] struct {
	// Call is made in a goroutine of its own, and calls began when its answer can't be
	// older than now. Its context ends when nobody waits for it any more.
	Call func(ctx context.Context, key K, began func()) (V, error)

	mu    sync.Mutex
	lines map[K]*line[V]
}

// line is what is under way for a key, and who waits for the call after that.
type line[V any] struct {
	now  *flight[V]
	next map[*waiter[V]]struct{}
}

type flight[V any] struct {
	waiters map[*waiter[V]]struct{}
	cancel  context.CancelFunc
	// closed is set when it is too late to be served by this one.
	closed bool
}

type waiter[V any] struct {
	enough func(V) bool
	answer chan answer[V]
}

// satisfied asks somebody else's function. One that panics does so again where it is
// waited for, if it means it.
func (w *waiter[V]) satisfied(value V) (enough bool) {
	defer func() {
		if recover() != nil {
			enough = false
		}
	}()
	return w.enough != nil && w.enough(value)
}

type answer[V any] struct {
	value V
	err   error
}

// Do returns the answer of a call that began after Do was called, or that of the call
// before it if enough, which may be nil, says that it will do.
func (g *Group[K, V]) Do(ctx context.Context, key K, enough func(V) bool) (V, error) {
	if ctx.Err() != nil {
		var none V
		return none, gone(ctx)
	}
	w := &waiter[V]{enough: enough, answer: make(chan answer[V], 1)}
	g.enter(ctx, key, w)
	step.Reach(ctx, step.FetchWaits)
	select {
	case a := <-w.answer:
		return a.value, a.err
	case <-ctx.Done():
		g.leave(key, w)
		var none V
		return none, gone(ctx)
	}
}

func gone(ctx context.Context) error {
	return fmt.Errorf("nobody waits for the answer: %w", context.Cause(ctx))
}

func (g *Group[K, V]) enter(ctx context.Context, key K, w *waiter[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lines[key]
	switch {
	case l == nil:
		if g.lines == nil {
			g.lines = map[K]*line[V]{}
		}
		l = &line[V]{next: map[*waiter[V]]struct{}{}}
		g.lines[key] = l
		g.start(ctx, key, l, map[*waiter[V]]struct{}{w: {}})
	case l.now.closed:
		l.next[w] = struct{}{}
	default:
		l.now.waiters[w] = struct{}{}
	}
}

// start begins a call. The context's values are those of one of the waiters.
func (g *Group[K, V]) start(ctx context.Context, key K, l *line[V], waiters map[*waiter[V]]struct{}) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight[V]{waiters: waiters, cancel: cancel}
	l.now = f
	go func() {
		defer cancel()
		a := answer[V]{err: errors.New("the call ended its goroutine")}
		defer func() { // whoever waits gets an answer
			if value := recover(); value != nil {
				a = answer[V]{err: fmt.Errorf("the call panicked: %v", value)}
			}
			g.end(ctx, key, l, a)
		}()
		value, err := g.Call(ctx, key, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			f.closed = true
		})
		a = answer[V]{value, err}
	}()
}

// end gives the answer to those whom it serves, and begins the next call for the others.
func (g *Group[K, V]) end(ctx context.Context, key K, l *line[V], a answer[V]) {
	g.mu.Lock()
	l.now.closed = true
	asked := make([]*waiter[V], 0, len(l.next))
	for w := range l.next {
		asked = append(asked, w)
	}
	g.mu.Unlock()
	var served []*waiter[V]
	for _, w := range asked {
		if a.err == nil && w.satisfied(a.value) {
			served = append(served, w)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for w := range l.now.waiters {
		w.answer <- a
	}
	for _, w := range served {
		if _, waits := l.next[w]; waits {
			delete(l.next, w)
			w.answer <- a
		}
	}
	if len(l.next) == 0 {
		delete(g.lines, key)
		return
	}
	next := l.next
	l.next = map[*waiter[V]]struct{}{}
	g.start(ctx, key, l, next)
}

// leave gives up a wait, and the call if nobody is left whom it might serve.
func (g *Group[K, V]) leave(key K, w *waiter[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.lines[key]
	if l == nil {
		return
	}
	delete(l.now.waiters, w)
	delete(l.next, w)
	if len(l.now.waiters) > 0 {
		return
	}
	for other := range l.next {
		if other.enough != nil {
			return
		}
	}
	l.now.closed = true
	l.now.cancel()
}
