package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/headrace-go/headrace/internal/step"
)

// Begin opens a transaction on a connection of its own. ctx bounds only the
// opening: a unit outlives the cancellation of its message, so that a handler
// which has returned can still commit. The caller must call Commit or Rollback.
//
// Errors match ErrConnTimeout when no connection, and ErrLockTimeout when on
// SQLite no turn as the writer, came free within Config.ConnTimeout.
func (s *Store) Begin(ctx context.Context) (*Unit, error) {
	start := time.Now()
	u := newUnit(ctx, s)
	if err := s.lockWriter(ctx); err != nil {
		return nil, err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		s.unlockWriter()
		return nil, err
	}
	u.conn, u.session = conn, connSession{conn.Conn}
	if err := s.open(ctx, u, start); err != nil {
		u.discard()
		return nil, err
	}
	u.begun = time.Now()
	u.stats.ConnWait = u.begun.Sub(start)
	step.Reach(ctx, step.TxBegun)
	return u, nil
}

// connect takes a connection from the pool, in bounded time.
func (s *Store) connect(ctx context.Context) (*sqlx.Conn, error) {
	bounded, cancel := context.WithTimeout(ctx, s.cfg.ConnTimeout)
	defer cancel()
	conn, err := s.db.Connx(bounded)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, s.connTimeout(err)
	}
	return nil, fmt.Errorf("store: get a database connection: %w", err)
}

func (s *Store) connTimeout(cause error) error {
	stats := s.db.Stats()
	if stats.MaxOpenConnections == 0 || stats.InUse < stats.MaxOpenConnections {
		return fmt.Errorf("%w: the database gave none for %s: is it reachable, and does it allow more connections? "+
			"%d are in use: %w", ErrConnTimeout, s.cfg.ConnTimeout, stats.InUse, cause)
	}
	return &timeoutError{
		sentinel: ErrConnTimeout,
		what:     fmt.Sprintf("all of the pool's %d connections are in use, none came free", stats.MaxOpenConnections),
		waited:   s.cfg.ConnTimeout,
		hint:     hintPool,
	}
}

// open sends BEGIN. On SQLite another process may be the writer, and a database
// opened without a busy timeout says so at once: then it asks again until
// ConnTimeout.
func (s *Store) open(ctx context.Context, u *Unit, start time.Time) error {
	for {
		err := s.begin.run(ctx, u)
		if err == nil {
			return nil
		}
		if s.dialect != SQLite || !s.dialect.contention(err) {
			return fmt.Errorf("store: begin: %w", err)
		}
		if waited := time.Since(start); waited > s.cfg.ConnTimeout {
			return &timeoutError{
				sentinel: ErrLockTimeout, what: "something else holds SQLite's write lock, which it did not give up",
				waited: waited, cause: err, hint: hintUnit,
			}
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("store: begin: %w", err)
		}
	}
}

// sqlitePause is how long to wait before SQLite is asked again whether another
// connection has let go of its lock. It tells nobody.
const sqlitePause = 5 * time.Millisecond

func pause(ctx context.Context) error {
	timer := time.NewTimer(sqlitePause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
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
			waited: s.cfg.ConnTimeout, hint: hintUnit,
		}
	}
}

func (s *Store) unlockWriter() {
	if s.writer != nil {
		<-s.writer
	}
}

// UnitConn is implemented by a driver's connection that ends units of work itself
// and can send BEGIN together with the first statement, which saves a round trip
// (package pgxstore).
type UnitConn interface {
	// BeginUnit is given the statements that open the transaction, separated by
	// "; ". An error of theirs may be the first statement's instead. A transaction
	// without statements need not reach the database.
	BeginUnit(ctx context.Context, statements string) error
	// CommitUnit must fail, with SQLSTATE 25P02, when the transaction was aborted,
	// and when the database gives no answer within the timeout.
	CommitUnit(ctx context.Context, timeout time.Duration) error
	RollbackUnit(ctx context.Context) error
}

// onUnitConn reports whether the unit's connection is a UnitConn, and its answer.
func (u *Unit) onUnitConn(f func(UnitConn) error) (is bool, err error) {
	err = u.conn.Raw(func(raw any) error {
		c, ok := raw.(UnitConn)
		if !ok {
			return nil
		}
		is = true
		return f(c)
	})
	return is, err
}

// beginner holds the statements that open a transaction with the configured
// isolation and a bounded wait for locks, in as few round trips as the database
// allows.
//
// They are sent as plain SQL on a *sql.Conn and not by BeginTx, because a
// *sql.Tx can neither say BEGIN IMMEDIATE nor lend its driver connection to
// JoinDB.
type beginner struct {
	statements []string
	commit     string
	// retryBusy: a COMMIT that finds SQLite's readers in its way can be sent
	// again, the transaction stands.
	retryBusy func(error) bool
	// bounds limit the waits for locks in a transaction that the driver began.
	bounds []string
}

