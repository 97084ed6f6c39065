package store

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// Schema is the state of Headrace's schema, and what this program makes of it.
type Schema struct {
	// Version is the newest migration that was applied, 0 when there is none.
	Version int64 `json:"version"`
	// Known is the newest migration that this program knows: SchemaVersion.
	Known int64 `json:"known"`
	// MinProgram is the oldest program, by the newest migration that it knows,
	// which may use the schema; 0 when the schema is missing.
	MinProgram int64 `json:"min_program"`
	// Migrations lists those that this program knows, and newer ones that were
	// applied, oldest first.
	Migrations []MigrationStatus `json:"migrations"`
}

// Usable reports whether this program may use the schema.
func (s Schema) Usable() bool {
	return s.Version == s.Known || s.Version > s.Known && s.MinProgram <= s.Known
}

// Schema reads the state of the schema. A missing one is no error.
func (i *Inspector) Schema(ctx context.Context) (Schema, error) { return i.store.readSchema(ctx) }

// CountOutboxPartitions is the store's, of a schema that this program may not use
// as it is.
func (i *Inspector) CountOutboxPartitions(ctx context.Context) ([]PartitionCount, error) {
	return i.store.CountOutboxPartitions(ctx)
}

// CountScheduled is the store's, of a schema that this program may not use as it
// is.
func (i *Inspector) CountScheduled(ctx context.Context) ([]ScheduledCount, error) {
	return i.store.CountScheduled(ctx)
}

func (s *Store) readSchema(ctx context.Context) (Schema, error) {
	schema := Schema{Known: SchemaVersion}
	applied, err := s.appliedMigrations(ctx)
	if err != nil {
		return Schema{}, err
	}
	schema.Migrations, err = s.knownMigrations()
	if err != nil {
		return Schema{}, err
	}
	for _, a := range applied {
		schema.Version = max(schema.Version, a.Version)
		if a.Version > SchemaVersion {
			schema.Migrations = append(schema.Migrations, a)
		}
		for i := range schema.Migrations {
			if m := &schema.Migrations[i]; m.Version == a.Version {
				m.Applied, m.At = true, a.At
			}
		}
	}
	if schema.Version == 0 {
		return schema, nil
	}
	var oldest string
	query := s.dialect.rebind("SELECT value FROM " + s.names.meta + " WHERE name = ?")
	if err := s.db.GetContext(ctx, &oldest, query, "min_program"); err != nil {
		return Schema{}, fmt.Errorf("store: read the schema's oldest program: %w", err)
	}
	schema.MinProgram, err = strconv.ParseInt(oldest, 10, 64)
	if err != nil {
		return Schema{}, fmt.Errorf("store: the schema's oldest program, in table %s, is no number: %w", s.names.meta, err)
	}
	return schema, nil
}

// appliedMigrations reads goose's table as it is. Asking goose would create it.
func (s *Store) appliedMigrations(ctx context.Context) ([]MigrationStatus, error) {
	at := map[Dialect]string{
		// Its column has no time zone and was filled in the session's.
		Postgres: s.dialect.micros("max(tstamp)::timestamptz"),
		MySQL:    "CAST(UNIX_TIMESTAMP(max(tstamp)) * 1000000 AS SIGNED)",
		SQLite:   "CAST(strftime('%s', max(tstamp)) AS INTEGER) * 1000000",
	}[s.dialect]
	var rows []struct {
		Version int64 `db:"version_id"`
		At      int64 `db:"at_us"`
	}
	err := s.db.SelectContext(ctx, &rows, "SELECT version_id, "+at+" AS at_us FROM "+s.names.migrations+
		" WHERE version_id > 0 GROUP BY version_id ORDER BY version_id")
	if s.dialect.missingTable(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: read the schema's migrations: %w", err)
	}
	applied := make([]MigrationStatus, len(rows))
	for i, r := range rows {
		applied[i] = MigrationStatus{Version: r.Version, Name: "of a newer program", Applied: true, At: timeFromMicros(r.At)}
	}
	return applied, nil
}

func (s *Store) knownMigrations() ([]MigrationStatus, error) {
	files, err := fs.Glob(migrationFiles, "migrations/"+string(s.dialect)+"/*.sql")
	if err != nil {
		return nil, fmt.Errorf("store: list migrations: %w", err)
	}
	known := make([]MigrationStatus, len(files))
	for i, file := range files {
		name := file[strings.LastIndex(file, "/")+1:]
		version, err := migrationVersion(name)
		if err != nil {
			return nil, err
		}
		known[i] = MigrationStatus{Version: version, Name: name}
	}
	return known, nil
}

// migrationVersion is the number that a migration's file begins with.
func migrationVersion(file string) (int64, error) {
	number, _, _ := strings.Cut(file, "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("store: migration %s has no number: %w", file, err)
	}
	return version, nil
}
