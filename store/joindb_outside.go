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
	// inTx: it is a statement of a transaction, whose waits are bounded already.
	inTx bool
}

func (o outside) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	done, err := o.bound(ctx, query)
	if err != nil {
		return nil, err
	}
	res, err = connSession{o.conn}.Exec(ctx, query, args)
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
	rows, err := connSession{o.conn}.Query(ctx, query, args)
	if err != nil {
		return nil, errors.Join(o.explain(query, err), done(false))
	}
	return &richRows{Rows: rows, close: func() error { return done(true) }}, nil
}

// bound limits a writing statement's waits for locks; done ends that. Postgres forgets a limit
// that is set in a transaction with it, which also works behind a pooler that
// hands connections out per transaction; MySQL keeps its limit.
func (o outside) bound(ctx context.Context, query string) (done func(ok bool) error, err error) {
	bounds := o.store.begin.bounds
	nothing := func(bool) error { return nil }
	if o.inTx || !o.store.dialect.changesRows(query) {
		return nothing, nil
	}
	if o.store.dialect == SQLite { // which without a busy timeout fails at once
		if err := o.store.lockWriter(ctx); err != nil {
			return nil, err
		}
		return func(bool) error { o.store.unlockWriter(); return nil }, nil
	}
	if len(bounds) == 0 {
		return nothing, nil
	}
	session := connSession{o.conn}
	if o.store.dialect != Postgres {
		_, err := session.Exec(ctx, bounds[0], nil)
		return nothing, err
	}
	if _, err := session.Exec(ctx, "BEGIN; "+bounds[0], nil); err != nil {
		return nil, err
	}
	return func(ok bool) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.store.cfg.CommitTimeout)
		defer cancel()
		end := "ROLLBACK"
		if ok {
			end = o.store.begin.commit
		}
		_, err := session.Exec(ctx, end, nil)
		if err != nil { // don't give back a connection with an open transaction
			_ = o.conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		if !ok {
			return nil // the statement's own error counts
		}
		return err
	}, nil
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
	if !c.held {
		if err := c.takeOwn(ctx, "BEGIN"); err != nil {
			return nil, err
		}
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
