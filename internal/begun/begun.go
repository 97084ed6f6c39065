// Package begun marks contexts of messages for which something was done that
// can't be undone, so that they are handled even if they are late by then; and of those
// for which it was left out, since they weren't to be handled, so that they aren't.
package begun

import "context"

type (
	contextKey struct{}
	leftKey    struct{}
)

// With returns a context that carries the mark.
func With(ctx context.Context) context.Context { return context.WithValue(ctx, contextKey{}, true) }

// In reports whether a context carries it.
func In(ctx context.Context) bool {
	marked, _ := ctx.Value(contextKey{}).(bool)
	return marked
}

// Leave returns a context that says that it was left out.
func Leave(ctx context.Context) context.Context { return context.WithValue(ctx, leftKey{}, true) }

// Left reports whether a context says so.
func Left(ctx context.Context) bool {
	left, _ := ctx.Value(leftKey{}).(bool)
	return left
}
