package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// JoinDB returns a *sql.DB for existing code. A statement whose context carries
// a unit of work of this store runs in its transaction; BeginTx with such a
// context opens a savepoint, so that the code's own Commit and Rollback keep
// their meaning within the unit. Everything else goes to the store's own
// database as before, or is refused in strict mode.
//
// A nested transaction that asks for a stricter isolation than the unit's is
// refused with an error that matches ErrIsolation.
//
// The handle shares the connections of the store's database: its own limits
// don't matter, and closing it closes nothing.
func JoinDB(s *Store) *sql.DB { return s.joined.DB }

// JoinDBX is JoinDB for users of sqlx.
func JoinDBX(s *Store) *sqlx.DB { return s.joined }

// SQLTx returns the context's transaction as a *sql.Tx, for code that takes one
// (sqlc, for instance). Its Commit returns an error that matches ErrOwned, its
// Rollback lets the unit only be rolled back: the unit of work decides. Once the
// unit is over, its statements return sql.ErrTxDone. It says false only where the
// context carries no unit.
func SQLTx(ctx context.Context) (*sql.Tx, bool) {
	tx, ok := SQLXTx(ctx)
	if !ok {
		return nil, false
	}
	return tx.Tx, true
}

// SQLXTx is SQLTx for users of sqlx. Rebind and the Named methods know the
// database's placeholders.
func SQLXTx(ctx context.Context) (*sqlx.Tx, bool) {
	u := unitFrom(ctx)
	if u == nil {
		return nil, false
	}
	tx, err := u.sqlxTx(ctx)
	return tx, err == nil
}

type lentKey struct{}

// lending asks BeginTx for a transaction that stands for a unit's own.
type lending struct {
	unit   *Unit
	handle *handle
}

// sqlxTx is the handle that is lent to the handler: a transaction on the joined
// database that is the unit's own instead of a savepoint in it. It outlives the
// context: only the unit ends it.
func (u *Unit) sqlxTx(ctx context.Context) (*sqlx.Tx, error) {
	u.mu.Lock()
	h := u.lent
	u.mu.Unlock()
	begin := func() (*sqlx.Tx, error) {
		return u.store.joined.BeginTxx(context.WithValue(context.WithoutCancel(ctx), lentKey{}, lending{u, h}), nil)
	}
	h.once.Do(func() { h.tx, h.err = begin() })
	if h.tx != nil || h.err != nil {
		return h.tx, h.err
	}
	// The unit was over before anyone asked. Code that got none would turn to its
	// database; this one says that it is over.
	ended, err := begin()
	if err != nil {
		return nil, err
	}
	return ended, ended.Rollback()
}

func newJoinDB(s *Store) *sqlx.DB {
	db := sql.OpenDB(joinConnector{s})
	// A joining connection is a few words of memory; an idle one would only keep
	// a real connection from its pool.
	db.SetMaxIdleConns(-1)
	return sqlx.NewDb(db, s.dialect.bindName())
}

type joinConnector struct{ store *Store }

func (c joinConnector) Connect(context.Context) (driver.Conn, error) {
	return &joinConn{store: c.store}, nil
}

func (c joinConnector) Driver() driver.Driver { return joinDriver(c) }

// joinDriver exists because sql.DB.Driver must return something.
type joinDriver struct{ store *Store }

func (d joinDriver) Open(string) (driver.Conn, error) { return &joinConn{store: d.store}, nil }

// joinConn decides for each statement where it runs: in the unit of the
// transaction begun on it, in the unit of the statement's context, or on a
// connection of the store's database.
type joinConn struct {
	store *Store
	// unit is set while a transaction that was begun inside a unit is open, and
	// nested is its savepoint, nil for a lent handle.
	unit   *Unit
	nested *savepoint
	// own is a connection of the store's database, taken when first needed.
	own *sql.Conn
	// held: it stays with who holds it, and joins no unit.
	held bool
	// ownTx: a transaction is open on it, begun by BeginTx or, on a *sql.Conn, by a
	// statement.
	ownTx bool
}

var (
	_ driver.ExecerContext      = (*joinConn)(nil)
	_ driver.QueryerContext     = (*joinConn)(nil)
	_ driver.ConnBeginTx        = (*joinConn)(nil)
	_ driver.ConnPrepareContext = (*joinConn)(nil)
	_ driver.NamedValueChecker  = (*joinConn)(nil)
	_ driver.Pinger             = (*joinConn)(nil)
)

// CheckNamedValue lets every value pass: the driver that finally gets it checks
// it.
func (c *joinConn) CheckNamedValue(*driver.NamedValue) error { return nil }

