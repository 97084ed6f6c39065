package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// EntityVersion is the newest state that a consumer has taken of an entity, or of a group
// of its fields.
type EntityVersion struct {
	// Consumer whose it is, set where it was read.
	Consumer string
	// Entity is in the form in which it is stored where it was read.
	Entity Entity
	// Group of fields; "" is the group of all. Stored as Identity says.
	Group string
	// Version is in the notation of whoever compares it, of 255 bytes at most.
	Version string
	// Deleted says that the state was that there is no such entity any more.
	Deleted bool
	// UpdatedAt is set by the database.
	UpdatedAt time.Time
}

// ErrVersion says that a version can't be stored.
var ErrVersion = fmt.Errorf("a version is text of 1 to %d bytes", MaxIdentity)

type versionRow struct {
	Consumer string `db:"consumer"`
	Type     string `db:"entity_type"`
	ID       string `db:"entity_id"`
	Group    string `db:"field_group"`
	Version  string `db:"version"`
	Deleted  bool   `db:"deleted"`
	Updated  int64  `db:"updated_us"`
}

func (s *Store) versionQuery() string {
	return "SELECT consumer, entity_type, entity_id, field_group, version, deleted, " + s.dialect.micros("updated_at") +
		" AS updated_us FROM " + s.names.versions + " WHERE "
}

const (
	ofConsumer   = "consumer = ? AND "
	versionOrder = " ORDER BY consumer, entity_type, entity_id, field_group"
)

// Versions returns what a consumer has of entities, of each in the order of its groups.
// Their anchors must be locked by the unit of work: then nobody changes it before that
// ends.
func (s *Store) Versions(ctx context.Context, tx Tx, consumer string, entities ...Entity) (all []EntityVersion, err error) {
	for chunk := range slices.Chunk(identities(entities), maxEntities) {
		where, args := whereEntities(chunk)
		var rows []versionRow
		err := tx.SelectContext(ctx, &rows, s.versionQuery()+ofConsumer+where+versionOrder+s.dialect.current(),
			append([]any{Identity(consumer)}, args...)...)
		if err != nil {
			return nil, fmt.Errorf("store: read versions: %w", err)
		}
		all = append(all, versionsOf(rows)...)
	}
	return all, nil
}

// VersionsOf returns what a consumer has of an entity, or for "" what each has. Both may be
// given as they are stored.
func (s *Store) VersionsOf(ctx context.Context, consumer string, entity Entity) ([]EntityVersion, error) {
	var rows []versionRow
	where, args := whereEntities([]Entity{entity.stored()})
	if consumer != "" {
		where, args = ofConsumer+where, append([]any{storedIdentity(consumer)}, args...)
	}
	query := s.dialect.rebind(s.versionQuery() + where + versionOrder)
	err := s.read(ctx, func(q sqlx.QueryerContext) error { return sqlx.SelectContext(ctx, q, &rows, query, args...) })
	if err != nil {
		return nil, fmt.Errorf("store: read versions: %w", err)
	}
	return versionsOf(rows), nil
}

func versionsOf(rows []versionRow) []EntityVersion {
	all := make([]EntityVersion, len(rows))
	for i, row := range rows {
		all[i] = EntityVersion{
			Consumer: row.Consumer, Entity: Entity{row.Type, row.ID}, Group: row.Group, Version: row.Version,
			Deleted: row.Deleted, UpdatedAt: timeFromMicros(row.Updated),
		}
	}
	return all
}

// PutVersions writes what a consumer has taken, over what it had. The entities' anchors
// must be locked. Errors match ErrVersion.
func (s *Store) PutVersions(ctx context.Context, tx Tx, consumer string, rows ...EntityVersion) error {
	for chunk := range slices.Chunk(rows, maxEntities) {
		var args []any
		for _, row := range chunk {
			if row.Version == "" || Identity(row.Version) != row.Version {
				return fmt.Errorf("store: version of %s: %w", row.Entity.identity(), ErrVersion)
			}
			entity := row.Entity.identity()
			args = append(args, Identity(consumer), entity.Type, entity.ID, Identity(row.Group), row.Version, row.Deleted)
		}
		values := strings.Repeat(", (?, ?, ?, ?, ?, ?, "+s.dialect.now()+")", len(chunk))[2:]
		query := "INSERT INTO " + s.names.versions +
			" (consumer, entity_type, entity_id, field_group, version, deleted, updated_at) VALUES " + values
		if s.dialect == MySQL {
			query += " ON DUPLICATE KEY UPDATE version = VALUES(version), deleted = VALUES(deleted), " +
				"updated_at = VALUES(updated_at)"
		} else {
			query += " ON CONFLICT (consumer, entity_type, entity_id, field_group) DO UPDATE SET version = EXCLUDED.version, " +
				"deleted = EXCLUDED.deleted, updated_at = EXCLUDED.updated_at"
		}
		if _, err := tx.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("store: write versions: %w", err)
		}
	}
	return nil
}

// renameVersions moves what a consumer has of entities. What the new name has of one was
// taken by a process that nobody saw: it is newer.
func (s *Store) renameVersions(ctx context.Context, tx Tx, from, to string, limit int) (int64, error) {
	var rows []versionRow
	err := tx.SelectContext(ctx, &rows, s.versionQuery()+"consumer = ?"+versionOrder+" LIMIT ?", from, limit)
	if err != nil || len(rows) == 0 {
		return 0, err
	}
	for _, row := range rows {
		if err := s.renameVersion(ctx, tx, from, to, row); err != nil {
			return 0, err
		}
	}
	return int64(len(rows)), nil
}

func (s *Store) renameVersion(ctx context.Context, tx Tx, from, to string, row versionRow) error {
	where := " WHERE consumer = ? AND entity_type = ? AND entity_id = ? AND field_group = ?"
	var taken int
	err := tx.GetContext(ctx, &taken, "SELECT count(*) FROM "+s.names.versions+where, to, row.Type, row.ID, row.Group)
	switch {
	case err != nil:
		return err
	case taken > 0:
		_, err = tx.ExecContext(ctx, "DELETE FROM "+s.names.versions+where, from, row.Type, row.ID, row.Group)
	default:
		_, err = tx.ExecContext(ctx, "UPDATE "+s.names.versions+" SET consumer = ?"+where, to, from, row.Type, row.ID, row.Group)
	}
	return err
}
