package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// savepoint is a part of a unit that can be undone on its own. Hooks that were
// registered inside it go with it.
//
// The database keeps savepoints as a stack, but code that began two transactions
// on a *sql.DB may end them in any order. The unit keeps the same stack, so that
// ending one tells those above it what became of them.
type savepoint struct {
	writeCounts // guarded by the unit's mutex

	unit *Unit
	name string
	// scoped: everything that happens while it is open belongs to it. A nested
	// transaction of JoinDB isn't scoped: only its own statements do.
	scoped bool
	// parent is the nested transaction that it was begun in by way of that one, nil
	// when it was begun beside what else is open.
	parent *savepoint

	// Guarded by the unit's mutex. ended: it was committed or rolled back itself.
	state savepointState
	ended bool
	// below holds the counts of the savepoints below it as they were when it was
	// opened: its rollback undoes what was counted since.
	below                     []writeCounts
	beforeCommit, afterCommit int
	failedBefore              error
	errorBefore               error
}

// writeCounts are of writes since a savepoint's opening.
type writeCounts struct {
	// own came through it, or through a child of it that was committed.
	own int
	// others are somebody else's who takes them for granted: they came through no
	// nested transaction, or through one that was committed. Its rollback would
	// undo them with its own.
	others int
}

type savepointState int

const (
	savepointOpen savepointState = iota
	// savepointDone: released, or part of one around it that was released.
	savepointDone
	// savepointUndone: rolled back, or part of one around it that was.
	savepointUndone
)

func (u *Unit) openSavepoint(ctx context.Context, parent *savepoint, scoped bool) (*savepoint, error) {
	if err := u.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer u.giveTurn()
	if err := u.usable(nil); err != nil {
		return nil, err
	}
	u.settleRows()
	u.mu.Lock()
	u.savepoints++
	name := "headrace_" + strconv.Itoa(u.savepoints)
	u.mu.Unlock()
	if err := u.control(ctx, "SAVEPOINT "+name); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	sp := &savepoint{
		unit: u, name: name, scoped: scoped, parent: parent,
		beforeCommit: len(u.beforeCommit), afterCommit: len(u.afterCommit),
		failedBefore: u.failed, errorBefore: u.firstError,
	}
	for _, lower := range u.stack {
		sp.below = append(sp.below, lower.writeCounts)
	}
	u.stack = append(u.stack, sp)
	return sp, nil
}

// control sends a statement that shapes the transaction. The caller has the turn.
func (u *Unit) control(ctx context.Context, statement string) error {
	if _, err := u.session.Exec(ctx, statement, nil); err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.firstError == nil {
			u.firstError = err
		}
		if u.store.dialect != Postgres || sqlState(err) == "" || cancelled(ctx, err) {
			u.endLocked(err) // the transaction is not what it was thought to be
		}
		return fmt.Errorf("store: %s: %w", statement, err)
	}
	return nil
}

// release keeps what was done since the savepoint.
func (sp *savepoint) release(ctx context.Context) error {
	u := sp.unit
	if err := u.takeTurn(ctx); err != nil {
		return err
	}
	defer u.giveTurn()
	u.mu.Lock()
	err, state, done := u.brokenLocked(), sp.state, sp.ended
	sp.ended = true
	u.mu.Unlock()
	switch {
	case err != nil:
		return err
	case done:
		return sql.ErrTxDone
	case state == savepointUndone:
		return errUndone
	case state == savepointDone:
		return nil
	}
	u.settleRows()
	if err := u.control(ctx, "RELEASE SAVEPOINT "+sp.name); err != nil {
		return err
	}
	sp.pop(savepointDone)
	return nil
}

// rollback undoes what was done since the savepoint.
func (sp *savepoint) rollback(ctx context.Context) error {
	u := sp.unit
	if err := u.takeTurn(ctx); err != nil {
		return err
	}
	defer u.giveTurn()
	u.mu.Lock()
	over, ended, state, others, done := u.over, u.ended, sp.state, sp.others, sp.ended && sp.state != savepointOpen
	sp.ended = true
	u.mu.Unlock()
	switch {
	case over:
		return ErrUnitOver
	case done: // the usual deferred Rollback behind a Commit
		return sql.ErrTxDone
	case ended != nil:
		return ended
	case state == savepointUndone:
		return nil
	case state == savepointDone:
		err := errors.New("a nested transaction was rolled back after the one that it was begun in had been committed: " +
			"end them in the reverse order")
		u.fail(err)
		return err
	case others > 0 && !sp.scoped:
		// Undoing them would lose what the rest of the unit counts on (a publish,
		// for instance) without anyone being told.
		err := fmt.Errorf("the rollback of a nested transaction would undo %d statements that were run beside it "+
			"or in another nested transaction that was committed meanwhile: run them through it, or before it begins", others)
		u.fail(err)
		return err
	}
	u.settleRows()
	if err := u.control(ctx, "ROLLBACK TO SAVEPOINT "+sp.name); err != nil {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.endLocked(err)
		return err
	}
	sp.pop(savepointUndone)
	u.mu.Lock()
	u.beforeCommit = u.beforeCommit[:min(sp.beforeCommit, len(u.beforeCommit))]
	u.afterCommit = u.afterCommit[:min(sp.afterCommit, len(u.afterCommit))]
	u.firstError = sp.errorBefore
	if sp.scoped { // what failed beside a nested transaction isn't undone by its rollback
		u.failed = sp.failedBefore
	}
	u.mu.Unlock()
	return u.control(ctx, "RELEASE SAVEPOINT "+sp.name)
}

