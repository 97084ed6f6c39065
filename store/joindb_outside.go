package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/internal/driverconn"
)

// outside runs statements of JoinDB that belong to no unit, on a connection of
// the store's database. A statement that lost its message's context may wait for
// the very unit that runs it: an error after such a wait says so.
type outside struct{ conn *joinConn }

func (o outside) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	done, err := o.bound(ctx, query)
	if err != nil {
		return nil, err
	}
	res, err = connSession{o.conn.own}.Exec(ctx, query, args)
	if o.follow(query, err) {
		err = o.setBounds(ctx)
	}
	err = errors.Join(o.explain(query, err), done(err == nil))
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (o outside) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	done, err := o.bound(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := connSession{o.conn.own}.Query(ctx, query, args)
	o.follow(query, err)
	if err != nil {
		return nil, errors.Join(o.explain(query, err), done(false))
	}
	return &richRows{Rows: rows, close: func() error { return done(true) }}, nil
}

// follow notes a transaction that existing code begins or ends by a statement of
// its own on a *sql.Conn, and reports whether it was begun. Its statements, like
// those of BeginTx, stay in it whatever their context carries.
func (o outside) follow(query string, err error) (begun bool) {
	c := o.conn
	switch open := c.store.dialect.leavesOpen(query, c.ownTx); {
	case open == c.ownTx:
		return false
	case open:
		c.ownTx = err == nil
		return c.ownTx
	}
	c.ownTx = false // a COMMIT that failed has rolled back
	return false
}

// setBounds limits the waits for locks in the transaction that is open.
func (o outside) setBounds(ctx context.Context) error {
	for _, statement := range o.conn.store.begin.bounds {
		if _, err := (connSession{o.conn.own}).Exec(ctx, statement, nil); err != nil {
			return err
		}
	}
	return nil
}

// bound limits a writing statement's waits for locks; done ends that. Postgres
// forgets a limit that is set in a transaction with it, which also works behind a
// pooler that hands connections out per transaction; MySQL keeps its limit.
func (o outside) bound(ctx context.Context, query string) (done func(ok bool) error, err error) {
	bounds := o.conn.store.begin.bounds
	nothing := func(bool) error { return nil }
	if o.conn.ownTx || !o.conn.store.dialect.changesRows(query) {
		return nothing, nil
	}
	if o.conn.store.dialect == SQLite { // which without a busy timeout fails at once
		if err := o.conn.store.lockWriter(ctx); err != nil {
			return nil, err
		}
		return func(bool) error { o.conn.store.unlockWriter(); return nil }, nil
	}
	if len(bounds) == 0 {
		return nothing, nil
	}
	session := connSession{o.conn.own}
	if o.conn.store.dialect != Postgres {
		_, err := session.Exec(ctx, bounds[0], nil)
		return nothing, err
	}
	if _, err := session.Exec(ctx, "BEGIN; "+bounds[0], nil); err != nil {
		return nil, err
	}
	return func(ok bool) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.conn.store.cfg.CommitTimeout)
		defer cancel()
		end := "ROLLBACK"
		if ok {
			end = o.conn.store.begin.commit
		}
		_, err := session.Exec(ctx, end, nil)
		if err != nil { // don't give back a connection with an open transaction
			_ = o.conn.own.Raw(func(any) error { return driver.ErrBadConn })
		}
		if !ok {
			return nil // the statement's own error counts
		}
		return err
	}, nil
}

func (o outside) explain(query string, err error) error {
	d := o.conn.store.dialect
	if err == nil || (!d.lockTimeout(err) && (d != SQLite || !d.contention(err))) {
		return err
	}
	return fmt.Errorf("%w: statement %q, outside of any unit of work, got no lock; %s: %w",
		ErrLockTimeout, firstWords(query), hintOutside, err)
}

// beginOwn begins a transaction outside of any unit, with the same bound on
// waits for locks as a unit's.
func (c *joinConn) beginOwn(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if !c.held {
		if err := c.takeOwn(ctx, "BEGIN"); err != nil {
			return nil, err
		}
	}
	var tx driver.Tx
	err := driverconn.Raw(c.own, func(conn driver.Conn) (err error) {
		tx, err = driverconn.Begin(ctx, conn, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := (outside{c}).setBounds(ctx); err != nil {
		return nil, errors.Join(err, tx.Rollback())
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
