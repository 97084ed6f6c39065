package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pressly/goose/v3/lock"
)

// migrationPatience bounds how long a process waits for another one's migration.
const migrationPatience = time.Minute

// migrationLock keeps processes from migrating the same tables at once. Those of
// other schemas and prefixes don't wait for each other. The waiting is the
// database's: goose's own locker asks every five seconds.
func (s *Store) migrationLock() lock.SessionLocker {
	switch s.dialect {
	case Postgres:
		return postgresMigrationLock{s.cfg.Schema, s.cfg.Prefix}
	case MySQL:
		return mysqlMigrationLock{s.cfg.Schema, s.cfg.Prefix}
	case SQLite: // locks the whole file
	}
	return nil
}

var errMigrating = errors.New("another process has been migrating for a minute")

type postgresMigrationLock struct{ schema, prefix string }

const postgresMigrationKey = "hashtextextended(coalesce(nullif($1, ''), current_schema(), '') || '/' || $2, 4)"

func (l postgresMigrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	bounded, cancel := context.WithTimeout(ctx, migrationPatience)
	defer cancel()
	_, err := conn.ExecContext(bounded, "SELECT pg_advisory_lock("+postgresMigrationKey+")", l.schema, l.prefix)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", errMigrating, err)
	}
	return err
}

func (l postgresMigrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "SELECT pg_advisory_unlock("+postgresMigrationKey+")", l.schema, l.prefix)
	return err
}

type mysqlMigrationLock struct{ schema, prefix string }

// A lock's name has 64 characters at most.
const mysqlMigrationKey = "CONCAT('headrace_', SHA1(CONCAT(COALESCE(NULLIF(?, ''), DATABASE(), ''), '/', ?)))"

func (l mysqlMigrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	var got sql.NullInt64
	err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+mysqlMigrationKey+", ?)",
		l.schema, l.prefix, migrationPatience.Seconds()).Scan(&got)
	if err != nil {
		return err
	}
	if got.Int64 != 1 {
		return errMigrating
	}
	return nil
}

func (l mysqlMigrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "DO RELEASE_LOCK("+mysqlMigrationKey+")", l.schema, l.prefix)
	return err
}
