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
	attempts, wayOut := "attempts", "check the address and that it runs, or allow a longer connect timeout"
	if e.Attempts == 1 {
		attempts = "attempt"
	}
	if e.Refused {
		wayOut = "check user, password, database and options in the URL"
	}
	return fmt.Sprintf("%v: %s: tried for %v (%d %s): %s; %s", ErrUnreachable, e.Database,
		e.Tried.Round(time.Millisecond), e.Attempts, attempts, strings.Join(strings.Fields(e.Err.Error()), " "), wayOut)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Is matches ErrUnreachable.
func (*UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// First and longest wait between two attempts.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = time.Second
)

// Connect opens the database and waits until it answers, for timeout at most.
// What another attempt can't change (a wrong password, an unknown database) ends
// it at once. Errors match ErrBadURL or ErrUnreachable.
func (u *URL) Connect(ctx context.Context, timeout time.Duration) (*sql.DB, error) {
	db, err := u.Open()
	if err != nil {
		return nil, err
	}
	started := time.Now()
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed := &UnreachableError{Database: u.Name}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := ping(bounded, db)
		if err == nil {
			return db, nil
		}
		failed.Attempts++
		// The attempt that the deadline cut off knows less than the one before.
		if failed.Err == nil || bounded.Err() == nil {
			failed.Err = u.Redact(err)
		}
		failed.Refused = refused(err)
		timer := time.NewTimer(wait)
		if !failed.Refused {
			select {
			case <-timer.C:
				continue
			case <-bounded.Done():
			}
		}
		timer.Stop()
		failed.Tried = time.Since(started)
		return nil, errors.Join(failed, db.Close())
	}
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
