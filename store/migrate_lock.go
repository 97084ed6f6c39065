package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"
)

// migrationPatience bounds how long a process waits for another one's migration.
const migrationPatience = time.Minute

var errMigrating = errors.New("another process has been migrating for a minute")

// migrationLock is a lock of the database's session. It keeps processes from
// migrating the same tables at once; those of other schemas and prefixes don't
// wait for each other. The waiting is the database's.
type migrationLock struct{ lock, unlock string }

func (s *Store) migrationLock() migrationLock {
	switch s.dialect {
	case Postgres:
		const key = "hashtextextended(coalesce(nullif($1, ''), current_schema(), '') || '/' || $2, 4)"
		return migrationLock{
			lock:   "SELECT 1 WHERE pg_advisory_lock(" + key + ") IS NOT NULL",
			unlock: "SELECT pg_advisory_unlock(" + key + ")",
		}
	case MySQL:
		// A lock's name has 64 characters at most.
		const key = "CONCAT('headrace_', SHA1(CONCAT(COALESCE(NULLIF(?, ''), DATABASE(), ''), '/', ?)))"
		return migrationLock{lock: "SELECT GET_LOCK(" + key + ", 60)", unlock: "DO RELEASE_LOCK(" + key + ")"}
	case SQLite: // see migrateSQLite
	}
	return migrationLock{}
}

// locked runs f on the one connection that holds the lock. goose has locks of its
// own, but creates and reads its table before it takes them: a process that looks
// in between another one's two statements fails.
func (s *Store) locked(ctx context.Context, f func(db *sql.DB) error) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // only gives it back
	db := sql.OpenDB(heldConnector{s, conn.Conn})
	defer db.Close() //nolint:errcheck // closes nothing
	db.SetMaxOpenConns(1)
	if s.dialect == SQLite {
		return s.migrateSQLite(ctx, func() error { return f(db) })
	}
	l := s.migrationLock()
	if err := l.take(ctx, conn.Conn, s.cfg); err != nil {
		return err
	}
	defer func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CommitTimeout)
		defer cancel()
		if _, err := conn.ExecContext(bounded, l.unlock, s.cfg.Schema, s.cfg.Prefix); err != nil {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // its end unlocks, too
		}
	}()
	return f(db)
}

func (l migrationLock) take(ctx context.Context, conn *sql.Conn, cfg Config) error {
	bounded, cancel := context.WithTimeout(ctx, migrationPatience+time.Second)
	defer cancel()
	var got sql.NullInt64
	err := conn.QueryRowContext(bounded, l.lock, cfg.Schema, cfg.Prefix).Scan(&got)
	switch {
	case err == nil && got.Int64 == 1:
		return nil
	case err == nil:
		return errMigrating
	case bounded.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("%w: %w", errMigrating, err)
	}
	return err
}

// migrateSQLite tries again when another process got in between: SQLite has no
// lock that outlives a transaction. Each migration and its version are one
// transaction, so that the loser finds the work done.
func (s *Store) migrateSQLite(ctx context.Context, f func() error) error {
	if err := s.lockWriter(ctx); err != nil {
		return err
	}
	defer s.unlockWriter()
	ctx, cancel := context.WithTimeout(ctx, migrationPatience)
	defer cancel()
	for {
		err := f()
		raced := s.dialect.contention(err) || (err != nil && (strings.Contains(err.Error(), "already exists") ||
			strings.Contains(err.Error(), "missing zero version")))
		if !raced || pause(ctx) != nil {
			return err
		}
	}
}

// heldConnector gives a connection that somebody else holds, one user at a time.
type heldConnector struct {
	store *Store
	conn  *sql.Conn
}

func (c heldConnector) Connect(context.Context) (driver.Conn, error) {
	return &joinConn{store: c.store, own: c.conn, held: true}, nil
}

func (c heldConnector) Driver() driver.Driver { return joinDriver{c.store} }
