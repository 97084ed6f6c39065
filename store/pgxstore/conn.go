package pgxstore

import (
	"context"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/headrace-go/headrace/store"
)

// conn is a connection that keeps BEGIN back until the first statement.
type conn struct {
	*stdlib.Conn

	// begin holds the statements that open the transaction and weren't sent yet.
	begin string
}

var _ store.UnitConn = (*conn)(nil)

// BeginUnit remembers the statements that open the transaction.
func (c *conn) BeginUnit(_ context.Context, statements string) error {
	if c.Conn.Conn().IsClosed() {
		return driver.ErrBadConn
	}
	c.begin = statements
	return nil
}

// CommitUnit commits. Postgres answers COMMIT of an aborted transaction with
// ROLLBACK and no error; here it is one, with the state that any other statement
// would have got. The socket's deadline bounds it, since for a context's pgx starts
// a goroutine. ctx is never cancelled.
func (c *conn) CommitUnit(ctx context.Context, timeout time.Duration) error {
	if c.dropBegin() {
		return nil
	}
	socket := c.Conn.Conn().PgConn().Conn()
	if err := socket.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("bound the wait for COMMIT: %w", err)
	}
	tag, err := c.Conn.Conn().Exec(ctx, "COMMIT")
	_ = socket.SetDeadline(time.Time{}) // fails only on a closed socket, which the next statement will notice
	if err != nil {
		return err
	}
	if tag.String() != "COMMIT" {
		return &pgconn.PgError{
			Severity: "ERROR", Code: "25P02",
			Message: "current transaction is aborted, COMMIT was answered with " + tag.String(),
		}
	}
	return nil
}

// RollbackUnit rolls back.
func (c *conn) RollbackUnit(ctx context.Context) error {
	if c.dropBegin() {
		return nil
	}
	_, err := c.Conn.Conn().Exec(ctx, "ROLLBACK")
	return err
}

// dropBegin reports whether the transaction never reached the database.
func (c *conn) dropBegin() bool {
	unsent := c.begin != ""
	c.begin = ""
	return unsent
}

// flush sends BEGIN on its own.
func (c *conn) flush(ctx context.Context) error {
	begin := c.begin
	if begin == "" {
		return nil
	}
	c.begin = ""
	if _, err := c.Conn.Conn().Exec(ctx, begin); err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	return nil
}

// exec sends a statement, behind BEGIN where that is still to be sent.
func (c *conn) exec(ctx context.Context, query string, args []any) (tag pgconn.CommandTag, err error) {
	begin := c.begin
	if begin == "" {
		return c.Conn.Conn().Exec(ctx, query, args...)
	}
	c.begin = ""
	batch := &pgx.Batch{}
	opening := strings.Split(begin, "; ")
	for _, statement := range opening {
		batch.Queue(statement)
	}
	batch.Queue(query, args...)
	results := c.Conn.Conn().SendBatch(ctx, batch)
	defer func() {
		// A failed batch gives the same error again when it is closed.
		if closing := results.Close(); err == nil {
			err = closing
		}
	}()
	for range opening {
		if _, err := results.Exec(); err != nil {
			return tag, err
		}
	}
	return results.Exec()
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.begin == "" {
		return c.Conn.ExecContext(ctx, query, args)
	}
	plain := make([]any, len(args))
	for i, arg := range args {
		plain[i] = arg.Value
	}
	tag, err := c.exec(ctx, query, plain)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := c.flush(ctx); err != nil {
		return nil, err
	}
	return c.Conn.QueryContext(ctx, query, args)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if err := c.flush(ctx); err != nil {
		return nil, err
	}
	return c.Conn.PrepareContext(ctx, query)
}
