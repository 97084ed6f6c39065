package pgxstore

import (
	"context"
	"database/sql/driver"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/headrace-go/headrace/store"
)

type joinedKey struct{}

// joined is a transaction and the unit that stands for it.
type joined struct {
	unit *store.Unit
	tx   pgx.Tx
}

// Join returns a context whose InTx, Tx, JoinDB and outbox publishes use a
// transaction that the caller began and will end. See store.Store.Join for what
// that means for hooks.
func Join(ctx context.Context, st *store.Store, tx pgx.Tx) context.Context {
	ctx = st.JoinSession(ctx, session{tx})
	return context.WithValue(ctx, joinedKey{}, joined{store.CurrentUnit(ctx), tx})
}

// session runs the store's statements on a pgx.Tx.
type session struct{ tx pgx.Tx }

func (s session) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	tag, err := s.tx.Exec(ctx, query, plain(args)...)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

func (s session) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.tx.Query(ctx, query, plain(args)...)
	if err != nil {
		return nil, err
	}
	return &driverRows{rows: rows}, nil
}

func plain(args []driver.NamedValue) []any {
	values := make([]any, len(args))
	for i, arg := range args {
		values[i] = arg.Value
	}
	return values
}

// driverRows gives pgx.Rows the form of a SQL driver's.
type driverRows struct{ rows pgx.Rows }

func (r *driverRows) Columns() []string {
	fields := r.rows.FieldDescriptions()
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

func (r *driverRows) Close() error {
	r.rows.Close()
	return r.rows.Err()
}

func (r *driverRows) Next(dest []driver.Value) error {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	values, err := r.rows.Values()
	if err != nil {
		return err
	}
	for i, v := range values {
		if dest[i], err = driverValue(v); err != nil {
			return err
		}
	}
	return nil
}

// driverValue turns pgx's types into those that database/sql scans.
func driverValue(v any) (driver.Value, error) {
	if valuer, ok := v.(driver.Valuer); ok {
		return valuer.Value()
	}
	return driver.DefaultParameterConverter.ConvertValue(v)
}
