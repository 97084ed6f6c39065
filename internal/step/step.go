// Package step names points in the way of a message at which a test may pause
// or kill the process. Without a Func in the context a step does nothing.
//
// The Func travels in the context and not in a configuration, so that the same
// binary can run with and without it and no public type mentions it.
package step

import "context"

// Names of the steps, in the order in which a message reaches them.
const (
	FetchWaits         = "fetch.waits"
	TxBegun            = "tx.begun"
	DedupeInserted     = "dedupe.inserted"
	PositionWritten    = "position.written"
	StateLocked        = "state.locked"
	StateRead          = "state.read"
	HandlerReturned    = "handler.returned"
	StateWritten       = "state.written"
	OutboxWritten      = "outbox.written"
	TxBeforeCommit     = "tx.before-commit"
	TxAfterCommit      = "tx.after-commit"
	AckBefore          = "ack.before"
	AckAfter           = "ack.after"
	RelayRead          = "relay.read"
	RelayBeforePublish = "relay.before-publish"
	RelayAfterPublish  = "relay.after-publish"
	RelayBeforePark    = "relay.before-park"
	RelayAfterPark     = "relay.after-park"
	RelayBeforeConfirm = "relay.before-confirm"
	RelayAfterConfirm  = "relay.after-confirm"

	ParkDecided   = "park.decided"
	ParkWritten   = "park.written"
	ParkCommitted = "park.committed"
	LineWritten   = "line.written"

	ClaimTaken      = "claim.taken"
	ReentrySent     = "reentry.sent"
	ReentryFinished = "reentry.finished"
	LineOpened      = "line.opened"

	EffectIntent   = "effect.intent"
	EffectCalled   = "effect.called"
	EffectRecorded = "effect.recorded"
)

// Func is called whenever a step is reached, on the goroutine that reaches it.
type Func func(ctx context.Context, name string)

type contextKey struct{}

// With returns a context whose steps call f.
func With(ctx context.Context, f Func) context.Context {
	return context.WithValue(ctx, contextKey{}, f)
}

// Reach calls the context's Func, if there is one.
func Reach(ctx context.Context, name string) {
	if f, ok := ctx.Value(contextKey{}).(Func); ok {
		f(ctx, name)
	}
}
