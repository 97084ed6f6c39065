package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/headrace-go/headrace/internal/step"
)

// Unit is one open transaction and what hangs on it. Most code uses InTx, which
// begins, commits and rolls back; Begin is for those who must do so themselves,
// such as a subscriber that reads its messages in the transaction.
//
// Its statements may come from several goroutines, one at a time reaches the
// database.
type Unit struct {
	store *Store
	// session runs the statements: the unit's own connection, or a transaction
	// that somebody else owns.
	session session
	// conn is nil for a foreign transaction.
	conn  *sqlx.Conn
	about About
	// attempts wraps each outermost InTx in a savepoint (see Savepoints).
	attempts bool
	// quiet leaves reporting to InTx, which sums up several attempts.
	quiet bool

	mu           sync.Mutex
	over         bool
	doomed       error
	depth        int
	beforeCommit []func(context.Context, Tx) error
	afterCommit  []func()
	savepoints   int
	stats        TxStats
	begun        time.Time

	// handle is the *sql.Tx that is lent to the handler, made on first use.
	handleOnce sync.Once
	handle     *sqlx.Tx
	handleErr  error
}

// session is what runs a unit's statements: *sqlx.Conn or *sqlx.Tx.
type session interface {
	sqlx.QueryerContext
	sqlx.ExecerContext
}

// Begin opens a transaction on a connection of its own. ctx bounds only the
// opening: a unit outlives the cancellation of its message, so that a handler
// which has returned can still commit. The caller must call Commit or Rollback.
//
// Errors match ErrConnTimeout when no connection, or on SQLite no turn as the
// writer, came free within Config.ConnTimeout.
func (s *Store) Begin(ctx context.Context) (*Unit, error) {
	start := time.Now()
	u := &Unit{store: s, about: aboutFrom(ctx)}
	if err := s.lockWriter(ctx); err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		s.unlockWriter()
		return nil, err
	}
	u.conn, u.session = conn, conn
	if err := s.open(ctx, u, start); err != nil {
		u.discard()
		return nil, err
	}
	u.begun = time.Now()
	u.stats.ConnWait = u.begun.Sub(start)
	step.Reach(ctx, step.TxBegun)
	return u, nil
}

func (s *Store) connect(ctx context.Context) (*sqlx.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, s.cfg.ConnTimeout)
	defer cancel()
	conn, err := s.db.Connx(bounded)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		stats := s.db.Stats()
		return nil, &timeoutError{
			sentinel: ErrConnTimeout,
			what: fmt.Sprintf("%d of at most %d connections in use, none came free",
				stats.InUse, stats.MaxOpenConnections),
			waited: s.cfg.ConnTimeout,
		}
	}
	return nil, fmt.Errorf("store: get a database connection: %w", err)
}

