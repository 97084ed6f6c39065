package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// ParkedCount says what of one consumer is kept and not over. What is parked in the
// outbox isn't in it (CountOutbox).
type ParkedCount struct {
	Consumer string `db:"consumer"`
	// Parked wait for a person, Review for a decision; Delayed and Released for their
	// next try, Gap for what is missing before them, and Waiting for their turn behind others of their key.
	Parked   int64 `db:"n_parked"`
	Review   int64 `db:"n_review"`
	Delayed  int64 `db:"n_delayed"`
	Gap      int64 `db:"n_gap"`
	Released int64 `db:"n_released"`
	Waiting  int64 `db:"n_waiting"`
	// OldestAge is since when the oldest of them is kept, by the database's clock.
	OldestAge    time.Duration `db:"-"`
	OldestMicros int64         `db:"oldest_us"`
}

// Open is how many they are.
func (c ParkedCount) Open() int64 {
	return c.Parked + c.Review + c.Delayed + c.Gap + c.Released + c.Waiting
}

// CountParked counts what is kept for consumers and not over, by their names. It reads
// all of it.
func (s *Store) CountParked(ctx context.Context) ([]ParkedCount, error) {
	columns := []string{"SELECT consumer"}
	for _, status := range []ParkedStatus{StatusParked, StatusReview, StatusDelayed, StatusGap, StatusReleased, StatusWaiting} {
		name := string(status)
		columns = append(columns, "coalesce(sum(CASE WHEN status = '"+name+"' THEN 1 ELSE 0 END), 0) AS n_"+name)
	}
	columns = append(columns, s.dialect.micros(s.dialect.now())+" - "+s.dialect.micros("min(parked_at)")+" AS oldest_us")
	query := strings.Join(columns, ", ") + " FROM " + s.names.parked + " WHERE status IN " + openStatuses +
		" AND origin <> 'outbox' GROUP BY consumer ORDER BY consumer"
	var counts []ParkedCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error { return conn.SelectContext(ctx, &counts, query) })
	if err != nil {
		return nil, fmt.Errorf("store: count parked messages: %w", err)
	}
	for i := range counts {
		counts[i].OldestAge = time.Duration(counts[i].OldestMicros) * time.Microsecond
	}
	return counts, nil
}

// EffectCount says how many calls of one scope are not over.
type EffectCount struct {
	Scope string `db:"scope"`
	// Unknown wait for a person who finds out what happened; Begun were begun, and have
	// no outcome yet.
	Unknown int64 `db:"n_unknown"`
	Begun   int64 `db:"n_begun"`
}

// CountOpenEffects counts the effects that have no outcome, by their scopes. It reads
// the whole table.
func (s *Store) CountOpenEffects(ctx context.Context) ([]EffectCount, error) {
	var counts []EffectCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, "SELECT scope, "+
			"sum(CASE WHEN status = 'unknown' THEN 1 ELSE 0 END) AS n_unknown, "+
			"sum(CASE WHEN status = 'unknown' THEN 0 ELSE 1 END) AS n_begun FROM "+s.names.effects+
			" WHERE status NOT IN ('done', 'refused') GROUP BY scope ORDER BY scope")
	})
	if err != nil {
		return nil, fmt.Errorf("store: count effects: %w", err)
	}
	return counts, nil
}

// CountParked is the store's, of a schema that this program may not use as it is.
func (i *Inspector) CountParked(ctx context.Context) ([]ParkedCount, error) {
	return i.store.CountParked(ctx)
}

// CountOpenEffects is the store's, of a schema that this program may not use as it is.
func (i *Inspector) CountOpenEffects(ctx context.Context) ([]EffectCount, error) {
	return i.store.CountOpenEffects(ctx)
}
