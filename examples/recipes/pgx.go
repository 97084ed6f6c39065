package recipes

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/headrace-go/headrace/store/pgxstore"
)

// PGX uses native pgx on a pool. There is no handle that joins by itself: pgx has
// no interface for that. So the repository asks for the unit's transaction first.
type PGX struct {
	// Pool is the one that pgxstore.Open was given.
	Pool *pgxpool.Pool
}

// querier is what a *pgxpool.Pool and a pgx.Tx have in common.
type querier interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// on is the one line that joins: the unit's transaction, or the pool outside of any.
func (p PGX) on(ctx context.Context) querier {
	if tx, ok := pgxstore.Tx(ctx); ok {
		return tx
	}
	return p.Pool
}

// Receive implements Stock. Begin on the unit's transaction opens a savepoint.
func (p PGX) Receive(ctx context.Context, product string, quantity int) error {
	tx, err := p.on(ctx).Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // does nothing after Commit
	batch := &pgx.Batch{}
	batch.Queue("INSERT INTO products (name, quantity) VALUES ($1, $2) "+
		"ON CONFLICT (name) DO UPDATE SET quantity = products.quantity + $2", product, quantity)
	batch.Queue("INSERT INTO receipts (product, quantity) VALUES ($1, $2)", product, quantity)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("add to the stock of %s: %w", product, err)
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Quantity implements Stock.
func (p PGX) Quantity(ctx context.Context, product string) (n int, err error) {
	err = p.on(ctx).QueryRow(ctx, "SELECT quantity FROM products WHERE name = $1", product).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// Receipts implements Stock.
func (p PGX) Receipts(ctx context.Context, product string) ([]int, error) {
	rows, err := p.on(ctx).Query(ctx, "SELECT quantity FROM receipts WHERE product = $1 ORDER BY id", product)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[int])
}