// open sends BEGIN. On SQLite another process may be the writer, and a database
// opened without a busy timeout says so at once: then it asks again until
// ConnTimeout.
func (s *Store) open(ctx context.Context, u *Unit, start time.Time) error {
	for {
		err := s.begin.run(ctx, u.conn)
		if err == nil {
			return nil
		}
		if s.dialect != SQLite || !s.dialect.contention(err) {
			return fmt.Errorf("store: begin: %w", err)
		}
		if waited := time.Since(start); waited > s.cfg.ConnTimeout {
			return &timeoutError{
				sentinel: ErrLockTimeout, what: "another process holds SQLite's write lock", waited: waited, cause: err,
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("store: begin: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// lockWriter takes the process's turn as SQLite's one writer. Queueing here and
// not at the database's lock keeps waiting units fair and their connections free.
func (s *Store) lockWriter(ctx context.Context) error {
	if s.writer == nil {
		return nil
	}
	timer := time.NewTimer(s.cfg.ConnTimeout)
	defer timer.Stop()
	select {
	case s.writer <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("store: wait for the turn as SQLite's writer: %w", ctx.Err())
	case <-timer.C:
		return &timeoutError{
			sentinel: ErrLockTimeout, what: "this process's other unit of work is still writing to SQLite",
			waited: s.cfg.ConnTimeout,
		}
	}
}

func (s *Store) unlockWriter() {
	if s.writer != nil {
		<-s.writer
	}
}

// Savepoints makes every outermost InTx inside the unit run in a savepoint, so
// that an attempt that fails leaves the unit usable for the next one. It is for
// subscribers that deliver a message again within the same transaction. An
// attempt that loses against a concurrent transaction rolls the whole unit back:
// within it every further attempt would fail alike.
func (u *Unit) Savepoints() *Unit {
	u.attempts = true
	return u
}

// Context returns a context whose InTx, TxFromContext and JoinDB join the unit.
func (u *Unit) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, unitKey{}, u)
}

// DeliversAgain reports whether the unit belongs to a subscriber that delivers a
// message again within the same transaction (see Savepoints).
func (u *Unit) DeliversAgain() bool { return u.attempts }

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
	return u.doomed
}

// Commit runs what was registered with BeforeCommit, commits, then runs what was
// registered with AfterCommit. It goes on when ctx is cancelled. When it returns
// an error the unit is rolled back, unless the error matches ErrCommitUnknown.
func (u *Unit) Commit(ctx context.Context) error {
	if u.conn == nil {
		return ErrOwned
	}
	ctx = context.WithoutCancel(ctx)
	if err := u.prepare(ctx); err != nil {
		u.Rollback(ctx, err)
		return err
	}
	step.Reach(ctx, step.TxBeforeCommit)
	bounded, cancel := context.WithTimeout(ctx, u.store.cfg.CommitTimeout)
	defer cancel()
	if _, err := u.conn.ExecContext(bounded, u.store.begin.commit); err != nil {
		err = u.explainCommit(err)
		u.Rollback(ctx, err)
		return err
	}
	after := u.finish(nil)
	step.Reach(ctx, step.TxAfterCommit)
	for _, f := range after {
		f()
	}
	return nil
}

// prepare runs the hooks that belong in the transaction.
func (u *Unit) prepare(ctx context.Context) error {
	for {
		u.mu.Lock()
		hooks, over, doomed := u.beforeCommit, u.over, u.doomed
		u.beforeCommit = nil
		u.mu.Unlock()
		if over {
			return ErrUnitOver
		}
		if doomed != nil {
			return doomed
		}
		if len(hooks) == 0 {
			return nil
		}
		for _, hook := range hooks {
			if err := hook(u.Context(ctx), u.Tx()); err != nil {
				return fmt.Errorf("store: before commit: %w", err)
			}
		}
	}
}

// explainCommit tells a COMMIT that the database refused, which is rolled back,
// from one whose answer never came.
func (u *Unit) explainCommit(err error) error {
	const abortedTransaction = "25P02"
	switch {
	case sqlState(err) == abortedTransaction:
		return fmt.Errorf("%w: a statement failed and its error was not returned: %w", ErrDoomed, err)
	case sqlState(err) == "" && mysqlNumber(err) == 0 && sqliteCode(err) == 0:
		return fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	}
	return fmt.Errorf("store: commit: %w", err)
}

// Rollback undoes the unit. why is for logs and hooks. It goes on when ctx is
// cancelled; a connection that can't be rolled back is thrown away, which ends
// the transaction too.
func (u *Unit) Rollback(ctx context.Context, why error) {
	u.mu.Lock()
	over := u.over
	u.mu.Unlock()
	if over || u.conn == nil {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.store.cfg.CommitTimeout)
	defer cancel()
	_, err := u.conn.ExecContext(bounded, "ROLLBACK")
	if err != nil && (u.store.dialect != SQLite || sqliteCode(err) == 0) {
		// SQLite refuses ROLLBACK when it has already rolled back by itself.
		u.expel()
	}
	if why == nil {
		why = errors.New("rolled back")
	}
	u.finish(why)
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

func (u *Unit) finish(why error) []func() {
	u.mu.Lock()
	u.over = true
	after := u.afterCommit
	u.stats.Length = time.Since(u.begun)
	u.stats.Committed = why == nil
	u.stats.Err = why
	u.mu.Unlock()
	u.handleOnce.Do(func() { u.handleErr = ErrUnitOver })
	if u.handle != nil {
		_ = u.handle.Rollback() // only frees the handle: the transaction is the unit's
	}
	_ = u.conn.Close()
	u.store.unlockWriter()
	if !u.quiet {
		u.stats.Attempts, u.stats.About = 1, u.about
		u.store.report(u.stats)
	}
	return after
}

type unitKey struct{}

// UnitFromContext returns the store's unit of work in the context, or nil.
func (s *Store) UnitFromContext(ctx context.Context) *Unit {
	if u, ok := ctx.Value(unitKey{}).(*Unit); ok && u.store == s {
		return u
	}
	return nil
}

func unitFrom(ctx context.Context) *Unit {
	u, _ := ctx.Value(unitKey{}).(*Unit)
	return u
}

// Join returns a context whose InTx, TxFromContext, JoinDB and outbox publishes
// use a transaction that the caller began and will end. Nothing can be hooked to
// its commit: what is registered with BeforeCommit runs when the outermost InTx
// returns, and what is registered with AfterCommit never does.
func (s *Store) Join(ctx context.Context, tx *sql.Tx) context.Context {
	u := &Unit{store: s, about: aboutFrom(ctx), begun: time.Now()}
	u.session = &sqlx.Tx{Tx: tx, Mapper: s.db.Mapper}
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
	u.mu.Lock()
	defer u.mu.Unlock()
	u.afterCommit = append(u.afterCommit, f)
	return nil
}
