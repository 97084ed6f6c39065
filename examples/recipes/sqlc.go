package recipes

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// What sqlc generates: queries on a DBTX, which a *sql.DB and a *sql.Tx are.

// DBTX is as sqlc writes it.
type DBTX interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	PrepareContext(ctx context.Context, query string) (*sql.Stmt, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Queries is as sqlc writes it, but for bind: it generates for one database.
type Queries struct {
	db   DBTX
	bind func(string) string
}

// New returns queries on a *sql.DB or *sql.Tx.
func New(db DBTX, bind func(string) string) *Queries { return &Queries{db: db, bind: bind} }

// WithTx is as sqlc writes it.
func (q *Queries) WithTx(tx *sql.Tx) *Queries { return &Queries{db: tx, bind: q.bind} }

// AddQuantity returns how many products it found.
func (q *Queries) AddQuantity(ctx context.Context, quantity int, name string) (int64, error) {
	res, err := q.db.ExecContext(ctx, q.bind("UPDATE products SET quantity = quantity + ? WHERE name = ?"), quantity, name)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// CreateProduct inserts a product.
func (q *Queries) CreateProduct(ctx context.Context, name string, quantity int) error {
	_, err := q.db.ExecContext(ctx, q.bind("INSERT INTO products (name, quantity) VALUES (?, ?)"), name, quantity)
	return err
}

// CreateReceipt inserts a receipt.
func (q *Queries) CreateReceipt(ctx context.Context, product string, quantity int) error {
	_, err := q.db.ExecContext(ctx, q.bind("INSERT INTO receipts (product, quantity) VALUES (?, ?)"), product, quantity)
	return err
}

// GetQuantity reads a product.
func (q *Queries) GetQuantity(ctx context.Context, name string) (int, error) {
	row := q.db.QueryRowContext(ctx, q.bind("SELECT quantity FROM products WHERE name = ?"), name)
	var quantity int
	err := row.Scan(&quantity)
	return quantity, err
}

// ListReceipts reads a product's receipts.
func (q *Queries) ListReceipts(ctx context.Context, product string) ([]int, error) {
	rows, err := q.db.QueryContext(ctx, q.bind("SELECT quantity FROM receipts WHERE product = ? ORDER BY id"), product)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var items []int
	for rows.Next() {
		var quantity int
		if err := rows.Scan(&quantity); err != nil {
			return nil, err
		}
		items = append(items, quantity)
	}
	return items, rows.Err()
}

// SQLC uses generated queries, in a transaction of its own where several belong
// together.
type SQLC struct {
	// DB is store.JoinDB(st).
	DB      *sql.DB
	Queries *Queries
}

// Receive implements Stock.
func (s SQLC) Receive(ctx context.Context, product string, quantity int) error {
	tx, err := s.DB.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback()
	queries := s.Queries.WithTx(tx)
	found, err := queries.AddQuantity(ctx, quantity, product)
	if err == nil && found == 0 {
		err = queries.CreateProduct(ctx, product, quantity)
	}
	if err != nil {
		return fmt.Errorf("add to the stock of %s: %w", product, err)
	}
	if err := queries.CreateReceipt(ctx, product, quantity); err != nil {
		return fmt.Errorf("write a receipt: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// Quantity implements Stock.
func (s SQLC) Quantity(ctx context.Context, product string) (int, error) {
	n, err := s.Queries.GetQuantity(ctx, product)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return n, err
}

// Receipts implements Stock.
func (s SQLC) Receipts(ctx context.Context, product string) ([]int, error) {
	return s.Queries.ListReceipts(ctx, product)
}
