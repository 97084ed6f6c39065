package store

import (
	"errors"
	"reflect"
)

// The drivers' errors are read by their shape, because importing their types
// would make every user compile every driver.

// sqlState reads the SQLSTATE of pgx's and lib/pq's errors.
func sqlState(err error) string {
	if e, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return e.SQLState()
	}
	return ""
}

// sqliteCode reads the extended result code of modernc.org/sqlite's errors.
func sqliteCode(err error) int {
	if e, ok := errors.AsType[interface {
		error
		Code() int
	}](err); ok {
		return e.Code()
	}
	return 0
}

// Result codes: https://www.sqlite.org/rescode.html.
const (
	sqliteBusy                 = 5
	sqliteLocked               = 6
	sqliteNoMem                = 7
	sqliteInterrupt            = 9
	sqliteIOErr                = 10
	sqliteFull                 = 13
	sqliteConstraintPrimaryKey = 1555
	sqliteConstraintUnique     = 2067
)

// mysqlNumber reads the error number of go-sql-driver's *MySQLError, whose only
// access is the exported field Number.
func mysqlNumber(err error) int {
	for err != nil {
		if n, ok := numberField(err); ok {
			return n
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				if n := mysqlNumber(e); n != 0 {
					return n
				}
			}
			return 0
		}
		err = errors.Unwrap(err)
	}
	return 0
}

func numberField(err error) (int, bool) {
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return 0, false
		}
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct || v.Type().Name() != "MySQLError" {
		return 0, false
	}
	f := v.FieldByName("Number")
	if !f.IsValid() || !f.CanUint() {
		return 0, false
	}
	return int(f.Uint()), true //nolint:gosec // a uint16
}
