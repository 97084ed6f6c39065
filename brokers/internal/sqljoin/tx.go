package sqljoin

import (
	"context"
	"errors"
	"fmt"
	"sync"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"

	"github.com/headrace-go/headrace/brokers"
)

// errNotAcked is why a message's transaction was rolled back.
var errNotAcked = errors.New("message was not acked")

// Tx is the transaction in which one message is read and acked.
type Tx struct {
	tx  brokers.JoinedTx
	end context.Context //nolint:containedctx // Commit and Rollback have none of their own

	mu        sync.Mutex
	acked     bool
	over      bool
	committed bool
	done      chan struct{}
}

// Of returns the transaction of a message that a watermill-sql subscriber with
// a Beginner of this package has delivered.
func Of(ctx context.Context) (*Tx, bool) {
	tx, ok := wsql.TxFromContext(ctx)
	if !ok {
		return nil, false
	}
	own, ok := tx.(*Tx)

	return own, ok
}

// Context returns the context by which a handler joins the transaction.
func (t *Tx) Context(ctx context.Context) context.Context { return t.tx.Context(ctx) }

// Ack lets the transaction commit. It must come before the message's own Ack.
func (t *Tx) Ack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acked = true
}

// Done is closed when the transaction is over.
func (t *Tx) Done() <-chan struct{} { return t.done }

// Committed reports whether the transaction is known to have been committed.
func (t *Tx) Committed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()

	return t.committed
}

// Commit commits when the message was acked, and rolls back otherwise.
func (t *Tx) Commit() error {
	t.mu.Lock()
	acked := t.acked
	t.mu.Unlock()
	if !acked {
		return t.Rollback()
	}

	if err := t.tx.Commit(t.end); err != nil {
		// Rolls back what can still be, and gives back the connection.
		t.tx.Rollback(t.end, err)
		t.finish(false)

		return fmt.Errorf("commit message and ack: %w", err)
	}
	t.finish(true)

	return nil
}

// Rollback rolls back; the message will come again.
func (t *Tx) Rollback() error {
	t.mu.Lock()
	over := t.over
	t.mu.Unlock()
	if !over {
		t.tx.Rollback(t.end, errNotAcked)
		t.finish(false)
	}

	return nil
}

func (t *Tx) finish(committed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.over, t.committed = true, committed
		close(t.done)
	}
}

// ExecContext runs a statement in the transaction.
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (wsql.Result, error) {
	result, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}

	return result, nil
}

// QueryContext runs a query in the transaction.
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (wsql.Rows, error) {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}

	return rows, nil
}
