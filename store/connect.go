package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace-go/headrace/internal/reach"
)

// DefaultConnectTimeout is how long Connect tries when it isn't told.
const DefaultConnectTimeout = 10 * time.Second

// ErrUnreachable is matched by every UnreachableError.
var ErrUnreachable = errors.New("the database can't be reached")

// UnreachableError says how long a database was tried. Which one it is stands
// in the driver's error, or in Address where it doesn't.
type UnreachableError struct {
	Tried    time.Duration // from the first attempt to the last
	Attempts int
	// Refused says that it answered, and that trying again wouldn't help: a
	// wrong password, an unknown database.
	Refused bool
	// Address is host:port/database of a server whose driver's errors don't name
	// it (go-sql-driver/mysql), or "".
	Address string
	// Err is the driver's error of the last attempt.
	Err error
}

func (e *UnreachableError) Error() string {
	wayOut := "check the address and that it runs, or allow a longer connect timeout"
	if e.Refused {
		wayOut = "check user, password, database and options"
	}
	which := ErrUnreachable.Error()
	if e.Address != "" {
		which = "the database " + e.Address + " can't be reached"
	}
	return fmt.Sprintf("%s: %s; %s", which, reach.Text(e.Tried, e.Attempts, e.Err), wayOut)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Is matches ErrUnreachable.
func (*UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// Connect waits until a database answers, for timeout at most (0 is
// DefaultConnectTimeout), so that a service may start before its database. What
// another attempt can't change, such as a wrong password, ends it at once. The
// error is an *UnreachableError.
func Connect(ctx context.Context, db *sql.DB, timeout time.Duration) error {
	if timeout <= 0 {
		timeout = DefaultConnectTimeout
	}
	failed := reach.Try(ctx, timeout, db.PingContext, refused)
	if failed == nil {
		return nil
	}
	return fmt.Errorf("store: %w", &UnreachableError{
		Tried: failed.Tried, Attempts: failed.Attempts, Refused: failed.Hopeless, Err: failed.Err,
		Address: mysqlAddress(db),
	})
}

// refused reports whether the server answered, and not only that it is starting,
// stopping or full.
func refused(err error) bool {
	if state := sqlState(err); state != "" {
		const operatorIntervention, insufficientResources = "57", "53"
		return !strings.HasPrefix(state, operatorIntervention) && !strings.HasPrefix(state, insufficientResources)
	}
	switch mysqlNumber(err) {
	case 0, 1040, 1053, 1203: // not the server's, too many connections, shutting down, too many of this user's
	default:
		return true
	}
	code := sqliteCode(err) & 0xff
	return code != 0 && code != sqliteBusy
}
