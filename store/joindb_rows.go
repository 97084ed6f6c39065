package store

import (
	"database/sql/driver"
	"errors"
	"io"
	"reflect"
)

// guardDriverRows tells the unit of errors that come while rows are read. What
// the driver's rows can do beyond the minimum is kept, because GORM and sqlx ask
// for column types.
func guardDriverRows(rows driver.Rows, unit *Unit) driver.Rows {
	return &guardedDriverRows{Rows: rows, unit: unit}
}

type guardedDriverRows struct {
	driver.Rows
	unit *Unit
}

var (
	_ driver.RowsNextResultSet              = (*guardedDriverRows)(nil)
	_ driver.RowsColumnTypeScanType         = (*guardedDriverRows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*guardedDriverRows)(nil)
	_ driver.RowsColumnTypeLength           = (*guardedDriverRows)(nil)
	_ driver.RowsColumnTypeNullable         = (*guardedDriverRows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*guardedDriverRows)(nil)
)

func (r *guardedDriverRows) Next(dest []driver.Value) error {
	err := r.Rows.Next(dest)
	if err != nil && !errors.Is(err, io.EOF) {
		r.unit.rowsFailed(err)
	}
	return err
}

func (r *guardedDriverRows) HasNextResultSet() bool {
	rows, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && rows.HasNextResultSet()
}

func (r *guardedDriverRows) NextResultSet() error {
	if rows, ok := r.Rows.(driver.RowsNextResultSet); ok {
		return rows.NextResultSet()
	}
	return io.EOF
}

func (r *guardedDriverRows) ColumnTypeScanType(index int) reflect.Type {
	if rows, ok := r.Rows.(driver.RowsColumnTypeScanType); ok {
		return rows.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}

func (r *guardedDriverRows) ColumnTypeDatabaseTypeName(index int) string {
	if rows, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return rows.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

func (r *guardedDriverRows) ColumnTypeLength(index int) (int64, bool) {
	if rows, ok := r.Rows.(driver.RowsColumnTypeLength); ok {
		return rows.ColumnTypeLength(index)
	}
	return 0, false
}

func (r *guardedDriverRows) ColumnTypeNullable(index int) (nullable, ok bool) {
	if rows, isRows := r.Rows.(driver.RowsColumnTypeNullable); isRows {
		return rows.ColumnTypeNullable(index)
	}
	return false, false
}

func (r *guardedDriverRows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	if rows, isRows := r.Rows.(driver.RowsColumnTypePrecisionScale); isRows {
		return rows.ColumnTypePrecisionScale(index)
	}
	return 0, 0, false
}
