package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// Entity is what a state, a user's action or a claim is about. Both parts are stored as
// Identity says.
type Entity struct{ Type, ID string }

// String returns type and id as "type/id".
func (e Entity) String() string { return e.Type + "/" + e.ID }

func (e Entity) identity() Entity { return Entity{Identity(e.Type), Identity(e.ID)} }

// stored is identity for an entity that people name, or that was read.
func (e Entity) stored() Entity { return Entity{storedIdentity(e.Type), storedIdentity(e.ID)} }

func (e Entity) compare(other Entity) int {
	return cmp.Or(strings.Compare(e.Type, other.Type), strings.Compare(e.ID, other.ID))
}

// maxEntities bounds the entities of one statement, and so its parameters.
const maxEntities = 200

// LockEntities locks the anchors of entities until the unit of work ends, and makes those
// that there are none of. All lock in one order, so that two messages about the same
// entities don't wait for each other. What belongs to an entity is read behind this lock,
// in a statement of its own: a statement sees what was committed when it began, which may
// be before it was let through.
func (s *Store) LockEntities(ctx context.Context, tx Tx, entities ...Entity) error {
	for chunk := range slices.Chunk(identities(entities), maxEntities) {
		missing, err := s.lockAnchors(ctx, tx, chunk)
		if err == nil && len(missing) > 0 {
			if err = s.makeAnchors(ctx, tx, missing); err == nil {
				missing, err = s.lockAnchors(ctx, tx, missing)
			}
		}
		if err == nil && len(missing) > 0 {
			err = fmt.Errorf("the anchor of %s comes and goes", missing[0])
		}
		if err != nil {
			return fmt.Errorf("store: lock entities: %w", err)
		}
	}
	return nil
}

// identities are entities as they are stored, each once, in the order in which they are
// locked: the databases sort them as Go does.
func identities(entities []Entity) []Entity {
	sorted := make([]Entity, len(entities))
	for i, e := range entities {
		sorted[i] = e.identity()
	}
	slices.SortFunc(sorted, Entity.compare)
	return slices.Compact(sorted)
}

// lockAnchors returns those that there is nothing to lock of.
func (s *Store) lockAnchors(ctx context.Context, tx Tx, entities []Entity) (missing []Entity, err error) {
	var found []struct {
		Type string `db:"entity_type"`
		ID   string `db:"entity_id"`
	}
	where, args := whereEntities(entities)
	err = tx.SelectContext(ctx, &found, "SELECT entity_type, entity_id FROM "+s.names.anchors+" WHERE "+where+
		" ORDER BY entity_type, entity_id"+s.dialect.forUpdate(), args...)
	if err != nil {
		return nil, err
	}
	locked := make(map[Entity]bool, len(found))
	for _, row := range found {
		locked[Entity{row.Type, row.ID}] = true
	}
	for _, e := range entities {
		if !locked[e] {
			missing = append(missing, e)
		}
	}
	return missing, nil
}

// makeAnchors waits for whoever else is making them.
func (s *Store) makeAnchors(ctx context.Context, tx Tx, entities []Entity) error {
	query := "INSERT INTO " + s.names.anchors + " (entity_type, entity_id) VALUES (?, ?)"
	if s.dialect != MySQL {
		query += " ON CONFLICT (entity_type, entity_id) DO NOTHING"
	}
	for _, e := range entities {
		_, err := tx.ExecContext(ctx, query, e.Type, e.ID)
		if err != nil && (s.dialect != MySQL || !s.dialect.duplicateKey(err)) {
			return err
		}
	}
	return nil
}

// whereEntities is spelled out: not every optimizer looks up a list of rows by an index.
func whereEntities(entities []Entity) (where string, args []any) {
	const one = "(entity_type = ? AND entity_id = ?)"
	parts := make([]string, len(entities))
	for i, e := range entities {
		parts[i], args = one, append(args, e.Type, e.ID)
	}
	return "(" + strings.Join(parts, " OR ") + ")", args
}
