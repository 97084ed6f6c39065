package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/jmoiron/sqlx"
)

// Consumers lists every consumer that the inbox or the verdict log knows, in the
// form in which names are stored (Identity), sorted. It jumps from name to name,
// so that it costs a look-up for each and doesn't read the tables.
func (s *Store) Consumers(ctx context.Context) ([]string, error) {
	var all []string
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		all = nil
		for _, table := range []string{s.names.inbox, s.names.verdictLog} {
			found, err := s.distinctConsumers(ctx, conn, table)
			if err != nil {
				return err
			}
			all = append(all, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: list consumers: %w", err)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// distinctConsumers is a loose index scan, which none of the databases makes of
// SELECT DISTINCT on its own.
func (s *Store) distinctConsumers(ctx context.Context, conn *sqlx.Conn, table string) ([]string, error) {
	first, next := looseScanSQL(s.dialect, table)
	var found []string
	var name string
	err := conn.GetContext(ctx, &name, first)
	for err == nil {
		found = append(found, name)
		err = conn.GetContext(ctx, &name, next, name)
	}
	if errors.Is(err, sql.ErrNoRows) {
		return found, nil
	}
	return nil, err
}

func looseScanSQL(d Dialect, table string) (first, next string) {
	query := "SELECT consumer FROM " + table
	const order = " ORDER BY consumer LIMIT 1"
	return query + order, d.rebind(query + " WHERE consumer > ?" + order)
}

// storedIdentity is Identity for what people type: they also copy the stored form
// from a listing, and a hash that were hashed again would be found nowhere.
func storedIdentity(s string) string {
	const hexDigits = 64
	if rest, ok := cutHashed(s); ok && len(rest) == hexDigits {
		return s
	}
	return Identity(s)
}
