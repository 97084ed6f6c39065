package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// InTx runs fn in the context's unit of work, or in a new one that it commits
// when fn returns nil and rolls back otherwise.
//
// The outermost InTx runs fn again when the database chose its transaction as
// the victim of a deadlock or serialization failure, up to Config.MaxRetries
// times; after that the error matches ErrContention. fn must therefore keep its
// effects in the transaction.
//
// A nested InTx that fails dooms the whole unit, so that an error which the
// outer code swallows can't commit half of what belongs together. Use Savepoint
// where a part may fail on its own.
//
// Cancelling ctx stops fn's own statements. It does not stop the commit of a fn
// that has returned nil.
func (s *Store) InTx(ctx context.Context, fn func(ctx context.Context, tx Tx) error) error {
	if u := s.UnitFromContext(ctx); u != nil {
		return u.join(ctx, fn)
	}
	last, err := s.attempt(ctx, fn)
	last.Attempts = 1
	if err != nil && s.IsContention(err) {
		last, err = s.attemptAgain(ctx, fn, last, err)
	}
	if err != nil && s.IsContention(err) && !errors.Is(err, ErrLockTimeout) {
		err = fmt.Errorf("%w: %d attempts: %w", ErrContention, last.Attempts, err)
		fields := AboutFromContext(ctx).logFields()
		fields["attempts"] = last.Attempts
		s.cfg.Logger.Error("Transaction lost against concurrent ones on every attempt", err, fields)
	}
	last.Err, last.About = err, AboutFromContext(ctx)
	s.report(last)
	return err
}

// attemptAgain goes on after a first attempt that lost. The policy isn't made
// before it is needed: it costs as much as the rest of InTx.
func (s *Store) attemptAgain(
	ctx context.Context, fn func(context.Context, Tx) error, last TxStats, lost error,
) (TxStats, error) {
	attempts := 0
	// failsafe isn't given the context: it would report a cancelled one as an
	// error even when the attempt has committed.
	err := failsafe.With(s.retryPolicy(ctx)).Run(func() (err error) {
		attempts++
		if attempts == 1 {
			return lost
		}
		last, err = s.attempt(ctx, fn)
		return err
	})
	last.Attempts = attempts
	return last, err
}

func (s *Store) retryPolicy(ctx context.Context) retrypolicy.RetryPolicy[any] {
	timeouts := 0
	return retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool {
			if errors.Is(err, ErrLockTimeout) {
				timeouts++
			}
			return s.retryable(err, timeouts) && ctx.Err() == nil
		}).
		WithMaxRetries(s.cfg.MaxRetries).
		WithBackoff(s.cfg.RetryBackoff, 50*s.cfg.RetryBackoff).
		WithJitterFactor(0.5).
		ReturnLastFailure().
		OnRetry(func(e failsafe.ExecutionEvent[any]) {
			fields := AboutFromContext(ctx).logFields()
			fields["attempt"] = e.Attempts()
			fields["cause"] = e.LastError().Error()
			s.cfg.Logger.Info("Transaction lost against a concurrent one, running it again", fields)
		}).
		Build()
}

// retryable: a lock timeout has used up its wait already. MySQL alone is given a
// second one, because it reports deadlocks as lock timeouts when its deadlock
// detection is off.
func (s *Store) retryable(err error, timeouts int) bool {
	if errors.Is(err, errWaitedForCopy) || !s.IsContention(err) {
		return false
	}
	return timeouts == 0 || (s.dialect == MySQL && timeouts == 1)
}

func (s *Store) attempt(ctx context.Context, fn func(context.Context, Tx) error) (stats TxStats, err error) {
	u, err := s.Begin(ctx)
	if err != nil {
		return TxStats{}, err
	}
	u.quiet = true
	ended := false
	defer func() {
		if !ended { // a panic or runtime.Goexit must not leave the transaction open
			u.Rollback(ctx, errors.New("the handler did not return"))
		}
	}()
	if err = u.join(ctx, fn); err == nil {
		err = u.Commit(ctx)
	} else {
		u.Rollback(ctx, err)
	}
	ended = true
	stats, contended := u.measured()
	if err != nil && s.IsContention(err) && !errors.Is(err, ErrLockTimeout) {
		err = fmt.Errorf("statement %q: %w", firstWords(contended), err)
	}
	return stats, err
}

