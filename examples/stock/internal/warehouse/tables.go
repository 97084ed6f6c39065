package warehouse

import (
	"context"
	"fmt"
)

// Product is a product and what is known of it.
type Product struct {
	ID           int64  `json:"id"`
	Name         string `json:"name"`
	Stock        int64  `json:"stock"`
	ReorderLevel int64  `json:"reorder_level"`

	Lines          []PurchaseOrderLine `json:"purchase_order_lines"`
	Recommendation Recommendation      `json:"recommendation"`
}

// PurchaseOrderLine is an order of one product at a supplier.
type PurchaseOrderLine struct {
	ID        int64 `json:"id"`
	Ordered   int64 `json:"ordered"`
	Delivered int64 `json:"delivered"`
}

// Recommendation is what the follow-ups compute.
type Recommendation struct {
	// ToDeliver is what suppliers still owe.
	ToDeliver int64 `json:"to_deliver"`
	// ToOrder is what to order so that the reorder level is reached once they
	// have delivered. Negative when there is more than enough.
	ToOrder int64 `json:"to_order"`
	// Runs counts how often it was computed.
	Runs int64 `json:"runs"`
}

// The journals have no unique key on change_id, as journals have none: whoever
// writes an entry twice finds it twice.
//
//nolint:gochecknoglobals // a constant table
var tables = []string{
	`CREATE TABLE IF NOT EXISTS products (
		id BIGINT NOT NULL PRIMARY KEY, name VARCHAR(100) NOT NULL, stock BIGINT NOT NULL, reorder_level BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS purchase_order_lines (
		id BIGINT NOT NULL PRIMARY KEY, product BIGINT NOT NULL, ordered BIGINT NOT NULL, delivered BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS stock_journal (
		change_id VARCHAR(64) NOT NULL, product BIGINT NOT NULL, quantity BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS recommendations (
		product BIGINT NOT NULL PRIMARY KEY, to_deliver BIGINT NOT NULL, to_order BIGINT NOT NULL, runs BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS recommendation_runs (
		change_id VARCHAR(64) NOT NULL, product BIGINT NOT NULL)`,
}

// CreateTables makes the service's tables where they are missing.
func (w *Warehouse) CreateTables(ctx context.Context) error {
	for _, statement := range tables {
		if _, err := w.db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("warehouse: create tables: %w", err)
		}
	}
	return nil
}

// AddProducts puts products with their order lines into empty tables, and does
// nothing when there are some already.
func (w *Warehouse) AddProducts(ctx context.Context, products []Product) error {
	var there int
	if err := w.db.QueryRowContext(ctx, "SELECT count(*) FROM products").Scan(&there); err != nil {
		return fmt.Errorf("warehouse: count products: %w", err)
	}
	if there > 0 {
		return nil
	}
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("warehouse: add products: %w", err)
	}
	defer tx.Rollback()

	insert := func(query string, args ...any) {
		if err == nil {
			_, err = tx.ExecContext(ctx, w.placeholders(query), args...)
		}
	}
	for _, p := range products {
		insert("INSERT INTO products (id, name, stock, reorder_level) VALUES (?, ?, ?, ?)", p.ID, p.Name, p.Stock, p.ReorderLevel)
		insert("INSERT INTO recommendations (product, to_deliver, to_order, runs) VALUES (?, 0, 0, 0)", p.ID)
		for _, l := range p.Lines {
			insert("INSERT INTO purchase_order_lines (id, product, ordered, delivered) VALUES (?, ?, ?, ?)",
				l.ID, p.ID, l.Ordered, l.Delivered)
		}
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("warehouse: add products: %w", err)
	}
	return nil
}
