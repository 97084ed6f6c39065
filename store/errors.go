package store

import (
	"errors"
	"fmt"
	"time"
)

// Errors that are matched with errors.Is.
var (
	// ErrSchemaMissing says that Headrace's tables are not there, or older than
	// this program needs.
	ErrSchemaMissing = errors.New("headrace schema is missing or too old")
	// ErrSchemaTooNew says that the schema was migrated by a newer program and
	// no longer serves this one.
	ErrSchemaTooNew = errors.New("headrace schema is too new for this program")
	// ErrConnTimeout says that no database connection came free in time.
	ErrConnTimeout = errors.New("timed out waiting for a database connection")
	// ErrLockTimeout says that a lock was not granted in time.
	ErrLockTimeout = errors.New("timed out waiting for a lock")
	// ErrDoomed says that the transaction can only be rolled back: the database
	// has already ended it, or a nested unit of work failed.
	ErrDoomed = errors.New("transaction can only be rolled back")
	// ErrUnitOver says that a unit of work was used after it had ended.
	ErrUnitOver = errors.New("unit of work is over")
	// ErrNoUnit says that a context carries no unit of work.
	ErrNoUnit = errors.New("no unit of work in this context")
	// ErrOutside is returned in strict mode for a statement or publish outside
	// of a unit of work that was not marked with MeantOutside.
	ErrOutside = errors.New("outside of a unit of work")
	// ErrOwned says that a transaction was committed or rolled back by someone
	// who doesn't own it.
	ErrOwned = errors.New("transaction belongs to the unit of work")
	// ErrIsolation says that a nested transaction asked for a stricter isolation
	// than its unit of work has.
	ErrIsolation = errors.New("nested transaction asks for another isolation level")
	// ErrContention is what InTx returns when its transaction was chosen as the
	// victim of a deadlock or serialization failure on every attempt.
	ErrContention = errors.New("gave up after repeated deadlocks or serialization failures")
	// ErrCommitUnknown says that the connection broke during COMMIT, so that the
	// transaction may or may not have been committed.
	ErrCommitUnknown = errors.New("connection lost during commit: outcome unknown")
	// ErrContent says that a value can't be stored as it is.
	ErrContent = errors.New("value can't be stored")
)

const nestedHint = "a likely cause is a nested transaction that was opened without the message's context: " +
	"pass msg.Context() on so that it joins"

// timeoutError is a wait that was cut off. It matches its sentinel.
type timeoutError struct {
	sentinel error
	what     string
	waited   time.Duration
	cause    error
}

func (e *timeoutError) Error() string {
	text := fmt.Sprintf("%v: %s after %s; %s", e.sentinel, e.what, e.waited.Round(time.Millisecond), nestedHint)
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *timeoutError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.sentinel}
	}
	return []error{e.sentinel, e.cause}
}

// IsContention reports whether the error means that the transaction lost against
// a concurrent one and may succeed when it is run again from its start.
func (s *Store) IsContention(err error) bool { return s.dialect.contention(err) }