func (c *joinConn) target(ctx context.Context, what string) (Session, error) {
	switch {
	case c.unit != nil:
		return guarded{c.unit, c.nested}, nil
	case c.ownTx, c.held:
		return outside{c}, nil
	}
	if u := c.store.UnitFromContext(ctx); u != nil {
		return guarded{unit: u}, nil
	}
	if err := c.takeOwn(ctx, what); err != nil {
		return nil, err
	}
	return outside{c}, nil
}

func (c *joinConn) takeOwn(ctx context.Context, what string) error {
	if err := c.store.AllowOutside(ctx, fmt.Sprintf("statement %q through JoinDB", firstWords(what))); err != nil {
		return err
	}
	if c.own != nil {
		return nil
	}
	conn, err := c.store.connect(ctx)
	if err != nil {
		return err
	}
	c.own = conn.Conn
	return nil
}

func (c *joinConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	t, err := c.target(ctx, query)
	if err != nil {
		return nil, err
	}
	return t.Exec(ctx, query, args)
}

func (c *joinConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	t, err := c.target(ctx, query)
	if err != nil {
		return nil, err
	}
	return t.Query(ctx, query, args)
}

// PrepareContext prepares nothing: where the statement will run is known only
// when it is run. Drivers with a statement cache prepare it then.
func (c *joinConn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &joinStmt{conn: c, query: query}, nil
}

func (c *joinConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *joinConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if lent, ok := ctx.Value(lentKey{}).(lending); ok {
		c.unit = lent.unit
		return &lentTx{conn: c, handle: lent.handle}, nil
	}
	u := c.store.UnitFromContext(ctx)
	if u == nil || c.ownTx || c.held {
		return c.beginOwn(ctx, opts)
	}
	if err := u.allowsIsolation(sql.IsolationLevel(opts.Isolation)); err != nil {
		return nil, err
	}
	sp, err := u.openSavepoint(ctx, nil, false)
	if err != nil {
		return nil, err
	}
	c.unit, c.nested = u, sp
	return &nestedTx{conn: c}, nil
}

func (c *joinConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

func (c *joinConn) Ping(ctx context.Context) error {
	return c.store.db.PingContext(ctx)
}

// Close gives the real connection back. A driver that reported it broken has
// already told the pool.
func (c *joinConn) Close() error {
	if c.own == nil || c.held {
		return nil
	}
	if c.ownTx { // whoever gets the connection next must not continue it
		_ = c.own.Raw(func(any) error { return driver.ErrBadConn })
	}
	return c.own.Close()
}

func (u *Unit) allowsIsolation(asked sql.IsolationLevel) error {
	if asked == sql.LevelDefault || asked <= u.store.cfg.Isolation || u.store.dialect == SQLite {
		return nil
	}
	return fmt.Errorf("%w: it asks for %s inside a unit of work at %s: set store.Config.Isolation",
		ErrIsolation, asked, u.store.cfg.Isolation)
}

// nestedTx is what BeginTx gives inside a unit.
type nestedTx struct{ conn *joinConn }

func (t *nestedTx) end() *savepoint {
	sp := t.conn.nested
	t.conn.unit, t.conn.nested = nil, nil
	return sp
}

func (t *nestedTx) Commit() error { return t.end().commit(context.Background()) }

func (t *nestedTx) Rollback() error {
	err := t.end().rollback(context.Background())
	if errors.Is(err, ErrUnitOver) || errors.Is(err, ErrDoomed) {
		return nil // what it would undo is undone, or will be
	}
	return err
}

// lentTx stands for the unit's own transaction.
type lentTx struct {
	conn *joinConn
	// handle knows whether it is the unit that ends it.
	handle *handle
}

func (t *lentTx) Commit() error {
	t.conn.unit = nil
	return fmt.Errorf("%w: don't commit it, return nil from the handler", ErrOwned)
}

// Rollback dooms the unit: whoever calls it wants nothing of this to stand.
func (t *lentTx) Rollback() error {
	u := t.conn.unit
	t.conn.unit = nil
	if !u.Over() && !t.handle.freed.Load() {
		u.fail(fmt.Errorf("%w: it was rolled back through its *sql.Tx", ErrOwned))
	}
	return nil
}

// joinStmt runs its query where the context says.
type joinStmt struct {
	conn  *joinConn
	query string
}

// NumInput is unknown: the database checks it.
func (s *joinStmt) NumInput() int { return -1 }

func (s *joinStmt) Close() error { return nil }

func (s *joinStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

func (s *joinStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

func (s *joinStmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

func (s *joinStmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }
