package store

import (
	"context"
	"database/sql"
)

type unitKey struct{}

// unitContext is a context with a unit of work on top of those that it had. It is
// their chain as well, so that each store finds its own unit whichever was entered
// last, and entering one costs no more than context.WithValue.
type unitContext struct {
	context.Context //nolint:containedctx // it is a context

	unit *Unit
	// outer is the next context below that has a unit, or nil.
	outer *unitContext
}

func (c *unitContext) Value(key any) any {
	if key == (unitKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// Context returns a context whose InTx, TxFromContext and JoinDB join the unit.
func (u *Unit) Context(ctx context.Context) context.Context {
	outer := unitsIn(ctx)
	if outer != nil && outer.unit == u {
		return ctx
	}
	return &unitContext{ctx, u, outer}
}

// UnitFromContext returns the store's unit of work in the context, or nil.
func (s *Store) UnitFromContext(ctx context.Context) *Unit {
	for c := unitsIn(ctx); c != nil; c = c.outer {
		if c.unit.store == s {
			return c.unit
		}
	}
	return nil
}

func unitsIn(ctx context.Context) *unitContext {
	c, _ := ctx.Value(unitKey{}).(*unitContext)
	return c
}

func unitFrom(ctx context.Context) *Unit {
	if c := unitsIn(ctx); c != nil {
		return c.unit
	}
	return nil
}

// Join returns a context whose InTx, TxFromContext, JoinDB and outbox publishes
// use a transaction that the caller began and will end. Nothing can be hooked to
// its commit: what is registered with BeforeCommit runs when the outermost InTx
// returns, and what is registered with AfterCommit never does.
//
// An outermost InTx that records a message (Dedupe's does) and fails undoes what it
// did, so that the caller may deliver the message again within the transaction.
// watermill-sql's own subscriber does so after a nack; but it also commits what a
// handler has written so far when its deadline passes or it is closed, which
// nothing here can prevent: the brokers of Headrace do.
//
// After an error that matches ErrDoomed the caller must roll back: MySQL and
// SQLite may already have done so, and what is then sent through the *sql.Tx
// itself would run outside of any transaction.
func (s *Store) Join(ctx context.Context, tx *sql.Tx) context.Context {
	return s.JoinSession(ctx, txSession{tx})
}

// JoinSession is Join for a transaction of a library other than database/sql.
func (s *Store) JoinSession(ctx context.Context, session Session) context.Context {
	u := newUnit(ctx, s)
	u.session = session
	return u.Context(ctx)
}

// BeforeCommit registers f to run in the context's unit of work, just before its
// commit, in the order of registration. An error rolls the unit back.
func BeforeCommit(ctx context.Context, f func(ctx context.Context, tx Tx) error) error {
	u := unitFrom(ctx)
	if u == nil {
		return ErrNoUnit
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return ErrUnitOver
	}
	u.beforeCommit = append(u.beforeCommit, f)
	return nil
}

// AfterCommit registers f to run after the context's unit of work was committed,
// on the goroutine that committed it. It must not block.
func AfterCommit(ctx context.Context, f func()) error {
	u := unitFrom(ctx)
	if u == nil {
		return ErrNoUnit
	}
	return u.onCommit(f)
}

func (u *Unit) onCommit(f func()) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return ErrUnitOver
	}
	u.afterCommit = append(u.afterCommit, f)
	return nil
}

// afterCommitOf registers f with the unit that tx belongs to. A Tx of another
// kind is a user's own wrapper: then the context says which unit it is.
func (s *Store) afterCommitOf(ctx context.Context, tx Tx, f func()) error {
	if handle, ok := tx.(txHandle); ok {
		return handle.unit.onCommit(f)
	}
	if u := s.UnitFromContext(ctx); u != nil {
		return u.onCommit(f)
	}
	return ErrNoUnit
}

// CurrentUnit returns the unit of work in the context, whatever its store, or
// nil.
func CurrentUnit(ctx context.Context) *Unit { return unitFrom(ctx) }
