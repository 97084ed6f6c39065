package brokers

import (
	"context"
	"database/sql"
)

// Joiner begins a transaction that a message's handler joins.
type Joiner func(ctx context.Context) (JoinedTx, error)

// JoinedTx is the transaction of one message: it is read in it, its handler
// joins it by its context, and its ack is recorded in it. All statements come
// from one goroutine at a time. It outlives the context with which it was begun.
type JoinedTx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (Rows, error)

	// Context returns the context by which the handler joins.
	Context(ctx context.Context) context.Context

	// Commit is called when the message was acked and that is recorded. After
	// an error the message comes again.
	Commit(ctx context.Context) error
	// Rollback is called in every other case. why is for logs.
	Rollback(ctx context.Context, why error)
}

// Rows is what a query returns; *sql.Rows is one.
type Rows interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close() error
}

// unitOf is what JoinUnits needs of a unit of work.
type unitOf[T any] interface {
	Tx() T
	Context(ctx context.Context) context.Context
	Commit(ctx context.Context) error
	Rollback(ctx context.Context, why error)
}

// statementsOf is what JoinUnits needs of a unit's statements.
type statementsOf[R Rows] interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (R, error)
}

// JoinUnits makes a Joiner of a function that begins units of work, such as the
// method Begin of a *store.Store. (It is generic so that this package needs not
// import the one that has the units; the type arguments are inferred.)
func JoinUnits[U unitOf[T], T statementsOf[R], R Rows](begin func(ctx context.Context) (U, error)) Joiner {
	return func(ctx context.Context) (JoinedTx, error) {
		unit, err := begin(ctx)
		if err != nil {
			return nil, err
		}

		return joinedUnit[U, T, R]{unit}, nil
	}
}

type joinedUnit[U unitOf[T], T statementsOf[R], R Rows] struct{ unit U }

func (j joinedUnit[U, T, R]) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return j.unit.Tx().ExecContext(ctx, query, args...)
}

func (j joinedUnit[U, T, R]) QueryContext(ctx context.Context, query string, args ...any) (Rows, error) {
	rows, err := j.unit.Tx().QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}

	return rows, nil
}

func (j joinedUnit[U, T, R]) Context(ctx context.Context) context.Context { return j.unit.Context(ctx) }

func (j joinedUnit[U, T, R]) Commit(ctx context.Context) error { return j.unit.Commit(ctx) }

func (j joinedUnit[U, T, R]) Rollback(ctx context.Context, why error) { j.unit.Rollback(ctx, why) }
