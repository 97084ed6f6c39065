package handlertest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"slices"
	"time"

	"github.com/headrace-go/headrace/internal/driverconn"
)

// connector gives a process connections of the test's database, with a gate
// before each statement.
type connector struct{ process *process }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.process.alive(); err != nil {
		return nil, err
	}
	taken, err := c.process.trial.env.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	own := &conn{process: c.process, real: taken}
	c.process.own(own)
	return own, c.process.trial.env.identify(ctx, own)
}

func (c connector) Driver() driver.Driver { return noDriver{} }

// noDriver exists because sql.DB.Driver must return something.
type noDriver struct{}

func (noDriver) Open(string) (driver.Conn, error) {
	return nil, errors.New("handlertest: connections come from the test's database only")
}

// conn passes statements on to the driver's connection behind a *sql.Conn, whose
// errors and rows its caller gets as they are.
type conn struct {
	process *process
	real    *sql.Conn
	// numbers are the statements of the transaction that is open.
	numbers []string
	// lost: the plan has cut it off.
	lost bool
	// id is the database's number of the connection, 0 where it isn't asked for.
	id int64
}

var (
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
)

// CheckNamedValue lets every value pass: the real connection checks it.
func (c *conn) CheckNamedValue(*driver.NamedValue) error { return nil }

// IsValid keeps a connection that is lost from being used again.
func (c *conn) IsValid() bool { return !c.lost }

// statement runs f behind the gate of the statement.
func (c *conn) statement(query string, f func() error) error {
	if commits(query) {
		return c.commit(f)
	}
	if err := c.beforeStatement(query); err != nil {
		return err
	}
	return f()
}

// commit runs f behind the gate of a commit. One that is made to fail loses its
// connection, before or after it has taken effect.
func (c *conn) commit(f func() error) error {
	err := c.beforeCommit()
	switch {
	case err == nil:
		return f()
	case errors.Is(err, errUnanswered):
		if refused := f(); refused != nil {
			return refused
		}
	case !errors.Is(err, errInjected):
		return err
	}
	c.lost = true
	c.kill()
	return err
}

// raw runs f on the driver's connection. A lock that another instance holds is
// waited for here and not in the database, where the database would only say that
// it is busy.
func (c *conn) raw(f func(driver.Conn) error) error {
	for {
		err := driverconn.Raw(c.real, f)
		if !busy(err) || !c.process.awaitOther() {
			return err
		}
	}
}

// busy reports whether SQLite found its lock taken, by the error's shape: any
// driver may be in use.
func busy(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Code() int
	}](err)
	const sqliteBusy = 5
	return ok && e.Code() == sqliteBusy
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = c.statement(query, func() error {
		return c.raw(func(dc driver.Conn) error {
			res, err = driverconn.Exec(ctx, dc, query, slices.Clone(args))
			return err
		})
	})
	return res, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = c.statement(query, func() error {
		return c.raw(func(dc driver.Conn) error {
			var free func() error
			rows, free, err = driverconn.Query(ctx, dc, query, slices.Clone(args))
			if free != nil {
				rows = preparedRows{rows, free}
			}
			return err
		})
	})
	return rows, err
}

// preparedRows free the statement that was prepared for them.
type preparedRows struct {
	driver.Rows

	free func() error
}

func (r preparedRows) Close() error { return errors.Join(r.Rows.Close(), r.free()) }

// PrepareContext prepares nothing: the statement is prepared when it is run.
func (c *conn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &stmt{c, query}, nil
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) BeginTx(ctx context.Context, opts driver.TxOptions) (begun driver.Tx, err error) {
	if err := c.process.alive(); err != nil {
		return nil, err
	}
	err = c.raw(func(dc driver.Conn) error {
		begun, err = driverconn.Begin(ctx, dc, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.numbers = nil
	return &tx{c, begun}, nil
}

func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(context.Background(), driver.TxOptions{}) }

func (c *conn) Close() error {
	c.process.disown(c)
	if err := c.real.Close(); !errors.Is(err, sql.ErrConnDone) { // killed
		return err
	}
	return nil
}

// killTimeout bounds the rollback of what a process that stops has left open.
const killTimeout = 10 * time.Second

// kill does what the database does when the process at the other end is gone,
// and has done it when it returns.
func (c *conn) kill() {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	_, _ = c.real.ExecContext(ctx, "ROLLBACK") // an error says that nothing was open
	_ = c.real.Raw(func(any) error { return driver.ErrBadConn })
	_ = c.real.Close()
}

// tx is a transaction that the driver began.
type tx struct {
	conn *conn
	real driver.Tx
}

func (t *tx) Commit() error {
	return t.conn.commit(func() error {
		for {
			err := t.real.Commit()
			if !busy(err) || !t.conn.process.awaitOther() {
				return err
			}
		}
	})
}

func (t *tx) Rollback() error {
	if err := t.conn.process.alive(); err != nil {
		return err
	}
	return t.real.Rollback()
}

type stmt struct {
	conn  *conn
	query string
}

// NumInput is unknown: the database checks it.
func (s *stmt) NumInput() int { return -1 }

func (s *stmt) Close() error { return nil }

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

func (s *stmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }
