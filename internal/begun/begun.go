// Package begun marks contexts of messages for which something was done that
// can't be undone, so that they are handled even if they are late by then.
package begun

import "context"

type contextKey struct{}

// With returns a context that carries the mark.
func With(ctx context.Context) context.Context { return context.WithValue(ctx, contextKey{}, true) }

// In reports whether a context carries it.
func In(ctx context.Context) bool {
	marked, _ := ctx.Value(contextKey{}).(bool)
	return marked
}
