package pgxstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace-go/headrace/store"
)

// Tx returns the native transaction of the context's unit of work, of a store
// that was opened with Open, or that was joined with Join. Its Commit and Rollback
// return an error that matches store.ErrOwned: the unit decides. Begin opens a
// savepoint. Like any pgx.Tx it is not safe for concurrent use.
//
// It says false only where there is no such unit, and code may then use its pool.
// Of a unit that is over or can only be rolled back it returns a transaction whose
// statements say so: on the pool they would escape the unit.
func Tx(ctx context.Context) (pgx.Tx, bool) {
	u := store.CurrentUnit(ctx)
	if u == nil {
		return nil, false
	}
	t := &unitTx{unit: u}
	var joined pgx.Tx
	err := u.Raw(ctx, "", func(driverConn any) error {
		if s, ok := driverConn.(session); ok {
			joined = s.tx
			return nil
		}
		return t.take(driverConn)
	})
	if joined != nil {
		return ownedTx{joined}, true
	}
	return t, !errors.Is(err, errForeign)
}

// unitTx is a unit of work as a pgx.Tx.
type unitTx struct {
	unit *store.Unit
	conn *conn
	// nested is set for a savepoint.
	nested *store.Nested
}

var errForeign = errors.New("pgxstore: the store was not opened with pgxstore.Open")

func (t *unitTx) take(driverConn any) error {
	c, ok := driverConn.(*conn)
	if !ok {
		return errForeign
	}
	t.conn = c
	return nil
}

// guarded passes a statement through the unit's guard.
func (t *unitTx) guarded(ctx context.Context, query string, f func(c *conn) error) error {
	raw := t.unit.Raw
	if t.nested != nil {
		raw = t.nested.Raw
	}
	return raw(ctx, query, func(driverConn any) error {
		if err := t.take(driverConn); err != nil {
			return err
		}
		return f(t.conn)
	})
}

// flushed is guarded with BEGIN sent first.
func (t *unitTx) flushed(ctx context.Context, query string, f func(c *pgx.Conn) error) error {
	return t.guarded(ctx, query, func(c *conn) error {
		if err := c.flush(ctx); err != nil {
			return err
		}
		return f(c.Conn.Conn())
	})
}

func (t *unitTx) Exec(ctx context.Context, query string, args ...any) (tag pgconn.CommandTag, err error) {
	err = t.guarded(ctx, query, func(c *conn) (err error) {
		tag, err = c.exec(ctx, query, args)
		return err
	})
	return tag, err
}

func (t *unitTx) Query(ctx context.Context, query string, args ...any) (rows pgx.Rows, err error) {
	err = t.flushed(ctx, query, func(c *pgx.Conn) (err error) {
		rows, err = c.Query(ctx, query, args...)
		return err
	})
	if err != nil {
		return errorRows{err}, err
	}
	return rows, nil
}

func (t *unitTx) QueryRow(ctx context.Context, query string, args ...any) pgx.Row {
	var row pgx.Row
	err := t.flushed(ctx, query, func(c *pgx.Conn) error {
		row = c.QueryRow(ctx, query, args...)
		return nil
	})
	if err != nil {
		return errorRows{err}
	}
	return row
}

func (t *unitTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	var results pgx.BatchResults
	err := t.flushed(ctx, batchText(b), func(c *pgx.Conn) error {
		results = c.SendBatch(ctx, b)
		return nil
	})
	if err != nil {
		return errorBatch{err}
	}
	return results
}

// batchText shows the guard every statement of a batch.
func batchText(b *pgx.Batch) string {
	texts := make([]string, len(b.QueuedQueries))
	for i, q := range b.QueuedQueries {
		texts[i] = q.SQL
	}
	return strings.Join(texts, ";\n")
}

func (t *unitTx) CopyFrom(
	ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource,
) (n int64, err error) {
	err = t.flushed(ctx, "COPY "+table.Sanitize(), func(c *pgx.Conn) (err error) {
		n, err = c.CopyFrom(ctx, table, columns, source)
		return err
	})
	return n, err
}

func (t *unitTx) Prepare(ctx context.Context, name, query string) (sd *pgconn.StatementDescription, err error) {
	err = t.flushed(ctx, query, func(c *pgx.Conn) (err error) {
		sd, err = c.Prepare(ctx, name, query)
		return err
	})
	return sd, err
}

// LargeObjects works on a pgx.Tx of pgx's own, which begins nothing: the
// transaction is open.
func (t *unitTx) LargeObjects() (objects pgx.LargeObjects) {
	_ = t.flushed(context.Background(), "large objects", func(c *pgx.Conn) error {
		tx, err := c.BeginTx(context.Background(), pgx.TxOptions{BeginQuery: "SELECT 1"})
		if err == nil {
			objects = tx.LargeObjects()
		}
		return err
	})
	return objects
}

// Conn returns the connection that the transaction is on. Statements through it
// pass no guard. It is nil when the unit was over before Tx was called.
func (t *unitTx) Conn() *pgx.Conn {
	if t.conn == nil {
		return nil
	}
	return t.conn.Conn.Conn()
}

func (t *unitTx) Begin(ctx context.Context) (pgx.Tx, error) {
	begin := t.unit.BeginNested
	if t.nested != nil {
		begin = t.nested.BeginNested
	}
	nested, err := begin(ctx)
	if err != nil {
		return nil, err
	}
	return &unitTx{unit: t.unit, conn: t.conn, nested: nested}, nil
}

func (t *unitTx) Commit(ctx context.Context) error {
	if t.nested == nil {
		return fmt.Errorf("%w: don't commit it, return nil from the handler", store.ErrOwned)
	}
	return closed(t.nested.Commit(ctx))
}

func (t *unitTx) Rollback(ctx context.Context) error {
	if t.nested == nil {
		return fmt.Errorf("%w: don't roll it back, return an error from the handler", store.ErrOwned)
	}
	return closed(t.nested.Rollback(ctx))
}

// closed says in pgx's words that a transaction was ended before.
func closed(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return pgx.ErrTxClosed
	}
	return err
}

// ownedTx is a transaction that the caller of Join began.
type ownedTx struct{ pgx.Tx }

func (ownedTx) Commit(context.Context) error {
	return fmt.Errorf("%w: who began it commits it", store.ErrOwned)
}

func (ownedTx) Rollback(context.Context) error {
	return fmt.Errorf("%w: who began it rolls it back", store.ErrOwned)
}

// errorRows is a result that only says why there is none.
type errorRows struct{ err error }

func (errorRows) Close()                                       {}
func (r errorRows) Err() error                                 { return r.err }
func (errorRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (errorRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (errorRows) Next() bool                                   { return false }
func (r errorRows) Scan(...any) error                          { return r.err }
func (r errorRows) Values() ([]any, error)                     { return nil, r.err }
func (errorRows) RawValues() [][]byte                          { return nil }
func (errorRows) Conn() *pgx.Conn                              { return nil }

type errorBatch struct{ err error }

func (b errorBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b errorBatch) Query() (pgx.Rows, error)         { return errorRows(b), b.err }
func (b errorBatch) QueryRow() pgx.Row                { return errorRows(b) }
func (b errorBatch) Close() error                     { return b.err }
