package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Tx runs statements in a unit of work. Placeholders are "?" on every database;
// a query that holds none, because it is written for its database ("$1"), is
// sent as it is.
type Tx interface {
	// ExecContext runs a statement that returns no rows.
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	// QueryContext runs a query. The rows must be closed before the next
	// statement.
	QueryContext(ctx context.Context, query string, args ...any) (Rows, error)
	// GetContext scans one row into dest: a scalar, or a struct with db tags.
	// Errors match sql.ErrNoRows when there is none.
	GetContext(ctx context.Context, dest any, query string, args ...any) error
	// SelectContext scans all rows into dest, a slice.
	SelectContext(ctx context.Context, dest any, query string, args ...any) error
	// NamedExecContext takes its parameters (":name") from a struct or map.
	NamedExecContext(ctx context.Context, query string, arg any) (sql.Result, error)
}

// Rows is what a query returns.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Columns() ([]string, error)
	Err() error
	Close() error
}

// TxFromContext returns the statements of the context's unit of work.
func TxFromContext(ctx context.Context) (Tx, bool) {
	u := unitFrom(ctx)
	if u == nil {
		return nil, false
	}
	return u.Tx(), true
}

// txHandle is the Tx of a unit.
type txHandle struct{ unit *Unit }

func (t txHandle) ExecContext(ctx context.Context, query string, args ...any) (res sql.Result, err error) {
	err = t.unit.run(ctx, query, func() (err error) {
		res, err = t.unit.session.ExecContext(ctx, t.rebind(query), args...)
		return err
	})
	return res, err
}

func (t txHandle) QueryContext(ctx context.Context, query string, args ...any) (Rows, error) {
	var rows *sql.Rows
	err := t.unit.run(ctx, query, func() (err error) {
		rows, err = t.unit.session.QueryContext(ctx, t.rebind(query), args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &guardedRows{Rows: rows, unit: t.unit}, nil
}

func (t txHandle) GetContext(ctx context.Context, dest any, query string, args ...any) error {
	return t.unit.run(ctx, query, func() error {
		return sqlx.GetContext(ctx, t.unit.session, dest, t.rebind(query), args...)
	})
}

func (t txHandle) SelectContext(ctx context.Context, dest any, query string, args ...any) error {
	return t.unit.run(ctx, query, func() error {
		return sqlx.SelectContext(ctx, t.unit.session, dest, t.rebind(query), args...)
	})
}

func (t txHandle) NamedExecContext(ctx context.Context, query string, arg any) (sql.Result, error) {
	named, args, err := sqlx.Named(query, arg)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return t.ExecContext(ctx, named, args...)
}

func (t txHandle) rebind(query string) string { return t.unit.store.dialect.rebind(query) }

// guardedRows tells the unit of errors that come while rows are read.
type guardedRows struct {
	*sql.Rows
	unit *Unit
}

func (r *guardedRows) Err() error {
	err := r.Rows.Err()
	r.unit.rowsFailed(err)
	return err
}
