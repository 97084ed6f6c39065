package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pressly/goose/v3/database"
)

// PrintMigrations returns the schema's migrations as plain SQL, for teams whose
// database is changed by other tools, with the table that says which migrations
// were applied: afterwards the schema is as if it had been migrated. down prints the
// way back instead.
func PrintMigrations(cfg Config, down bool) (string, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Dialect.validate(); err != nil {
		return "", err
	}
	tables, err := newNames(cfg.Dialect, cfg.Schema, cfg.Prefix)
	if err != nil {
		return "", err
	}
	files, err := renderMigrations(cfg.Dialect, tables, cfg.Prefix)
	if err != nil {
		return "", err
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if cfg.Schema != "" && !down {
		fmt.Fprintf(&out, "%s;\n\n", createSchemaSQL(cfg.Dialect, cfg.Schema))
	}
	if !down {
		if err := printVersions(&out, cfg, tables, entries); err != nil {
			return "", err
		}
	}
	for i := range entries {
		entry := entries[i]
		if down {
			entry = entries[len(entries)-1-i]
		}
		content, err := fs.ReadFile(files, entry.Name())
		if err != nil {
			return "", err
		}
		up, back, _ := strings.Cut(string(content), "-- +goose Down\n")
		part := strings.TrimPrefix(up, "-- +goose Up\n")
		if down {
			part = back
		}
		fmt.Fprintf(&out, "-- %s\n%s\n", entry.Name(), strings.TrimSpace(part))
	}
	if down {
		fmt.Fprintf(&out, "DROP TABLE %s;\n", tables.migrations)
	}
	return out.String(), nil
}

// printVersions prints what goose would record.
func printVersions(out *strings.Builder, cfg Config, tables names, migrations []fs.DirEntry) error {
	versions, err := newVersionStore(cfg.Dialect, tables)
	if err != nil {
		return err
	}
	rec := &recorder{out: out}
	ctx := context.Background() // nothing is sent
	out.WriteString("-- which migrations were applied\n")
	if err := versions.CreateVersionTable(ctx, rec); err != nil {
		return err
	}
	applied := []int64{0} // goose's own beginning
	for _, migration := range migrations {
		version, err := migrationVersion(migration.Name())
		if err != nil {
			return err
		}
		applied = append(applied, version)
	}
	for _, version := range applied {
		if err := versions.Insert(ctx, rec, database.InsertRequest{Version: version}); err != nil {
			return err
		}
	}
	out.WriteString("\n")
	return nil
}

// recorder writes statements down instead of sending them.
type recorder struct{ out *strings.Builder }

func (r *recorder) ExecContext(_ context.Context, query string, args ...any) (sql.Result, error) {
	for i, arg := range args {
		// A dialect has either kind of placeholder; goose's have two at most.
		query = strings.Replace(query, fmt.Sprintf("$%d", i+1), fmt.Sprint(arg), 1)
		query = strings.Replace(query, "?", fmt.Sprint(arg), 1)
	}
	lines := strings.Split(query, "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if i > 0 && i < len(lines)-1 {
			line = "    " + line
		}
		lines[i] = line
	}
	r.out.WriteString(strings.Join(lines, "\n") + ";\n")
	return nil, nil //nolint:nilnil // goose doesn't look at it
}

func (*recorder) QueryContext(context.Context, string, ...any) (*sql.Rows, error) {
	return nil, sql.ErrNoRows
}

func (*recorder) QueryRowContext(context.Context, string, ...any) *sql.Row { return &sql.Row{} }
