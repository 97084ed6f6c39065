package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
)

//go:embed migrations
var migrationFiles embed.FS

// SchemaVersion is the newest migration that this program knows.
const SchemaVersion = 6

// Migrator brings the schema up and down. Processes that migrate at the same
// time wait for each other; it is safe for concurrent use.
type Migrator struct{ store *Store }

// MigrationStatus is one migration's state.
type MigrationStatus struct {
	Version int64     `json:"version"`
	Name    string    `json:"name"`
	Applied bool      `json:"applied"`
	At      time.Time `json:"at,omitzero"`
}

// NewMigrator returns a migrator for a database whose schema may be missing, so
// that Open can't be used yet. Only Dialect, Schema and Prefix of cfg matter.
func NewMigrator(db *sql.DB, cfg Config) (*Migrator, error) {
	s, err := newStore(db, cfg)
	if err != nil {
		return nil, err
	}
	return s.Migrator(), nil
}

// Migrator returns the store's migrator.
func (s *Store) Migrator() *Migrator { return &Migrator{s} }

// Up applies every migration that is missing. Config.Schema is created where it
// doesn't exist.
func (m *Migrator) Up(ctx context.Context) error {
	if err := m.createSchema(ctx); err != nil {
		return err
	}
	return m.run(ctx, "up", func(_ *sql.DB, p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

func (m *Migrator) createSchema(ctx context.Context) error {
	s := m.store
	if s.cfg.Schema == "" {
		return nil
	}
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		// Asked first, because creating needs a privilege even when there is
		// nothing to create.
		var n int
		query := s.dialect.rebind("SELECT count(*) FROM information_schema.schemata WHERE schema_name = ?")
		if err := conn.GetContext(ctx, &n, query, s.cfg.Schema); err != nil || n > 0 {
			return err
		}
		_, err := conn.ExecContext(ctx, createSchemaSQL(s.dialect, s.cfg.Schema))
		if s.dialect.duplicateKey(err) { // Postgres' IF NOT EXISTS loses races
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("store: create schema %s: %w", s.cfg.Schema, err)
	}
	return nil
}

func createSchemaSQL(d Dialect, schema string) string {
	return "CREATE SCHEMA IF NOT EXISTS " + d.quote(schema)
}

// Down takes back the newest migration. What its tables hold is lost. After the
// first one nothing is left, the table that says what was applied not either.
func (m *Migrator) Down(ctx context.Context) error {
	return m.run(ctx, "down", func(db *sql.DB, p *goose.Provider) error {
		if _, err := p.Down(ctx); err != nil {
			return err
		}
		version, err := p.GetDBVersion(ctx)
		if err != nil || version > 0 {
			return err
		}
		_, err = db.ExecContext(ctx, "DROP TABLE "+m.store.names.migrations)
		return err
	})
}

// Status lists all migrations, oldest first, and changes nothing.
func (m *Migrator) Status(ctx context.Context) ([]MigrationStatus, error) {
	schema, err := m.store.readSchema(ctx)
	return schema.Migrations, err
}

func (m *Migrator) run(ctx context.Context, what string, f func(*sql.DB, *goose.Provider) error) error {
	err := m.store.locked(ctx, func(db *sql.DB) error {
		provider, err := m.provider(db)
		if err != nil {
			return err
		}
		return f(db, provider)
	})
	if err != nil {
		return fmt.Errorf("store: migrate %s: %w", what, err)
	}
	return nil
}

func (m *Migrator) provider(db *sql.DB) (*goose.Provider, error) {
	s := m.store
	files, err := renderMigrations(s.dialect, s.names, s.cfg.Prefix)
	if err != nil {
		return nil, err
	}
	versions, err := newVersionStore(s.dialect, s.names)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithStore(versions), goose.WithDisableGlobalRegistry(true))
}

func newVersionStore(d Dialect, tables names) (database.Store, error) {
	return database.NewStore(map[Dialect]database.Dialect{
		Postgres: database.DialectPostgres, MySQL: database.DialectMySQL, SQLite: database.DialectSQLite3,
	}[d], tables.migrations)
}

// CheckSchema returns nil when this program may use the schema as it is, and
// otherwise an error that matches ErrSchemaMissing or ErrSchemaTooNew.
func (s *Store) CheckSchema(ctx context.Context) error {
	version, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	if version < SchemaVersion {
		return fmt.Errorf("%w: it is at version %d, this program needs %d: %s",
			ErrSchemaMissing, version, SchemaVersion, wayToMigrate)
	}
	if version == SchemaVersion {
		return nil
	}
	var value string
	query := s.dialect.rebind("SELECT value FROM " + s.names.meta + " WHERE name = ?")
	if err := s.db.GetContext(ctx, &value, query, "min_program"); err != nil {
		return fmt.Errorf("store: read the schema's oldest program: %w", err)
	}
	oldest, err := strconv.Atoi(value)
	if err != nil || oldest > SchemaVersion {
		return fmt.Errorf("%w: it is at version %d and serves programs that know version %s, this one knows %d: "+
			"upgrade the program", ErrSchemaTooNew, version, value, SchemaVersion)
	}
	return nil
}

func (s *Store) schemaVersion(ctx context.Context) (int64, error) {
	var version sql.NullInt64
	err := s.db.GetContext(ctx, &version, "SELECT max(version_id) FROM "+s.names.migrations)
	switch {
	case err == nil:
		return version.Int64, nil
	case s.dialect.missingTable(err):
		return 0, fmt.Errorf("%w: there is no table %s: %s", ErrSchemaMissing, s.names.migrations, wayToMigrate)
	}
	return 0, fmt.Errorf("store: read the schema's version: %w", err)
}

// renderMigrations fills the tables' names into the embedded files.
func renderMigrations(d Dialect, tables names, prefix string) (fs.FS, error) {
	dir, err := fs.Sub(migrationFiles, "migrations/"+string(d))
	if err != nil {
		return nil, err
	}
	return renderedFS{dir, map[string]string{
		"Prefix": prefix, "Now": d.now(),
		"Meta": tables.meta, "Inbox": tables.inbox, "VerdictLog": tables.verdictLog,
		"Outbox": tables.outbox, "Scheduled": tables.scheduled, "Effects": tables.effects, "Leases": tables.leases,
		"Audit": tables.audit, "Gates": tables.gates, "Parked": tables.parked,
		"Anchors": tables.anchors, "Versions": tables.versions,
		"Sequences": tables.sequences, "Positions": tables.positions,
	}}, nil
}

// renderedFS is a file system whose files are templates.
type renderedFS struct {
	fs.FS

	values map[string]string
}

func (r renderedFS) Open(name string) (fs.File, error) {
	file, err := r.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return file, err
	}
	raw, err := io.ReadAll(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	tmpl, err := template.New(name).Parse(string(raw))
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, r.values); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return renderedFile{file, bytes.NewReader(out.Bytes())}, nil
}

// ReadDir is needed because embedding fs.FS hides the directory's own.
func (r renderedFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(r.FS, name) }

type renderedFile struct {
	fs.File

	content *bytes.Reader
}

func (f renderedFile) Read(p []byte) (int, error) { return f.content.Read(p) }
