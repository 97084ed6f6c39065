package buying

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Every change of a recommendation raises its version, so that MySQL too counts the
// row as changed.
//
//nolint:gochecknoglobals // a constant table
var tables = []string{
	`CREATE TABLE IF NOT EXISTS suppliers (name VARCHAR(100) NOT NULL PRIMARY KEY, address VARCHAR(200) NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS recommendations (
		id BIGINT NOT NULL PRIMARY KEY, supplier VARCHAR(100) NOT NULL, product VARCHAR(100) NOT NULL,
		quantity BIGINT NOT NULL, state VARCHAR(20) NOT NULL, mail VARCHAR(64) NOT NULL, version BIGINT NOT NULL,
		booking VARCHAR(64) NOT NULL, seen_version BIGINT NOT NULL, seen_quantity BIGINT NOT NULL)`,
	`CREATE TABLE IF NOT EXISTS mails (
		id VARCHAR(64) NOT NULL PRIMARY KEY, supplier VARCHAR(100) NOT NULL, slot VARCHAR(40) NOT NULL,
		sender VARCHAR(200) NOT NULL, recipient VARCHAR(200) NOT NULL, content TEXT NOT NULL,
		state VARCHAR(20) NOT NULL, note VARCHAR(500) NOT NULL)`,
}

// CreateTables makes the tables where they are missing.
func (d *Desk) CreateTables(ctx context.Context) error {
	for _, statement := range tables {
		if _, err := d.cfg.DB.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("buying: create tables: %w", err)
		}
	}
	return nil
}

// Supplier is one from whom products are ordered, by mail.
type Supplier struct{ Name, Address string }

// Fill puts suppliers and open recommendations into empty tables, in the context's
// transaction, and does nothing when there are some already.
func (d *Desk) Fill(ctx context.Context, suppliers []Supplier, recommendations []Recommendation) error {
	var there int
	if err := d.cfg.DB.GetContext(ctx, &there, "SELECT count(*) FROM suppliers"); err != nil {
		return fmt.Errorf("buying: count suppliers: %w", err)
	}
	if there > 0 {
		return nil
	}
	for _, s := range suppliers {
		if _, err := d.exec(ctx, "INSERT INTO suppliers (name, address) VALUES (?, ?)", s.Name, s.Address); err != nil {
			return err
		}
	}
	for _, r := range recommendations {
		if _, err := d.exec(ctx, `INSERT INTO recommendations
				(id, supplier, product, quantity, state, mail, version, booking, seen_version, seen_quantity)
			VALUES (?, ?, ?, ?, 'open', '', 1, '', ?, ?)`,
			r.ID, r.Supplier, r.Product, r.Quantity, r.SeenVersion, r.SeenQuantity); err != nil {
			return err
		}
	}
	return nil
}

const recommendationColumns = `SELECT id, supplier, product, quantity, state, mail, version, seen_version, seen_quantity
	FROM recommendations`

// Recommendation returns one. Errors match ErrNotFound.
func (d *Desk) Recommendation(ctx context.Context, id int64) (r Recommendation, err error) {
	err = d.cfg.DB.GetContext(ctx, &r, d.cfg.DB.Rebind(recommendationColumns+" WHERE id = ?"), id)
	if errors.Is(err, sql.ErrNoRows) {
		return r, ErrNotFound
	}
	if err != nil {
		return r, fmt.Errorf("buying: read recommendation %d: %w", id, err)
	}
	return r, nil
}

// Recommendations returns all of them.
func (d *Desk) Recommendations(ctx context.Context) (all []Recommendation, err error) {
	if err := d.cfg.DB.SelectContext(ctx, &all, recommendationColumns+" ORDER BY id"); err != nil {
		return nil, fmt.Errorf("buying: read recommendations: %w", err)
	}
	return all, nil
}
