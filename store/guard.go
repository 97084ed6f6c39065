package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// guarded passes every statement of a unit through its guard. via is the nested
// transaction that the statement belongs to, or nil.
type guarded struct {
	unit *Unit
	via  *savepoint
}

func (g guarded) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = g.unit.run(ctx, query, g.via, true, func() (err error) {
		res, err = g.unit.session.Exec(ctx, query, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (g guarded) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	u := g.unit
	var guardedRows *unitRows
	err := u.run(ctx, query, g.via, !u.store.dialect.readsOnly(query), func() error {
		rows, err := u.session.Query(ctx, query, args)
		if err != nil {
			return err
		}
		guardedRows = newUnitRows(u, rows)
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.reading == nil { // most units read nothing
			u.reading = map[*unitRows]struct{}{}
		}
		u.reading[guardedRows] = struct{}{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return guardedRows, nil
}

// run passes one statement through the unit's guard: it waits for its turn on
// the connection, is refused when the transaction is over, counted and timed,
// and its error is looked at, because some errors mean that the database has
// already ended the transaction.
func (u *Unit) run(ctx context.Context, query string, via *savepoint, writes bool, f func() error) error {
	if err := u.store.dialect.refuseEnding(query); err != nil {
		return err
	}
	if err := u.takeTurn(ctx); err != nil {
		return err
	}
	defer u.giveTurn()
	if err := u.usable(via); err != nil {
		return err
	}
	if writes {
		u.countWrite(via)
	}
	u.settleRows()
	start := time.Now()
	err := f()
	took := time.Since(start)
	if err != nil {
		u.endIfGone(err)
	}
	u.observe(ctx, query, took, err)
	if err != nil {
		return u.explain(query, err)
	}
	return nil
}

// Raw runs f on the connection of the SQL driver that carries the unit, for
// statements that only that driver's own interface can send. It passes the
// unit's guard like any other statement: query names it in statistics and
// errors, which never get its arguments. f must not begin, commit or roll back, nor run
// other statements of the unit, which would wait for it.
// For a transaction that was joined driverConn is its Session. An empty query
// says that f sends nothing.
func (u *Unit) Raw(ctx context.Context, query string, f func(driverConn any) error) error {
	return u.raw(ctx, query, nil, f)
}

func (u *Unit) raw(ctx context.Context, query string, via *savepoint, f func(driverConn any) error) error {
	return u.run(ctx, query, via, !u.store.dialect.readsOnly(query), func() error {
		if u.conn == nil {
			return f(u.session)
		}
		return u.conn.Raw(f)
	})
}

// takeTurn lets one statement at a time reach the connection.
func (u *Unit) takeTurn(ctx context.Context) error {
	select {
	case u.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case u.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("store: wait for the unit's other statement: %w", ctx.Err())
	}
}

func (u *Unit) giveTurn() { <-u.turn }

// settleRows frees the connection of results that are still being read.
func (u *Unit) settleRows() {
	for _, rows := range u.openRows() {
		rows.settle()
	}
}

func (u *Unit) openRows() []*unitRows {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.reading) == 0 {
		return nil
	}
	open := make([]*unitRows, 0, len(u.reading))
	for rows := range u.reading {
		open = append(open, rows)
	}
	return open
}

func (u *Unit) usable(via *savepoint) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.brokenLocked(); err != nil {
		return err
	}
	if via != nil && via.state == savepointUndone {
		return errUndone
	}
	return nil
}

var errUndone = fmt.Errorf("%w: this nested transaction was undone with the one that it was begun in", ErrDoomed)

// brokenLocked says why the unit takes no more statements, or nil.
func (u *Unit) brokenLocked() error {
	switch {
	case u.over:
		return ErrUnitOver
	case u.ended != nil:
		return u.ended
	}
	return u.failed
}

func (u *Unit) observe(ctx context.Context, query string, took time.Duration, err error) {
	d := u.store.dialect
	u.mu.Lock()
	defer u.mu.Unlock()
	if query != "" {
		u.stats.Statements++
	}
	if took > u.stats.SlowestTook {
		u.stats.SlowestTook, u.stats.Slowest = took, query
	}
	if err == nil {
		return
	}
	if u.firstError == nil {
		u.firstError = fmt.Errorf("statement %q: %w", firstWords(query), err)
	}
	if d.contention(err) || d.lockTimeout(err) {
		u.stats.LockWait += took
		u.contended = query
	}
	if d.ends(err) || cancelled(ctx, err) || errors.Is(err, driver.ErrBadConn) {
		u.endLocked(err)
	}
}

// endLocked records that the database has ended the transaction by itself, or
// that its connection is gone.
func (u *Unit) endLocked(cause error) {
	if u.ended == nil {
		u.ended = fmt.Errorf("%w: %w", ErrDoomed, cause)
	}
}

// fail records that the unit must not be committed: a part of it failed, though
// the transaction itself could go on. Rolling back to a savepoint from before
// takes it back.
func (u *Unit) fail(cause error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed == nil {
		u.failed = fmt.Errorf("%w: %w", ErrDoomed, cause)
	}
}

// waited counts the time of a statement that does nothing but wait for others.
func (u *Unit) waited(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats.LockWait += d
}

// endIfGone asks SQLite after an error whether it has rolled the transaction back
// by itself. A statement can tell it to (INSERT OR ROLLBACK, ON CONFLICT ROLLBACK,
// RAISE(ROLLBACK)), and its error is a constraint's like any other. What the
// handler sent next would be committed at once.
func (u *Unit) endIfGone(cause error) {
	if u.store.dialect != SQLite {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), u.store.cfg.CommitTimeout)
	defer cancel()
	_, err := u.session.Exec(ctx, "BEGIN", nil)
	if err != nil && strings.Contains(err.Error(), "within a transaction") {
		return
	}
	if err == nil {
		_, _ = u.session.Exec(ctx, "ROLLBACK", nil) // an empty transaction
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.endLocked(cause)
}

// rowsFailed looks at an error that came while rows were read.
func (u *Unit) rowsFailed(err error) {
	u.endIfGone(err)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.firstError == nil {
		u.firstError = fmt.Errorf("reading rows: %w", err)
	}
	if u.store.dialect.ends(err) || cancelled(context.Background(), err) {
		u.endLocked(err)
	}
}

func (u *Unit) explain(query string, err error) error {
	d := u.store.dialect
	if d.lockTimeout(err) {
		return &timeoutError{
			sentinel: ErrLockTimeout, what: fmt.Sprintf("statement %q got no lock", firstWords(query)),
			waited: u.store.cfg.LockTimeout, cause: err, hint: hintUnit,
		}
	}
	if d.missingTable(err) && strings.Contains(err.Error(), u.store.cfg.Prefix) {
		return fmt.Errorf("%w: %s: %w", ErrSchemaMissing, wayToMigrate, err)
	}
	return err
}

// firstWords shortens a statement for messages. It holds placeholders, never
// values.
func firstWords(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if len(query) > 80 {
		return strings.ToValidUTF8(query[:80], "") + "…"
	}
	return query
}
