package recipes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// SQLX uses sqlx, named parameters included.
type SQLX struct {
	// DB is store.JoinDBX(st), which knows the database's placeholders.
	DB *sqlx.DB
}

type productRow struct {
	Name     string `db:"name"`
	Quantity int    `db:"quantity"`
}

// Receive implements Stock.
func (s SQLX) Receive(ctx context.Context, product string, quantity int) error {
	tx, err := s.DB.BeginTxx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()

	row := productRow{Name: product, Quantity: quantity}
	var known productRow
	err = tx.GetContext(ctx, &known, tx.Rebind("SELECT name, quantity FROM products WHERE name = ?"), product)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.NamedExecContext(ctx, "INSERT INTO products (name, quantity) VALUES (:name, :quantity)", row)
	case err == nil:
		_, err = tx.NamedExecContext(ctx, "UPDATE products SET quantity = quantity + :quantity WHERE name = :name", row)
	}
	if err != nil {
		return fmt.Errorf("add to the stock of %s: %w", product, err)
	}
	_, err = tx.NamedExecContext(ctx, "INSERT INTO receipts (product, quantity) VALUES (:name, :quantity)", row)
	if err != nil {
		return fmt.Errorf("write a receipt: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Quantity implements Stock.
func (s SQLX) Quantity(ctx context.Context, product string) (n int, err error) {
	err = s.DB.GetContext(ctx, &n, s.DB.Rebind("SELECT quantity FROM products WHERE name = ?"), product)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// Receipts implements Stock.
func (s SQLX) Receipts(ctx context.Context, product string) (list []int, err error) {
	err = s.DB.SelectContext(ctx, &list, s.DB.Rebind("SELECT quantity FROM receipts WHERE product = ? ORDER BY id"), product)
	return list, err
}
