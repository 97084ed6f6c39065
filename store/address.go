package store

import (
	"database/sql"
	"reflect"
)

// mysqlAddress names the server and database behind a handle of go-sql-driver,
// whose errors don't: "Access denied for user 'me'@'10.0.0.7'" has the client's
// host. A *sql.DB doesn't tell what it connects to, so its fields are read by
// their shape, as the drivers' errors are: with another driver, or one that is
// wrapped, there is no name. The password is not looked at.
func mysqlAddress(db *sql.DB) string {
	connector := field(reflect.ValueOf(db), "connector")
	config := field(connector, "cfg")
	address, name := field(config, "Addr"), field(config, "DBName")
	if address.Kind() != reflect.String || name.Kind() != reflect.String || address.String() == "" {
		return ""
	}
	return address.String() + "/" + name.String()
}

// field is a struct's field behind pointers and interfaces, or no value.
func field(v reflect.Value, name string) reflect.Value {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return reflect.Value{}
	}
	return v.FieldByName(name)
}
