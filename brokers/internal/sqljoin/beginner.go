// Package sqljoin gives watermill-sql transactions whose end is decided here.
//
// watermill-sql commits whenever its query loop ends without an error, and a
// message that was not acked in time, or whose subscriber was closed, is no
// error to it (pkg/sql/subscriber.go, query): what the handler had written up to
// then would be committed and the message delivered again. Here a transaction
// commits only after Ack.
package sqljoin

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
)

// ErrBusy is returned by BeginTx when Claim finds that another consumer of the
// group is at work.
var ErrBusy = errors.New("another consumer of the group is at work")

// Beginner is the database handle of one watermill-sql subscriber. All its
// transactions are for reading one message.
type Beginner struct {
	DB *sql.DB

	// Claim takes the right to read for the group, until the transaction ends,
	// without waiting. It is each transaction's first statement, so that all
	// later ones see what the one before has done.
	Claim func(ctx context.Context, tx *sql.Tx) (bool, error)
}

// BeginTx opens a transaction on a connection of its own. It outlives the
// context, so that a subscription's end doesn't roll back what a handler has
// finished.
func (b *Beginner) BeginTx(ctx context.Context, options *sql.TxOptions) (wsql.Tx, error) {
	conn, err := b.DB.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	tx, err := conn.BeginTx(context.WithoutCancel(ctx), options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin: %w", err), conn.Close())
	}

	claimed, err := b.Claim(ctx, tx)
	if err == nil && !claimed {
		err = ErrBusy
	}
	if err != nil {
		_ = tx.Rollback() // whatever it says, Close below ends it

		return nil, errors.Join(err, conn.Close())
	}

	return &Tx{conn: conn, tx: tx, done: make(chan struct{})}, nil
}

// ExecContext runs a statement outside of any message's transaction.
func (b *Beginner) ExecContext(ctx context.Context, query string, args ...any) (wsql.Result, error) {
	return b.DB.ExecContext(ctx, query, args...)
}

// QueryContext runs a query outside of any message's transaction.
func (b *Beginner) QueryContext(ctx context.Context, query string, args ...any) (wsql.Rows, error) {
	return b.DB.QueryContext(ctx, query, args...)
}

// Tx is the transaction in which one message is read and acked.
type Tx struct {
	conn *sql.Conn
	tx   *sql.Tx

	mu        sync.Mutex
	acked     bool
	ended     bool
	committed bool
	onEnd     []func(committed bool)
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

// SQL returns the database's transaction.
func (t *Tx) SQL() *sql.Tx { return t.tx }

// Conn returns the connection on which the transaction runs, for what a
// *sql.Tx has no way to say (sql.Conn.Raw).
func (t *Tx) Conn() *sql.Conn { return t.conn }

// Ack lets the transaction commit. It must come before the message's own Ack.
func (t *Tx) Ack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acked = true
}

// OnEnd adds a function that is called once when the transaction is over.
// committed is true only when the commit is known to have succeeded.
func (t *Tx) OnEnd(fn func(committed bool)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onEnd = append(t.onEnd, fn)
}

// Done is closed when the transaction is over and OnEnd's functions have run.
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

	err := t.tx.Commit()
	t.end(err == nil)
	if err != nil {
		return fmt.Errorf("commit of message and ack: %w", err)
	}

	return nil
}

// Rollback rolls back; the message will come again.
func (t *Tx) Rollback() error {
	err := t.tx.Rollback()
	t.end(false)
	if err != nil && !errors.Is(err, sql.ErrTxDone) {
		return fmt.Errorf("roll back: %w", err)
	}

	return nil
}

func (t *Tx) end(committed bool) {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()

		return
	}
	t.ended, t.committed = true, committed
	onEnd := t.onEnd
	t.mu.Unlock()

	_ = t.conn.Close() // back to the pool, which drops a broken one itself
	for _, fn := range onEnd {
		fn(committed)
	}
	close(t.done)
}

// ExecContext runs a statement in the transaction.
func (t *Tx) ExecContext(ctx context.Context, query string, args ...any) (wsql.Result, error) {
	return t.tx.ExecContext(ctx, query, args...)
}

// QueryContext runs a query in the transaction.
func (t *Tx) QueryContext(ctx context.Context, query string, args ...any) (wsql.Rows, error) {
	return t.tx.QueryContext(ctx, query, args...)
}
