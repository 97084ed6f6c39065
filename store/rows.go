package store

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
	"sync"
)

// richRows passes on what the driver's rows can do beyond the minimum, because
// GORM and sqlx ask for column types, and closes the statement they came from.
type richRows struct {
	driver.Rows

	close func() error
}

func (r *richRows) Close() error {
	err := r.Rows.Close()
	if r.close != nil {
		err = errors.Join(err, r.close())
	}
	return err
}

func (r *richRows) HasNextResultSet() bool {
	rows, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && rows.HasNextResultSet()
}

func (r *richRows) NextResultSet() error {
	if rows, ok := r.Rows.(driver.RowsNextResultSet); ok {
		return rows.NextResultSet()
	}
	return io.EOF
}

// columnType is what a driver tells of a column.
type columnType struct {
	scan                       reflect.Type
	name                       string
	length, precision, scale   int64
	hasLength, hasDecimal      bool
	nullable, nullabilityKnown bool
}

func (r *richRows) columnType(i int) columnType {
	t := columnType{scan: reflect.TypeFor[any]()}
	rows := r.Rows
	if inner, ok := rows.(*richRows); ok {
		return inner.columnType(i)
	}
	if typed, ok := rows.(driver.RowsColumnTypeScanType); ok {
		t.scan = typed.ColumnTypeScanType(i)
	}
	if typed, ok := rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		t.name = typed.ColumnTypeDatabaseTypeName(i)
	}
	if typed, ok := rows.(driver.RowsColumnTypeLength); ok {
		t.length, t.hasLength = typed.ColumnTypeLength(i)
	}
	if typed, ok := rows.(driver.RowsColumnTypeNullable); ok {
		t.nullable, t.nullabilityKnown = typed.ColumnTypeNullable(i)
	}
	if typed, ok := rows.(driver.RowsColumnTypePrecisionScale); ok {
		t.precision, t.scale, t.hasDecimal = typed.ColumnTypePrecisionScale(i)
	}
	return t
}

// resultSet is one result set that was read to its end ahead of its reader.
type resultSet struct {
	columns []string
	types   []columnType
	rows    [][]driver.Value
	err     error
}

// unitRows are the rows of a query in a unit of work. A connection carries one
// result at a time: when the next statement comes while they are still being
// read, the rest is read into memory first. Existing code does that when it runs
// a statement for each row, which a *sql.DB serves from a second connection.
type unitRows struct {
	unit *Unit

	mu     sync.Mutex
	live   *richRows
	closed bool
	over   bool
	// read is what was taken off the connection; its first is the current set.
	read []resultSet
}

var (
	_ driver.RowsNextResultSet              = (*unitRows)(nil)
	_ driver.RowsColumnTypeScanType         = (*unitRows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*unitRows)(nil)
	_ driver.RowsColumnTypeLength           = (*unitRows)(nil)
	_ driver.RowsColumnTypeNullable         = (*unitRows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*unitRows)(nil)
)

func newUnitRows(u *Unit, rows driver.Rows) *unitRows {
	rich, ok := rows.(*richRows)
	if !ok {
		rich = &richRows{Rows: rows}
	}
	return &unitRows{unit: u, live: rich}
}

// settle frees the connection for the next statement.
func (r *unitRows) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live == nil {
		return
	}
	for {
		set := r.take()
		r.read = append(r.read, set)
		if set.err != nil || !r.live.HasNextResultSet() {
			break
		}
		if err := r.live.NextResultSet(); err != nil {
			if !errors.Is(err, io.EOF) {
				r.read = append(r.read, resultSet{err: err})
			}
			break
		}
	}
	_ = r.finish() // what was read stands, and the driver's rows are at their end
}

func (r *unitRows) take() resultSet {
	set := resultSet{columns: r.live.Columns()}
	for i := range set.columns {
		set.types = append(set.types, r.live.columnType(i))
	}
	for {
		values := make([]driver.Value, len(set.columns))
		if err := r.live.Next(values); err != nil {
			if !errors.Is(err, io.EOF) {
				set.err = err
				r.unit.rowsFailed(err)
			}
			return set
		}
		for i, v := range values {
			if b, ok := v.([]byte); ok { // the driver may use its buffer again
				values[i] = bytes.Clone(b)
			}
		}
		set.rows = append(set.rows, values)
	}
}

// end closes the rows because their transaction is about to end.
func (r *unitRows) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live != nil {
		r.over = true
		_ = r.finish() // the transaction's own outcome says what matters
	}
}

// finish is called with the lock held.
func (r *unitRows) finish() error {
	err := r.live.Close()
	r.live = nil
	r.unit.mu.Lock()
	defer r.unit.mu.Unlock()
	delete(r.unit.reading, r)
	return err
}

func (r *unitRows) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed, r.read = true, nil
	if r.live != nil {
		return r.finish()
	}
	return nil
}

func (r *unitRows) Columns() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.live != nil:
		return r.live.Columns()
	case len(r.read) > 0:
		return r.read[0].columns
	}
	return nil
}

func (r *unitRows) Next(dest []driver.Value) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.over:
		return ErrUnitOver
	case r.live != nil:
		err := r.live.Next(dest)
		if err != nil && !errors.Is(err, io.EOF) {
			r.unit.rowsFailed(err)
		}
		return err
	case len(r.read) == 0:
		return io.EOF
	}
	set := &r.read[0]
	if len(set.rows) == 0 {
		if set.err != nil {
			return set.err
		}
		return io.EOF
	}
	copy(dest, set.rows[0])
	set.rows = set.rows[1:]
	return nil
}

func (r *unitRows) HasNextResultSet() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live != nil {
		return r.live.HasNextResultSet()
	}
	return len(r.read) > 1
}

func (r *unitRows) NextResultSet() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.over:
		return ErrUnitOver
	case r.live != nil:
		return r.live.NextResultSet()
	case len(r.read) < 2:
		return io.EOF
	}
	r.read = r.read[1:]
	return nil
}

func (r *unitRows) columnType(i int) columnType {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.live != nil:
		return r.live.columnType(i)
	case len(r.read) > 0 && i < len(r.read[0].types):
		return r.read[0].types[i]
	}
	return columnType{scan: reflect.TypeFor[any]()}
}

func (r *unitRows) ColumnTypeScanType(i int) reflect.Type { return r.columnType(i).scan }

func (r *unitRows) ColumnTypeDatabaseTypeName(i int) string { return r.columnType(i).name }

func (r *unitRows) ColumnTypeLength(i int) (int64, bool) {
	t := r.columnType(i)
	return t.length, t.hasLength
}

func (r *unitRows) ColumnTypeNullable(i int) (nullable, ok bool) {
	t := r.columnType(i)
	return t.nullable, t.nullabilityKnown
}

func (r *unitRows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	t := r.columnType(i)
	return t.precision, t.scale, t.hasDecimal
}

// cancelled reports whether a statement was cut off by its context, which ends
// the transaction on every driver: pgx, lib/pq and go-sql-driver give up the
// connection, SQLite may roll back by itself.
func cancelled(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
