package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/headrace-go/headrace/internal/step"
)

// Unit is one open transaction and what hangs on it. Most code uses InTx, which
// begins, commits and rolls back; Begin is for those who must do so themselves,
// such as a subscriber that reads its messages in the transaction.
//
// Its statements may come from several goroutines; one at a time reaches the
// database.
type Unit struct {
	store *Store
	// session runs the statements: on the unit's own connection, or in a
	// transaction that somebody else owns.
	session Session
	// conn is nil for a foreign transaction.
	conn  *sqlx.Conn
	about About
	// quiet: InTx has begun it and will end it, and reports, summing up several
	// attempts.
	quiet bool
	begun time.Time

	// turn is held by the statement that is on the connection. It is taken before
	// mu, never after it.
	turn chan struct{}

	mu   sync.Mutex
	over bool
	// ended: the database rolled the transaction back by itself, or the
	// connection is gone. failed: the unit must not be committed.
	ended, failed error
	// firstError is the first statement's error, for a COMMIT that the database
	// refuses because of it.
	firstError   error
	contended    string
	depth        int
	beforeCommit []func(context.Context, Tx) error
	// unnumbered are rows of the outbox that get their numbers behind all hooks.
	unnumbered  []OutboxRow
	afterCommit []func()
	savepoints  int
	stack       []*savepoint
	// attempt holds what InTx did since it recorded its message, in a transaction
	// that somebody else will end (see openAttempt).
	attempt *savepoint
	// idle is made by a commit that waits, and closed when no part is at work.
	idle    chan struct{}
	reading map[*unitRows]struct{}
	stats   TxStats

	// lent is the *sql.Tx that the handler gets.
	lent *handle
}

// handle is a *sqlx.Tx of the joined database that stands for the unit's
// transaction, made on first use.
type handle struct {
	once sync.Once
	tx   *sqlx.Tx
	err  error
	// freed: the unit is ending it, not the handler.
	freed atomic.Bool
}

func newUnit(ctx context.Context, s *Store) *Unit {
	return &Unit{
		store: s, about: AboutFromContext(ctx), begun: time.Now(),
		turn: make(chan struct{}, 1), lent: &handle{},
	}
}

// Over reports whether the unit was committed or rolled back.
func (u *Unit) Over() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.over
}

// Tx returns the unit's statements.
func (u *Unit) Tx() Tx { return txHandle{u} }

// Doomed returns why the unit can only be rolled back, or nil.
func (u *Unit) Doomed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended != nil {
		return u.ended
	}
	return u.failed
}

// Commit runs what was registered with BeforeCommit, commits, then runs what was
// registered with AfterCommit. Before that it waits for every InTx in the unit to
// return, up to Config.CommitTimeout. It goes on when ctx is cancelled. When it returns
// an error the unit is rolled back, unless the error matches ErrCommitUnknown.
func (u *Unit) Commit(ctx context.Context) error {
	if u.conn == nil {
		return ErrOwned
	}
	ctx = context.WithoutCancel(ctx)
	prepared := false
	defer func() {
		if !prepared { // a hook panicked
			u.Rollback(ctx, errors.New("a hook did not return"))
		}
	}()
	err := u.awaitParts()
	if err == nil {
		err = u.prepare(ctx)
	}
	prepared = true
	if err != nil {
		u.Rollback(ctx, err)
		return err
	}
	step.Reach(ctx, step.TxBeforeCommit)
	if err := u.sendCommit(ctx); err != nil {
		u.Rollback(ctx, err)
		return err
	}
	after := u.finish(nil)
	step.Reach(ctx, step.TxAfterCommit)
	runAll(after)
	return nil
}

// runAll runs the rest also when one of them panics: their unit is committed.
func runAll(hooks []func()) {
	if len(hooks) == 0 {
		return
	}
	defer runAll(hooks[1:])
	hooks[0]()
}

// sendCommit marks the unit as over while it still has the turn: a statement that
// slipped in after COMMIT would run on its own.
func (u *Unit) sendCommit(ctx context.Context) error {
	if err := u.takeTurn(ctx); err != nil {
		return err
	}
	defer u.giveTurn()
	u.mu.Lock()
	err := u.brokenLocked()
	u.mu.Unlock()
	if err != nil {
		return err
	}
	for _, rows := range u.openRows() {
		rows.end()
	}
	err = u.store.begin.sendCommit(ctx, u)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		err = u.explainCommit(err)
		u.endLocked(err)
		return err
	}
	u.over = true
	return nil
}

