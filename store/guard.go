package store

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// run passes one statement through the unit's guard: it is refused when the
// transaction is over, counted, timed, and its error is looked at, because some
// errors mean that the database has already ended the transaction.
func (u *Unit) run(ctx context.Context, query string, f func() error) error {
	if err := u.usable(); err != nil {
		return err
	}
	start := time.Now()
	err := f()
	u.observe(query, time.Since(start), err)
	if err != nil {
		return u.explain(ctx, query, err)
	}
	return nil
}

func (u *Unit) usable() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.over:
		return ErrUnitOver
	case u.doomed != nil:
		return u.doomed
	}
	return nil
}

func (u *Unit) observe(query string, took time.Duration, err error) {
	d := u.store.dialect
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats.Statements++
	if took > u.stats.SlowestTook {
		u.stats.SlowestTook, u.stats.Slowest = took, query
	}
	if err == nil {
		return
	}
	if d.contention(err) || d.lockTimeout(err) {
		u.stats.LockWait += took
		u.stats.Slowest = query
	}
	if d.ends(err) {
		u.doom(err)
	}
}

// doom is called with the lock held.
func (u *Unit) doom(cause error) {
	if u.doomed == nil {
		u.doomed = fmt.Errorf("%w: %w", ErrDoomed, cause)
	}
}

// waited counts the time of a statement that does nothing but wait for others.
func (u *Unit) waited(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stats.LockWait += d
}

// rowsFailed looks at an error that came while rows were read.
func (u *Unit) rowsFailed(err error) {
	if err != nil && u.store.dialect.ends(err) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.doom(err)
	}
}

func (u *Unit) explain(ctx context.Context, query string, err error) error {
	d := u.store.dialect
	if d.lockTimeout(err) && !d.contention(err) {
		return &timeoutError{
			sentinel: ErrLockTimeout, what: fmt.Sprintf("statement %q got no lock", firstWords(query)),
			waited: u.store.cfg.LockTimeout, cause: err,
		}
	}
	if d.missingTable(err) && strings.Contains(err.Error(), u.store.cfg.Prefix) {
		return fmt.Errorf("%w: run `headrace migrate up`: %w", ErrSchemaMissing, err)
	}
	return err
}

// firstWords shortens a statement for messages. It holds placeholders, never
// values.
func firstWords(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if len(query) > 80 {
		return query[:80] + "…"
	}
	return query
}