// pop takes the savepoint and those above it off the stack.
func (sp *savepoint) pop(state savepointState) {
	u := sp.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	at := slices.Index(u.stack, sp)
	if at < 0 {
		return
	}
	popped := u.stack[at:]
	u.stack = u.stack[:at]
	for _, ended := range popped {
		ended.state = state
	}
	if state == savepointUndone {
		for i, lower := range u.stack {
			lower.writeCounts = sp.below[i]
		}
		return
	}
	for _, ended := range popped {
		u.countLocked(ended, ended.own)
	}
}

// countWrite counts a write through a savepoint or, with nil, through none.
func (u *Unit) countWrite(via *savepoint) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.countLocked(via, 1)
}

// countLocked tells the savepoints that would undo writes which aren't theirs.
// What lies below the one that they came through hears of them when that one is
// committed: until then nobody takes them for granted.
func (u *Unit) countLocked(via *savepoint, writes int) {
	for via != nil && via.state != savepointOpen {
		via = via.parent
	}
	for _, sp := range slices.Backward(u.stack) {
		if sp == via {
			sp.own += writes
			return
		}
		sp.others += writes
	}
}

// unended returns an error when a nested transaction is still open: in a
// database of its own it would never have been committed.
func (u *Unit) unended() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, sp := range u.stack {
		if !sp.scoped {
			return fmt.Errorf("%w: a transaction begun through JoinDB was neither committed nor rolled back", ErrDoomed)
		}
	}
	return nil
}

// Savepoint runs fn in a savepoint of the context's unit of work: when it fails
// or panics, its statements, publishes and hooks are undone and the unit goes
// on. Errors match ErrNoUnit when there is none.
func Savepoint(ctx context.Context, fn func(ctx context.Context, tx Tx) error) error {
	u := unitFrom(ctx)
	if u == nil {
		return ErrNoUnit
	}
	return u.savepoint(ctx, fn)
}

func (u *Unit) savepoint(ctx context.Context, fn func(context.Context, Tx) error) error {
	sp, err := u.openSavepoint(ctx, nil, true)
	if err != nil {
		return err
	}
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			_ = sp.rollback(context.WithoutCancel(ctx))
		}
	}()
	err = fn(u.Context(ctx), u.Tx())
	returned = true
	if err == nil {
		err = u.unendedSince(sp)
	}
	if err == nil {
		return sp.commit(context.WithoutCancel(ctx))
	}
	if undo := sp.rollback(context.WithoutCancel(ctx)); undo != nil {
		return errors.Join(err, undo)
	}
	return err
}

// commit releases the savepoint or, where that fails, undoes it, as COMMIT of an
// aborted transaction does.
func (sp *savepoint) commit(ctx context.Context) error {
	err := sp.release(ctx)
	if err == nil || errors.Is(err, errUndone) || errors.Is(err, sql.ErrTxDone) {
		return err
	}
	if undo := sp.rollback(ctx); undo != nil && !errors.Is(undo, ErrUnitOver) {
		return errors.Join(err, undo)
	}
	return err
}

func (u *Unit) unendedSince(sp *savepoint) error {
	u.mu.Lock()
	above := len(u.stack) > 0 && u.stack[len(u.stack)-1] != sp
	u.mu.Unlock()
	if above {
		return u.unended()
	}
	return nil
}

// Nested is a transaction within a unit of work, for libraries with a
// transaction type of their own.
type Nested struct{ sp *savepoint }

// BeginNested opens a savepoint. Statements that run while it is open and don't
// come through Raw of its own or of one begun in it would be undone by its
// Rollback, too, as would those of another nested transaction that was begun after
// it and has been committed; then the Rollback fails and the unit can't be
// committed.
func (u *Unit) BeginNested(ctx context.Context) (*Nested, error) { return u.beginNested(ctx, nil) }

// BeginNested opens a savepoint within this one, whose Rollback undoes what the
// inner one has committed.
func (n *Nested) BeginNested(ctx context.Context) (*Nested, error) {
	return n.sp.unit.beginNested(ctx, n.sp)
}

func (u *Unit) beginNested(ctx context.Context, parent *savepoint) (*Nested, error) {
	sp, err := u.openSavepoint(ctx, parent, false)
	if err != nil {
		return nil, err
	}
	return &Nested{sp}, nil
}

// Raw is Unit.Raw for a statement of the nested transaction.
func (n *Nested) Raw(ctx context.Context, query string, f func(driverConn any) error) error {
	return n.sp.unit.raw(ctx, query, n.sp, f)
}

// Commit keeps what was done: the unit decides in the end. After a Commit or
// Rollback, both return sql.ErrTxDone and do nothing.
func (n *Nested) Commit(ctx context.Context) error { return n.sp.commit(ctx) }

// Rollback undoes what was done.
func (n *Nested) Rollback(ctx context.Context) error { return n.sp.rollback(ctx) }
