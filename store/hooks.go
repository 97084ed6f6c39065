package store

import "time"

// TxHook is told about every unit of work when it ends. Give it to Config.Hooks.
// It is called on the goroutine that ran the unit, after the transaction ended,
// and must not block.
type TxHook interface {
	OnTx(stats TxStats)
}

// TxStats is what a unit of work measured of itself.
type TxStats struct {
	// About says whose work it was.
	About About
	// Attempts counts the transactions begun: one more than the deadlocks and
	// serialization failures that were retried.
	Attempts int
	// Committed is false when the unit was rolled back.
	Committed bool
	// Statements counts what was sent to the database, BEGIN and COMMIT aside.
	Statements int
	// ConnWait is how long the last attempt waited for a connection, and on
	// SQLite for its turn as the writer.
	ConnWait time.Duration
	// Length is how long the last attempt's transaction was open.
	Length time.Duration
	// LockWait is the time that the last attempt spent in statements that do
	// nothing slow but wait for others: Headrace's own locking statements, and
	// those that ended with a lock timeout or as a deadlock's victim.
	LockWait time.Duration
	// Slowest is the text of the slowest statement, without its arguments, and
	// SlowestTook how long it ran.
	Slowest     string
	SlowestTook time.Duration
	// Err is why the unit was rolled back.
	Err error
}

// HooksOf picks those hooks that implement T, in their order.
func HooksOf[T any](hooks []any) []T {
	var found []T
	for _, h := range hooks {
		if t, ok := h.(T); ok {
			found = append(found, t)
		}
	}
	return found
}
