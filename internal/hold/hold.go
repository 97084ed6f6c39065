// Package hold lets whoever waits with a message in hand tell its subscriber, which
// then keeps the broker from delivering it to somebody else meanwhile.
package hold

import "context"

type contextKey struct{}

// With returns a message's context by which it can be kept: keep is called when
// somebody begins to wait, and returns what ends that. It may be called more than
// once, also concurrently.
func With(ctx context.Context, keep func() (release func())) context.Context {
	return context.WithValue(ctx, contextKey{}, keep)
}

// Keep keeps a context's message until release is called. Without a subscriber that
// needs to be told it does nothing.
func Keep(ctx context.Context) (release func()) {
	if keep, ok := ctx.Value(contextKey{}).(func() (release func())); ok {
		return keep()
	}
	return func() {}
}