// join runs fn in the unit.
func (u *Unit) join(ctx context.Context, fn func(context.Context, Tx) error) error {
	outermost := u.enter()
	defer u.leave()
	u.store.strays.working.Add(1)
	defer u.store.strays.working.Add(-1)
	if err := u.usable(nil); err != nil {
		return err
	}
	if outermost && !u.quiet {
		if u.conn == nil {
			defer u.leaveForeign()
		}
		return u.joinAttempt(ctx, fn)
	}
	returned := false
	defer func() {
		if !returned { // a panic that outer code may recover from, or runtime.Goexit
			u.fail(errors.New("a part of it did not return"))
		}
	}()
	err := fn(u.Context(ctx), u.Tx())
	returned = true
	if err != nil {
		u.fail(err)
	}
	return err
}

// joinAttempt runs fn in a transaction that somebody other than InTx will end.
func (u *Unit) joinAttempt(ctx context.Context, fn func(context.Context, Tx) error) error {
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit
			_ = u.endAttempt(ctx, errors.New("the handler did not return"))
		}
	}()
	err := fn(u.Context(ctx), u.Tx())
	if err == nil && u.conn == nil {
		err = u.prepare(ctx) // its commit can't be hooked
	}
	returned = true
	return u.endAttempt(ctx, err)
}

// openAttempt opens a savepoint before a message is recorded in a transaction that
// somebody other than InTx will end: a subscriber. What stands around Dedupe may
// try again in it, or put the message aside and have it acked. watermill-sql's own
// subscriber delivers a message again within its transaction after a nack: the
// inbox row of the attempt that failed would make the next one look like a
// duplicate, whose ack loses the message.
func (u *Unit) openAttempt(ctx context.Context) error {
	if u.quiet {
		return nil
	}
	u.mu.Lock()
	inside := u.depth > 0 && len(u.stack) == 0
	u.mu.Unlock()
	if !inside {
		return nil
	}
	sp, err := u.openSavepoint(ctx, nil, true)
	if err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attempt = sp
	return nil
}

// endAttempt keeps or undoes what was done since openAttempt. Without one, and
// after losing against a concurrent transaction, which every further attempt in
// this one would, a failure leaves the unit doomed.
func (u *Unit) endAttempt(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	u.mu.Lock()
	sp, acked := u.attempt, u.idle != nil // a commit that waits is an ack that came early
	u.attempt = nil
	u.mu.Unlock()
	switch {
	case sp != nil && err == nil:
		return sp.commit(ctx)
	case sp != nil:
		undo := sp.rollback(ctx)
		if undo == nil && !u.store.IsContention(err) && !acked {
			return err
		}
		u.fail(err)
		return errors.Join(err, undo)
	case err != nil:
		u.fail(err)
	}
	return err
}

// leaveForeign takes back what was lent in a transaction whose end nobody tells
// the unit of.
func (u *Unit) leaveForeign() {
	u.mu.Lock()
	lent := u.lent
	u.lent = &handle{}
	u.mu.Unlock()
	lent.free()
}

func (u *Unit) enter() (outermost bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.depth++
	return u.depth == 1
}

func (u *Unit) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.depth--
	if u.depth == 0 && u.idle != nil {
		close(u.idle)
		u.idle = nil
	}
}

// awaitParts waits, before a commit, for parts of the unit that are at work: of a
// handler that acks its message before it is done, or that has left a goroutine
// behind. What they have done so far would be half of what belongs together.
func (u *Unit) awaitParts() error {
	u.mu.Lock()
	if u.depth == 0 {
		u.mu.Unlock()
		return nil
	}
	if u.idle == nil {
		u.idle = make(chan struct{})
	}
	idle := u.idle
	u.mu.Unlock()
	timer := time.NewTimer(u.store.cfg.CommitTimeout)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: a part of it is still at work %s after it was to be committed: "+
			"was the message acked before its handler was done?", ErrDoomed, u.store.cfg.CommitTimeout)
	}
}

func (s *Store) report(stats TxStats) {
	if warn := s.cfg.WarnTxLonger; warn > 0 && stats.Length > warn {
		s.cfg.Logger.Info("Long transaction: keep it short, it holds locks and a connection",
			stats.About.logFields().Add(watermill.LogFields{
				"length":     stats.Length.Round(time.Millisecond),
				"threshold":  warn,
				"statements": stats.Statements,
				"lock_wait":  stats.LockWait.Round(time.Millisecond),
				"slowest":    firstWords(stats.Slowest),
			}))
	}
	for _, hook := range s.txHooks {
		hook.OnTx(stats)
	}
}
