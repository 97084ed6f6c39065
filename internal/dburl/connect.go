package dburl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"github.com/headrace-go/headrace/internal/reach"
)

// ErrUnreachable is matched by every UnreachableError.
var ErrUnreachable = errors.New("database can't be reached")

// UnreachableError says which database did not answer, and how long it was
// tried.
type UnreachableError struct {
	Database string        // its address without secrets
	Tried    time.Duration // from the first attempt to the last
	Attempts int
	// Refused says that it answered, and that trying again wouldn't help.
	Refused bool
	Err     error // of the last attempt
}

func (e *UnreachableError) Error() string {
	wayOut := "check the address and that it runs, or allow a longer connect timeout"
	if e.Refused {
		wayOut = "check user, password, database and options in the URL"
	}
	return fmt.Sprintf("%v: %s: %s; %s", ErrUnreachable, e.Database, reach.Text(e.Tried, e.Attempts, e.Err), wayOut)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Is matches ErrUnreachable.
func (*UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// Connect opens the database and waits until it answers, for timeout at most.
// What another attempt can't change (a wrong password, an unknown database) ends
// it at once. Errors match ErrBadURL or ErrUnreachable.
func (u *URL) Connect(ctx context.Context, timeout time.Duration) (*sql.DB, error) {
	db, err := u.Open()
	if err != nil {
		return nil, err
	}
	failed := reach.Try(ctx, timeout, func(ctx context.Context) error { return ping(ctx, db) }, refused)
	if failed == nil {
		return db, nil
	}
	return nil, errors.Join(&UnreachableError{
		Database: u.Name, Tried: failed.Tried, Attempts: failed.Attempts,
		Refused: failed.Hopeless, Err: u.Redact(failed.Err),
	}, db.Close())
}

// ping reads the schema too, because SQLite opens a file that is no database
// without a word.
func ping(ctx context.Context, db *sql.DB) error {
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, ok := db.Driver().(*sqlite.Driver); !ok {
		return nil
	}
	var n int
	if err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master").Scan(&n); err != nil {
		return fmt.Errorf("read it: %w", err)
	}
	return nil
}

// refused reports whether the server answered, and not only that it is starting,
// stopping or full.
func refused(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		const operatorIntervention, insufficientResources = "57", "53"
		return !strings.HasPrefix(e.Code, operatorIntervention) && !strings.HasPrefix(e.Code, insufficientResources)
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		switch e.Number {
		case 1040, 1053, 1203: // too many connections, shutting down, too many of this user's
			return false
		}
		return true
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		const busy = 5
		return e.Code()&0xff != busy
	}
	return false
}
