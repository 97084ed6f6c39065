// Package ruling carries the verdict of a guard within a message's transaction out to
// Dedupe, which writes it down.
package ruling

import "context"

// Ruling is what a guard has decided instead of the handler.
type Ruling struct {
	// Verdict is one of the store's, "" for none.
	Verdict string
	Reason  string
}

type contextKey struct{}

// With returns a context with room for a ruling, and where it will be. Each attempt of a
// transaction needs its own.
func With(ctx context.Context) (context.Context, *Ruling) {
	room := &Ruling{}
	return context.WithValue(ctx, contextKey{}, room), room
}

// Give gives a ruling, and reports whether anybody writes it down.
func Give(ctx context.Context, ruling Ruling) bool {
	room, ok := ctx.Value(contextKey{}).(*Ruling)
	if ok {
		*room = ruling
	}
	return ok
}