func (s *Store) newBeginner(ctx context.Context) (beginner, error) {
	isolation, err := isolationSQL(s.cfg.Isolation)
	if err != nil {
		return beginner{}, err
	}
	switch s.dialect {
	case Postgres:
		return s.postgresBeginner(ctx, isolation)
	case MySQL:
		return s.mysqlBeginner(ctx, isolation)
	case SQLite:
		return beginner{
			statements: []string{"BEGIN IMMEDIATE"}, commit: "COMMIT", retryBusy: s.dialect.contention,
		}, nil
	}
	return beginner{}, s.dialect.validate()
}

// postgresBeginner bounds waits for locks, unless the connection's own bound is
// shorter. One message of the simple protocol carries it all: pgx and lib/pq both
// use it for statements without arguments. COMMIT of an aborted transaction would
// be a ROLLBACK that looks like success; "SELECT 1" fails in one, and then COMMIT
// isn't reached.
func (s *Store) postgresBeginner(ctx context.Context, isolation string) (beginner, error) {
	var millis int64
	err := s.db.GetContext(ctx, &millis, "SELECT setting::bigint FROM pg_settings WHERE name = 'lock_timeout'")
	if err != nil {
		return beginner{}, err
	}
	begin := "BEGIN ISOLATION LEVEL " + isolation
	b := beginner{statements: []string{begin}, commit: "SELECT 1; COMMIT"}
	if want := max(s.cfg.LockTimeout.Milliseconds(), 1); millis <= 0 || millis > want {
		set := fmt.Sprintf("SET LOCAL lock_timeout = %d", want)
		b.statements[0] += "; " + set
		b.bounds = []string{set}
	}
	return b, nil
}

func (s *Store) mysqlBeginner(ctx context.Context, isolation string) (beginner, error) {
	var session struct {
		LockWait   int64  `db:"lock_wait"`
		Autocommit int    `db:"autocommit"`
		Isolation  string `db:"isolation"`
	}
	query := "SELECT @@innodb_lock_wait_timeout AS lock_wait, @@autocommit AS autocommit, @@transaction_isolation AS isolation"
	if err := s.db.GetContext(ctx, &session, query); err != nil {
		// MariaDB before 11.1 knows it only by its older name.
		query = strings.Replace(query, "@@transaction_isolation", "@@tx_isolation", 1)
		if err := s.db.GetContext(ctx, &session, query); err != nil {
			return beginner{}, err
		}
	}
	if session.Autocommit == 0 {
		// A lease's renewal, or a statement through JoinDB, would never be committed,
		// and its connection would go back to the pool with the transaction open.
		return beginner{}, errors.New("the database's connections have autocommit off, so that what is written outside of " +
			"units of work would never be committed: remove autocommit=0 from the DSN, or set it to 1 there " +
			"where the server's own setting is off")
	}
	b := beginner{commit: "COMMIT"}
	want := max(int64(s.cfg.LockTimeout/time.Second), 1)
	if session.LockWait > want {
		b.bounds = []string{fmt.Sprintf("SET SESSION innodb_lock_wait_timeout = %d", want)}
	}
	b.statements = append(b.statements, b.bounds...)
	if session.Isolation != strings.ReplaceAll(isolation, " ", "-") {
		b.statements = append(b.statements, "SET TRANSACTION ISOLATION LEVEL "+isolation)
	}
	b.statements = append(b.statements, "START TRANSACTION")
	return b, nil
}

func (b beginner) run(ctx context.Context, u *Unit) error {
	if is, err := u.onUnitConn(func(c UnitConn) error {
		return c.BeginUnit(ctx, strings.Join(b.statements, "; "))
	}); is || err != nil {
		return err
	}
	for _, statement := range b.statements {
		if _, err := u.session.Exec(ctx, statement, nil); err != nil {
			return err
		}
	}
	return nil
}

func (b beginner) sendCommit(ctx context.Context, u *Unit) error {
	timeout := u.store.cfg.CommitTimeout
	if is, err := u.onUnitConn(func(c UnitConn) error { return c.CommitUnit(ctx, timeout) }); is || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	for {
		_, err := u.session.Exec(ctx, b.commit, nil)
		if err == nil || b.retryBusy == nil || !b.retryBusy(err) {
			return err
		}
		if pause(ctx) != nil {
			return &timeoutError{
				sentinel: ErrLockTimeout, what: "a reader of the SQLite database did not finish, so that COMMIT could not",
				waited: time.Since(start), cause: err, hint: hintReader,
			}
		}
	}
}

func sendRollback(ctx context.Context, u *Unit) error {
	if is, err := u.onUnitConn(func(c UnitConn) error { return c.RollbackUnit(ctx) }); is || err != nil {
		return err
	}
	_, err := u.session.Exec(ctx, "ROLLBACK", nil)
	return err
}
