package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// Consumers lists every consumer that the inbox, the verdict log or the positions know, in the
// form in which names are stored (Identity), sorted. It jumps from name to name,
// so that it costs a look-up for each and doesn't read the tables.
func (s *Store) Consumers(ctx context.Context) ([]string, error) {
	var all []string
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		all = nil
		for _, table := range []string{s.names.inbox, s.names.verdictLog, s.names.positions} {
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

// ConsumerInfo is what is known of a consumer without counting.
type ConsumerInfo struct {
	// Name is in the form in which it is stored; for one that is only present, and
	// whose name is long, that of its leases.
	Name string
	// Processes is how many handle its messages now, by their own word
	// (middleware.Presence).
	Processes int
	// Since is when the oldest message was decided that it remembers, Last the
	// youngest. Zero when it remembers none.
	Since, Last time.Time
}

// CheckConsumer finds a name that was misspelt: the error matches ErrUnknownConsumer where
// neither the inbox nor the verdict log knows it, and nobody of that name runs.
func (s *Store) CheckConsumer(ctx context.Context, name string) error {
	infos, err := s.ConsumerInfos(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(infos, func(info ConsumerInfo) bool { return info.Name == storedIdentity(name) }) {
		return nil
	}
	return fmt.Errorf("store: %w %q", ErrUnknownConsumer, storedIdentity(name))
}

// ConsumerInfos lists the consumers that the inbox or the verdict log knows, or
// that are present, sorted by name. It takes some look-ups for each.
func (s *Store) ConsumerInfos(ctx context.Context) ([]ConsumerInfo, error) {
	names, err := s.Consumers(ctx)
	if err != nil {
		return nil, err
	}
	present, err := s.present(ctx)
	if err != nil {
		return nil, err
	}
	infos := make([]ConsumerInfo, 0, len(names))
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		for _, name := range names {
			info := ConsumerInfo{Name: name, Processes: present[leasedConsumer(name)]}
			delete(present, leasedConsumer(name))
			if info.Since, err = s.remembersSince(ctx, conn, name); err != nil {
				return err
			}
			if info.Last, err = s.lastDecided(ctx, conn, name); err != nil {
				return err
			}
			infos = append(infos, info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store: look at consumers: %w", err)
	}
	for escaped, processes := range present {
		name, err := url.PathUnescape(escaped)
		if err != nil {
			name = escaped
		}
		infos = append(infos, ConsumerInfo{Name: name, Processes: processes})
	}
	slices.SortFunc(infos, func(a, b ConsumerInfo) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func (s *Store) lastDecided(ctx context.Context, conn *sqlx.Conn, consumer string) (time.Time, error) {
	var us int64
	query := s.dialect.rebind("SELECT " + s.dialect.micros("processed_at") + " FROM " + s.names.inbox +
		" WHERE consumer = ? ORDER BY processed_at DESC LIMIT 1")
	err := conn.GetContext(ctx, &us, query, consumer)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	return timeFromMicros(us), err
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
