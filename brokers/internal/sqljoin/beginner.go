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

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"

	"github.com/headrace-go/headrace/brokers"
)

// Reasons for which BeginTx begins nothing.
var (
	// ErrBusy: another consumer of the group is at work.
	ErrBusy = errors.New("another consumer of the group is at work")
	// ErrNothing: there is no message to read.
	ErrNothing = errors.New("no message")
)

// Statements runs a transaction's statements.
type Statements interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (brokers.Rows, error)
}

// Beginner is the database handle of one watermill-sql subscriber. All its
// transactions are for reading one message.
type Beginner struct {
	// Begin opens a transaction. It outlives the context, so that the end of a
	// subscription doesn't roll back what a handler has finished.
	Begin brokers.Joiner

	// Peek reports whether there may be a message, without a transaction.
	// Optional; it keeps idle polls out of what Begin measures and logs.
	Peek func(ctx context.Context) (bool, error)

	// Claim takes the right to read for the group, until the transaction ends,
	// without waiting. It is each transaction's first statement, so that all
	// later ones see what the one before has done.
	Claim func(ctx context.Context, tx Statements) (bool, error)
}

// BeginTx opens a transaction and claims the group. The isolation that
// watermill-sql asks for is Begin's affair.
func (b *Beginner) BeginTx(ctx context.Context, _ *sql.TxOptions) (wsql.Tx, error) {
	if b.Peek != nil {
		found, err := b.Peek(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for messages: %w", err)
		}
		if !found {
			return nil, ErrNothing
		}
	}

	tx, err := b.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	claimed, err := b.Claim(ctx, tx)
	switch {
	case err != nil:
		err = fmt.Errorf("claim the group: %w", err)
	case !claimed:
		err = ErrBusy
	default:
		return &Tx{tx: tx, end: context.WithoutCancel(ctx), done: make(chan struct{})}, nil
	}
	tx.Rollback(context.WithoutCancel(ctx), err)

	return nil, err
}

var errOutside = errors.New("statement outside of a message's transaction")

// ExecContext is part of wsql.Beginner and not used: tables are made elsewhere.
func (*Beginner) ExecContext(context.Context, string, ...any) (wsql.Result, error) {
	return nil, errOutside
}

// QueryContext is part of wsql.Beginner and not used.
func (*Beginner) QueryContext(context.Context, string, ...any) (wsql.Rows, error) {
	return nil, errOutside
}
