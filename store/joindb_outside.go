package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// outside runs statements of JoinDB that belong to no unit, on a connection of
// the store's database. A statement that lost its message's context may wait for
// the very unit that runs it: an error after such a wait says so.
type outside struct {
	store *Store
	conn  *sql.Conn
}

func (o outside) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	res, err := connSession{o.conn}.Exec(ctx, query, args)
	return res, o.explain(query, err)
}

func (o outside) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := connSession{o.conn}.Query(ctx, query, args)
	return rows, o.explain(query, err)
}

func (o outside) explain(query string, err error) error {
	d := o.store.dialect
	if err == nil || (!d.lockTimeout(err) && (d != SQLite || !d.contention(err))) {
		return err
	}
	return fmt.Errorf("%w: statement %q, outside of any unit of work, got no lock; %s: %w",
		ErrLockTimeout, firstWords(query), nestedHint, err)
}

// beginOwn begins a transaction outside of any unit, with the same bound on
// waits for locks as a unit's.
func (c *joinConn) beginOwn(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if err := c.takeOwn(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	session := connSession{c.own}
	var tx driver.Tx
	err := session.raw(func(conn driver.Conn) (err error) {
		begin, ok := conn.(driver.ConnBeginTx)
		if !ok {
			return errOldDriver
		}
		tx, err = begin.BeginTx(ctx, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, statement := range c.store.begin.bounds {
		if _, err := session.Exec(ctx, statement, nil); err != nil {
			return nil, errors.Join(err, tx.Rollback())
		}
	}
	c.ownTx = true
	return &ownTx{tx: tx, conn: c}, nil
}

// ownTx is a transaction outside of any unit. Its statements stay in it, whatever
// their context carries.
type ownTx struct {
	tx   driver.Tx
	conn *joinConn
}

func (t *ownTx) Commit() error {
	t.conn.ownTx = false
	return t.tx.Commit()
}

func (t *ownTx) Rollback() error {
	t.conn.ownTx = false
	return t.tx.Rollback()
}
