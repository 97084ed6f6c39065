package recipes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Plain uses database/sql as most programs do.
type Plain struct {
	// DB is store.JoinDB(st).
	DB *sql.DB
	// Bind turns "?" to what the database wants. Programs for one database write
	// "$1" or "?" by hand.
	Bind func(string) string
}

// Receive implements Stock. Within a unit of work, BeginTx opens a savepoint.
func (p Plain) Receive(ctx context.Context, product string, quantity int) error {
	tx, err := p.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()

	var before int
	err = tx.QueryRowContext(ctx, p.Bind("SELECT quantity FROM products WHERE name = ?"), product).Scan(&before)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.ExecContext(ctx, p.Bind("INSERT INTO products (name, quantity) VALUES (?, ?)"), product, quantity)
	case err == nil:
		_, err = tx.ExecContext(ctx, p.Bind("UPDATE products SET quantity = quantity + ? WHERE name = ?"), quantity, product)
	}
	if err != nil {
		return fmt.Errorf("add to the stock of %s: %w", product, err)
	}
	_, err = tx.ExecContext(ctx, p.Bind("INSERT INTO receipts (product, quantity) VALUES (?, ?)"), product, quantity)
	if err != nil {
		return fmt.Errorf("write a receipt: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Quantity implements Stock.
func (p Plain) Quantity(ctx context.Context, product string) (n int, err error) {
	err = p.DB.QueryRowContext(ctx, p.Bind("SELECT quantity FROM products WHERE name = ?"), product).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// Receipts implements Stock.
func (p Plain) Receipts(ctx context.Context, product string) (list []int, err error) {
	rows, err := p.DB.QueryContext(ctx, p.Bind("SELECT quantity FROM receipts WHERE product = ? ORDER BY id"), product)
	if err != nil {
		return nil, fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		list = append(list, n)
	}
	return list, rows.Err()
}
