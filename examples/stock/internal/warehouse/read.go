package warehouse

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Product returns what is known of a product. ok is false when there is none.
func (w *Warehouse) Product(ctx context.Context, id int64) (p Product, ok bool, err error) {
	p = Product{ID: id, Lines: []PurchaseOrderLine{}}
	err = w.db.QueryRowContext(ctx, w.placeholders(`SELECT p.name, p.stock, p.reorder_level, r.to_deliver, r.to_order, r.runs
		FROM products p JOIN recommendations r ON r.product = p.id WHERE p.id = ?`), id).
		Scan(&p.Name, &p.Stock, &p.ReorderLevel, &p.Recommendation.ToDeliver, &p.Recommendation.ToOrder, &p.Recommendation.Runs)
	if errors.Is(err, sql.ErrNoRows) {
		return Product{}, false, nil
	}
	if err != nil {
		return Product{}, false, fmt.Errorf("warehouse: read product %d: %w", id, err)
	}
	err = w.each(ctx, func(scan func(...any) error) error {
		var l PurchaseOrderLine
		err := scan(&l.ID, &l.Ordered, &l.Delivered)
		p.Lines = append(p.Lines, l)
		return err
	}, "SELECT id, ordered, delivered FROM purchase_order_lines WHERE product = ? ORDER BY id", id)
	if err != nil {
		return Product{}, false, fmt.Errorf("warehouse: read the order lines of product %d: %w", id, err)
	}
	return p, true, nil
}

// Check refuses a change of a product or order line that isn't there.
func (w *Warehouse) Check(ctx context.Context, change ProductStockChanged) error {
	if err := change.Validate(); err != nil {
		return err
	}
	p, ok, err := w.Product(ctx, change.Product)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: there is no product %d", ErrRefused, change.Product)
	}
	line, ok := change.Delivery()
	if !ok {
		return nil
	}
	for _, l := range p.Lines {
		if l.ID == line {
			return nil
		}
	}
	return fmt.Errorf("%w: product %d has no purchase order line %d", ErrRefused, change.Product, line)
}

// StockJournal counts the journal's entries of each change.
func (w *Warehouse) StockJournal(ctx context.Context) (map[string]int, error) {
	return w.count(ctx, "SELECT change_id, count(*) FROM stock_journal GROUP BY change_id")
}

// RecommendationRuns counts the recommendations that each change has led to.
func (w *Warehouse) RecommendationRuns(ctx context.Context) (map[string]int, error) {
	return w.count(ctx, "SELECT change_id, count(*) FROM recommendation_runs GROUP BY change_id")
}

func (w *Warehouse) count(ctx context.Context, query string) (map[string]int, error) {
	counts := map[string]int{}
	err := w.each(ctx, func(scan func(...any) error) error {
		var change string
		var n int
		err := scan(&change, &n)
		counts[change] = n
		return err
	}, query)
	if err != nil {
		return nil, fmt.Errorf("warehouse: read a journal: %w", err)
	}
	return counts, nil
}

// each calls read for every row.
func (w *Warehouse) each(ctx context.Context, read func(scan func(...any) error) error, query string, args ...any) error {
	rows, err := w.db.QueryContext(ctx, w.placeholders(query), args...)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := read(rows.Scan); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("rows: %w", err)
	}
	return nil
}
