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
	// QueryContext runs a query. When another statement is run before the rows
	// were read to their end, the rest is kept in memory.
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

func (t txHandle) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return guarded{unit: t.unit}.Exec(ctx, t.rebind(query), namedValues(args))
}

func (t txHandle) QueryContext(ctx context.Context, query string, args ...any) (Rows, error) {
	rows, err := t.queryer().QueryContext(ctx, t.rebind(query), args...)
	if err != nil {
		return nil, err
	}
	return rows, nil
}

func (t txHandle) GetContext(ctx context.Context, dest any, query string, args ...any) error {
	return sqlx.GetContext(ctx, t.queryer(), dest, t.rebind(query), args...)
}

func (t txHandle) SelectContext(ctx context.Context, dest any, query string, args ...any) error {
	return sqlx.SelectContext(ctx, t.queryer(), dest, t.rebind(query), args...)
}

func (t txHandle) NamedExecContext(ctx context.Context, query string, arg any) (sql.Result, error) {
	named, args, err := sqlx.Named(query, arg)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return t.ExecContext(ctx, named, args...)
}

func (t txHandle) rebind(query string) string { return t.unit.store.dialect.rebind(query) }

func (t txHandle) queryer() unitQueryer { return unitQueryer(t) }

// unitQueryer sends queries through the joined database, whose rows sqlx can
// scan, with a context that leads them into the unit.
type unitQueryer struct{ unit *Unit }

func (q unitQueryer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return q.unit.store.joined.QueryContext(q.unit.Context(ctx), query, args...)
}

func (q unitQueryer) QueryxContext(ctx context.Context, query string, args ...any) (*sqlx.Rows, error) {
	return q.unit.store.joined.QueryxContext(q.unit.Context(ctx), query, args...)
}

func (q unitQueryer) QueryRowxContext(ctx context.Context, query string, args ...any) *sqlx.Row {
	return q.unit.store.joined.QueryRowxContext(q.unit.Context(ctx), query, args...)
}
