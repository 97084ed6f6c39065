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
	ErrSchemaMissing = errors.New("the schema is missing or too old")
	// ErrSchemaTooNew says that the schema was migrated by a newer program and
	// no longer serves this one.
	ErrSchemaTooNew = errors.New("the schema is too new for this program")
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

// What may be wrong where a wait was cut off, by what is known of who waited.
const (
	passContext = "without the message's context: pass msg.Context() on so that it joins (to what Publish sends: SetContext)"
	// hintUnit is for a unit of work, which waits for another transaction.
	hintUnit = "if the same handler holds it, one of the two (a statement, transaction or Publish) came " + passContext
	// hintPool is for a pool whose connections are all in use.
	hintPool = "allow more; if the same handler holds one, the message's, it needs a second for a statement or transaction " +
		passContext
	// hintOutside is for a statement that belongs to no unit of work.
	hintOutside = "if a handler has sent it, it likely waits for that handler's own transaction, and was sent " + passContext
	// hintReader is for a COMMIT that waits for readers.
	hintReader = "if the same handler is reading, close its rows; it may read " + passContext
)

// wayToMigrate is what to do where the tables are missing.
const wayToMigrate = "run `headrace migrate up --db URL`, or set Migrate in headrace.Config (or store.Config)"

// timeoutError is a wait that was cut off. It matches its sentinel.
type timeoutError struct {
	sentinel error
	what     string
	waited   time.Duration
	hint     string
	cause    error
}

func (e *timeoutError) Error() string {
	text := fmt.Sprintf("%v: %s after %s; %s", e.sentinel, e.what, e.waited.Round(time.Millisecond), e.hint)
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
