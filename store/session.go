package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"

	"github.com/headrace-go/headrace/internal/driverconn"
)

// Session runs a transaction's statements at the level of a SQL driver, so that
// one kind of unit of work serves transactions that were begun in different
// ways. It is called by one goroutine at a time. Arguments are as the caller gave
// them, unconverted.
//
// Implement it to join a transaction of another library with Store.JoinSession.
type Session interface {
	Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error)
	Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error)
}

// connSession runs statements on the driver's connection behind a *sql.Conn,
// with the argument checks that database/sql would have made for it.
type connSession struct{ conn *sql.Conn }

func (s connSession) Exec(ctx context.Context, query string, args []driver.NamedValue) (res driver.Result, err error) {
	err = driverconn.Raw(s.conn, func(conn driver.Conn) error {
		res, err = driverconn.Exec(ctx, conn, query, args)
		return err
	})
	return res, err
}

func (s connSession) Query(ctx context.Context, query string, args []driver.NamedValue) (rows driver.Rows, err error) {
	var free func() error
	err = driverconn.Raw(s.conn, func(conn driver.Conn) error {
		rows, free, err = driverconn.Query(ctx, conn, query, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	if free != nil {
		rows = &richRows{Rows: rows, close: free}
	}
	return rows, nil
}

// namedValues turns a statement's arguments to the driver's form.
func namedValues(args []any) []driver.NamedValue {
	values := make([]driver.NamedValue, len(args))
	for i, arg := range args {
		values[i] = driver.NamedValue{Ordinal: i + 1, Value: arg}
		if named, ok := arg.(sql.NamedArg); ok {
			values[i].Name, values[i].Value = named.Name, named.Value
		}
	}
	return values
}

func plainArgs(args []driver.NamedValue) []any {
	plain := make([]any, len(args))
	for i, arg := range args {
		plain[i] = arg.Value
		if arg.Name != "" {
			plain[i] = sql.Named(arg.Name, arg.Value)
		}
	}
	return plain
}

// txSession runs statements on a *sql.Tx that somebody else began.
type txSession struct{ tx *sql.Tx }

func (s txSession) Exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return s.tx.ExecContext(ctx, query, plainArgs(args)...)
}

func (s txSession) Query(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.tx.QueryContext(ctx, query, plainArgs(args)...)
	if err != nil {
		return nil, err
	}
	adapted := &txRows{rows: rows}
	if err := adapted.describe(); err != nil {
		return nil, errors.Join(err, rows.Close())
	}
	return adapted, nil
}

// txRows turns *sql.Rows back into the driver's form.
type txRows struct {
	rows  *sql.Rows
	types []*sql.ColumnType
	// checked and more are what NextResultSet said, which can be asked only by
	// going on.
	checked, more bool
}

var (
	_ driver.RowsNextResultSet              = (*txRows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*txRows)(nil)
)

func (r *txRows) describe() (err error) {
	r.types, err = r.rows.ColumnTypes()
	return err
}

func (r *txRows) Columns() []string {
	names := make([]string, len(r.types))
	for i, t := range r.types {
		names[i] = t.Name()
	}
	return names
}

func (r *txRows) Close() error { return r.rows.Close() }

func (r *txRows) ColumnTypeDatabaseTypeName(index int) string {
	return r.types[index].DatabaseTypeName()
}

func (r *txRows) Next(dest []driver.Value) error {
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	values := make([]any, len(dest))
	for i := range values {
		values[i] = new(any)
	}
	if err := r.rows.Scan(values...); err != nil {
		return err
	}
	for i, v := range values {
		dest[i] = *v.(*any) //nolint:forcetypeassert // made above
	}
	return nil
}

func (r *txRows) HasNextResultSet() bool {
	if !r.checked {
		r.checked, r.more = true, r.rows.NextResultSet()
	}
	return r.more
}

func (r *txRows) NextResultSet() error {
	if !r.HasNextResultSet() {
		return io.EOF
	}
	r.checked = false
	return r.describe()
}