// prepare runs the hooks that belong in the transaction.
func (u *Unit) prepare(ctx context.Context) error {
	for {
		u.mu.Lock()
		hooks, err := u.beforeCommit, u.brokenLocked()
		u.beforeCommit = nil
		u.mu.Unlock()
		if err != nil {
			return err
		}
		if len(hooks) == 0 {
			if numbered, err := u.number(ctx); err != nil || numbered {
				if err != nil {
					return fmt.Errorf("store: before commit: %w", err)
				}
				continue
			}
			return u.unended()
		}
		for _, hook := range hooks {
			if err := hook(u.Context(ctx), u.Tx()); err != nil {
				return fmt.Errorf("store: before commit: %w", err)
			}
		}
	}
}

// explainCommit tells a COMMIT that the database refused, which is rolled back,
// from one whose answer never came. It is called with the lock held.
func (u *Unit) explainCommit(err error) error {
	const abortedTransaction = "25P02"
	switch {
	case sqlState(err) == abortedTransaction:
		if u.firstError != nil {
			err = u.firstError
		}
		return fmt.Errorf("%w: a statement failed and its error was not returned: %w", ErrDoomed, err)
	case errors.Is(err, sql.ErrConnDone): // it was closed before, so COMMIT was not sent
		return fmt.Errorf("%w: its connection is gone: %w", ErrDoomed, err)
	case sqlState(err) == "" && mysqlNumber(err) == 0 && sqliteCode(err) == 0:
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	}
	return fmt.Errorf("store: commit: %w", err)
}

// Rollback undoes the unit. why is for logs and hooks. It goes on when ctx is
// cancelled; a connection that can't be rolled back is thrown away, which ends
// the transaction too.
func (u *Unit) Rollback(ctx context.Context, why error) {
	if u.conn == nil || !u.sendRollback(context.WithoutCancel(ctx)) {
		return
	}
	if why == nil {
		why = errors.New("rolled back")
	}
	u.finish(why)
}

func (u *Unit) sendRollback(ctx context.Context) bool {
	_ = u.takeTurn(ctx) // can't fail: the context is never cancelled
	defer u.giveTurn()
	u.mu.Lock()
	over := u.over
	u.over = true
	u.mu.Unlock()
	if over {
		return false
	}
	for _, rows := range u.openRows() {
		rows.end()
	}
	bounded, cancel := context.WithTimeout(ctx, u.store.cfg.CommitTimeout)
	defer cancel()
	err := sendRollback(bounded, u)
	if err != nil && (u.store.dialect != SQLite || sqliteCode(err) == 0) {
		// SQLite refuses ROLLBACK when it has already rolled back by itself.
		u.expel()
	}
	return true
}

// expel makes the pool close the connection instead of using it again.
func (u *Unit) expel() {
	_ = u.conn.Raw(func(any) error { return driver.ErrBadConn })
}

// discard gives back what Begin took before there was a transaction.
func (u *Unit) discard() {
	u.expel()
	_ = u.conn.Close()
	u.store.unlockWriter()
}

// finish frees what the unit holds, once it is over.
func (u *Unit) finish(why error) []func() {
	u.mu.Lock()
	after := u.afterCommit
	u.stats.Length = time.Since(u.begun)
	u.stats.Committed = why == nil
	u.stats.Err = why
	u.stats.Attempts, u.stats.About = 1, u.about
	stats := u.stats
	u.mu.Unlock()
	u.lent.free()
	_ = u.conn.Close()
	u.store.unlockWriter()
	if !u.quiet {
		u.store.report(stats)
	}
	return after
}

// free ends the handle, not the transaction, which is the unit's.
func (h *handle) free() {
	h.once.Do(func() {})
	h.freed.Store(true)
	if h.tx != nil {
		_ = h.tx.Rollback()
	}
}

// measured returns what the unit has measured so far.
func (u *Unit) measured() (stats TxStats, contended string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.stats, u.contended
}
