// Package remark carries what was found out about a message in front of its
// transaction to the verdict that is written in it.
package remark

import (
	"context"
	"sync"
)

type contextKey struct{}

type remarks struct {
	mu   sync.Mutex
	text string
}

// With returns a context that has room for a remark, which those made from it share.
func With(ctx context.Context) context.Context {
	if _, ok := ctx.Value(contextKey{}).(*remarks); ok {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, &remarks{})
}

// Carry returns a context with the room that another one has.
func Carry(ctx, from context.Context) context.Context {
	return context.WithValue(ctx, contextKey{}, from.Value(contextKey{}))
}

// Leave adds a remark, where there is room for one.
func Leave(ctx context.Context, text string) {
	r, ok := ctx.Value(contextKey{}).(*remarks)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.text != "" {
		r.text += "; "
	}
	r.text += text
}

// In returns what was left, or "".
func In(ctx context.Context) string {
	r, ok := ctx.Value(contextKey{}).(*remarks)
	if !ok {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text
}
