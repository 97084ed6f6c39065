package store

import (
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// Dialect is the kind of database behind a store.
type Dialect string

// The databases that a store can run on.
const (
	Postgres Dialect = "postgres"
	// MySQL stands for MySQL 8 and MariaDB 10.6 and later.
	MySQL  Dialect = "mysql"
	SQLite Dialect = "sqlite"
)

// Dialects lists every dialect.
func Dialects() []Dialect { return []Dialect{Postgres, MySQL, SQLite} }

// bindName is a driver name from which sqlx derives the bind type. It is never
// the name of the driver in use, which sqlx may not know.
func (d Dialect) bindName() string {
	switch d {
	case Postgres:
		return "postgres"
	case MySQL:
		return "mysql"
	case SQLite:
		return "sqlite3"
	}
	return ""
}

func (d Dialect) rebind(query string) string {
	if d == Postgres {
		return sqlx.Rebind(sqlx.DOLLAR, query)
	}
	return query
}

// literal spells a text out for a statement that is not to bind it. The text must
// be UTF-8 without NUL.
func (d Dialect) literal(text string) string {
	switch d {
	case MySQL: // whether backslashes escape is a setting there
		return "x'" + hex.EncodeToString([]byte(text)) + "'"
	case SQLite, Postgres:
	}
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if d == Postgres { // as it is there, unless the string says that they do
		quoted = "E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

func (d Dialect) validate() error {
	if d.bindName() == "" {
		return fmt.Errorf("store: unknown dialect %q: use store.Postgres, store.MySQL or store.SQLite", d)
	}
	return nil
}

func (d Dialect) quote(name string) string {
	if d == MySQL {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}

// now is the database's clock at the start of the statement, in the form in which
// timestamps are stored. Postgres' clock_timestamp() would be evaluated for each
// row and can't be looked up in an index.
func (d Dialect) now() string {
	switch d {
	case MySQL:
		return "UTC_TIMESTAMP(6)"
	case SQLite:
		return sqliteNow
	case Postgres:
	}
	return "statement_timestamp()"
}

// nowPlus is the database's clock plus a parameter in microseconds.
func (d Dialect) nowPlus() string {
	switch d {
	case MySQL:
		return "UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND"
	case SQLite:
		return "(" + sqliteNow + " + ?)"
	case Postgres:
	}
	return "statement_timestamp() + ? * interval '1 microsecond'"
}

// current ends a query that must see what is committed now even where the
// transaction reads from an older snapshot (MySQL's REPEATABLE READ, of a foreign
// transaction). A duplicate key has locked the row already: it waits for nobody.
func (d Dialect) current() string {
	if d == MySQL {
		return " LOCK IN SHARE MODE"
	}
	return ""
}

// forShare ends a query whose rows must stay as they are until the transaction
// ends.
func (d Dialect) forShare() string {
	if d == Postgres {
		return " FOR SHARE"
	}
	return d.current()
}

// forUpdate ends a query that locks its rows. SQLite has one writer.
func (d Dialect) forUpdate() string {
	if d == SQLite {
		return ""
	}
	return " FOR UPDATE"
}

// forUpdateSkipLocked ends a query that locks its rows and leaves out those that
// somebody else has locked. SQLite has one writer.
func (d Dialect) forUpdateSkipLocked() string {
	if d == SQLite {
		return ""
	}
	return " FOR UPDATE SKIP LOCKED"
}

// fromMicros is a timestamp from a parameter in microseconds since 1970.
func (d Dialect) fromMicros() string {
	switch d {
	case MySQL:
		return "TIMESTAMPADD(MICROSECOND, ?, '1970-01-01')"
	case SQLite:
		return "?"
	case Postgres:
	}
	return "timestamptz '1970-01-01 00:00:00+00' + ? * interval '1 microsecond'"
}

// micros reads a timestamp column as microseconds since 1970, which every driver
// scans alike whatever its options.
func (d Dialect) micros(column string) string {
	switch d {
	case MySQL:
		return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', " + column + ")"
	case SQLite:
		return column
	case Postgres:
	}
	return "(extract(epoch from " + column + ") * 1000000)::bigint"
}

func timeFromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// SQLite has no clock type: timestamps are integers, microseconds since 1970.
// unixepoch('subsec') came with 3.42; julianday loses microseconds but not
// milliseconds, which is enough for what SQLite decides by time.
const sqliteNow = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"

// contention: the transaction lost against another and may be run again.
func (d Dialect) contention(err error) bool {
	switch d {
	case Postgres:
		state := sqlState(err)
		return state == "40001" || state == "40P01"
	case MySQL:
		// 1020: MariaDB's innodb_snapshot_isolation, at REPEATABLE READ.
		n := mysqlNumber(err)
		return n == 1213 || n == 1205 || n == 1020
	case SQLite:
		code := sqliteCode(err) & 0xff
		return code == sqliteBusy || code == sqliteLocked
	}
	return false
}

// ends reports whether the database rolled the whole transaction back by itself,
// so that later statements would run outside of any transaction.
func (d Dialect) ends(err error) bool {
	switch d {
	case MySQL:
		// 1205 ends it only with innodb_rollback_on_timeout, which can't be told
		// from here; treating it as over is right for both.
		// 1206, the lock table is full, isn't retried: the transaction is too large.
		n := mysqlNumber(err)
		return n == 1213 || n == 1205 || n == 1020 || n == 1206
	case SQLite:
		// https://www.sqlite.org/lang_transaction.html, "Response To Errors
		// Within A Transaction": these may roll back on their own.
		switch sqliteCode(err) & 0xff {
		case sqliteFull, sqliteIOErr, sqliteNoMem, sqliteBusy, sqliteInterrupt:
			return true
		}
	case Postgres:
		// Postgres keeps the transaction, aborted; COMMIT is checked there.
	}
	return false
}

func (d Dialect) lockTimeout(err error) bool {
	switch d {
	case Postgres:
		return sqlState(err) == "55P03"
	case MySQL:
		n := mysqlNumber(err)
		return n == 1205 || n == 3572
	case SQLite:
		// Its one lock is waited for in Begin.
	}
	return false
}

func (d Dialect) duplicateKey(err error) bool {
	switch d {
	case Postgres:
		return sqlState(err) == "23505"
	case MySQL:
		return mysqlNumber(err) == 1062
	case SQLite:
		code := sqliteCode(err)
		return code == sqliteConstraintPrimaryKey || code == sqliteConstraintUnique
	}
	return false
}

func (d Dialect) missingTable(err error) bool {
	switch d {
	case Postgres:
		state := sqlState(err)
		return state == "42P01" || state == "3F000"
	case MySQL:
		n := mysqlNumber(err)
		return n == 1146 || n == 1049
	case SQLite:
		return sqliteCode(err) != 0 && strings.Contains(err.Error(), "no such table")
	}
	return false
}

func isolationSQL(level sql.IsolationLevel) (string, error) {
	switch level {
	case sql.LevelReadCommitted:
		return "READ COMMITTED", nil
	case sql.LevelRepeatableRead, sql.LevelSnapshot:
		return "REPEATABLE READ", nil
	case sql.LevelSerializable, sql.LevelLinearizable:
		return "SERIALIZABLE", nil
	case sql.LevelDefault, sql.LevelReadUncommitted, sql.LevelWriteCommitted:
	}
	return "", fmt.Errorf("store: isolation level %s can't protect a message: use sql.LevelReadCommitted (the default), "+
		"sql.LevelRepeatableRead or sql.LevelSerializable", level)
}
