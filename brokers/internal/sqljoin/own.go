package sqljoin

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/headrace-go/headrace/brokers"
)

// Own returns transactions at READ COMMITTED that no handler joins.
func Own(db *sql.DB) brokers.Joiner {
	return func(ctx context.Context) (brokers.JoinedTx, error) {
		// The pool waits for a connection as long as the context says; the
		// transaction must not end with it.
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		tx, err := conn.BeginTx(context.WithoutCancel(ctx), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
		if err != nil {
			_ = conn.Close() // the pool drops a broken one itself

			return nil, fmt.Errorf("begin: %w", err)
		}

		return &ownTx{conn: conn, tx: tx}, nil
	}
}

type ownTx struct {
	conn *sql.Conn
	tx   *sql.Tx
}

func (t *ownTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	result, err := t.tx.ExecContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("execute: %w", err)
	}

	return result, nil
}

func (t *ownTx) QueryContext(ctx context.Context, query string, args ...any) (brokers.Rows, error) {
	rows, err := t.tx.QueryContext(ctx, query, args...) //nolint:rowserrcheck // the caller's to check
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}

	return rows, nil
}

func (*ownTx) Context(ctx context.Context) context.Context { return ctx }

func (t *ownTx) Commit(context.Context) error {
	if err := t.tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	_ = t.conn.Close()

	return nil
}

func (t *ownTx) Rollback(context.Context, error) {
	_ = t.tx.Rollback() // whatever it says: a connection that can't is dropped
	_ = t.conn.Close()
}
