package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"
)

// EffectFilter selects effects that have no outcome.
type EffectFilter struct {
	// Scope selects those of one scope. Optional.
	Scope string
	// Status selects those of one status. Default: all but EffectDone and EffectRefused.
	Status EffectStatus
	// AfterScope and AfterKey are the last of the list before. Optional.
	AfterScope, AfterKey string
}

// ListEffects lists up to limit effects that have no outcome, without contents, by scope
// and key as they are stored.
func (s *Store) ListEffects(ctx context.Context, f EffectFilter, limit int) ([]EffectRow, error) {
	where, args := []string{"status NOT IN ('done', 'refused')"}, []any{}
	and := func(condition string, values ...any) { where, args = append(where, condition), append(args, values...) }
	if f.Status != "" {
		and("status = ?", string(f.Status))
	}
	if f.Scope != "" {
		and("scope = ?", storedIdentity(f.Scope))
	}
	if f.AfterScope != "" {
		scope := storedIdentity(f.AfterScope)
		and("(scope > ? OR scope = ? AND effect_key > ?)", scope, scope, storedIdentity(f.AfterKey))
	}
	query := "SELECT scope, effect_key, " + s.effectColumns() + " FROM " + s.names.effects +
		" WHERE " + strings.Join(where, " AND ") + " ORDER BY scope, effect_key LIMIT ?"
	var read []struct {
		effectRow

		Scope string `db:"scope"`
		Key   string `db:"effect_key"`
	}
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &read, s.dialect.rebind(query), append(args, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: list effects: %w", err)
	}
	rows := make([]EffectRow, len(read))
	for i, r := range read {
		if rows[i], err = r.of(r.Scope, r.Key); err != nil {
			return nil, err
		}
	}
	return rows, nil
}
