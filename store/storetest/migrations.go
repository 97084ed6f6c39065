package storetest

import (
	"fmt"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testMigrations(t *testing.T, h Harness) {
	each(t, h, []test{
		{"UpDownUp", migrateUpDownUp},
		{"PrintedSQLIsTheSame", migratePrinted},
		{"SeveralAtOnce", migrateConcurrently},
		{"SayWhatWasApplied", migrateStatus},
	})
}

func (b *bundle) migrator(t *testing.T, cfg store.Config) *store.Migrator {
	t.Helper()
	cfg.Dialect = b.h.Dialect
	m, err := store.NewMigrator(b.db, cfg)
	require.NoError(t, err)
	return m
}

// columns describes every table and index of the database, one line each.
func (b *bundle) columns(t *testing.T) []string {
	t.Helper()
	query := map[store.Dialect]string{
		store.Postgres: `SELECT concat_ws(' ', table_name, column_name, data_type, collation_name, column_default, is_nullable)
			FROM information_schema.columns WHERE table_schema = current_schema()
			UNION ALL SELECT replace(indexdef, current_schema() || '.', '') FROM pg_indexes WHERE schemaname = current_schema()`,
		store.MySQL: `SELECT concat_ws(' ', table_name, column_name, column_type, collation_name, column_default,
				is_nullable, extra)
			FROM information_schema.columns WHERE table_schema = database()
			UNION ALL SELECT concat_ws(' ', table_name, index_name, seq_in_index, column_name)
			FROM information_schema.statistics WHERE table_schema = database()`,
		store.SQLite: `SELECT coalesce(sql, name) FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'`,
	}[b.h.Dialect]
	rows, err := b.db.QueryContext(t.Context(), query)
	require.NoError(t, err)
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	require.NoError(t, rows.Err())
	sort.Strings(lines)
	return lines
}

// migrations is how many this program knows; their numbers may have gaps.
func (b *bundle) migrations(t *testing.T) int {
	t.Helper()
	list, err := b.migrator(t, store.Config{}).Status(t.Context())
	require.NoError(t, err)
	return len(list)
}

func migrateUpDownUp(t *testing.T, b *bundle) {
	m := b.migrator(t, store.Config{})
	require.NoError(t, m.Up(t.Context()))
	up := b.columns(t)
	require.Greater(t, len(up), 5)
	require.NoError(t, m.Up(t.Context()), "nothing left to do")
	for range b.migrations(t) {
		require.NoError(t, m.Down(t.Context()))
	}
	require.Empty(t, b.columns(t), "nothing is left")
	require.NoError(t, m.Up(t.Context()))
	require.Equal(t, up, b.columns(t))
	st := b.store(t, store.Config{})
	_, inserted := record(t, st, inbox("c", "m"))
	require.True(t, inserted)
}

func migratePrinted(t *testing.T, b *bundle) {
	require.NoError(t, b.migrator(t, store.Config{}).Up(t.Context()))
	open := b.h.Fresh(t)
	byHand := &bundle{h: b.h, open: open, db: open(t)}
	cfg := store.Config{Dialect: b.h.Dialect}
	apply := func(down bool) {
		script, err := store.PrintMigrations(cfg, down)
		require.NoError(t, err)
		require.NotContains(t, script, "goose")
		require.NotContains(t, script, "{{")
		for statement := range strings.SplitSeq(script, ";\n") {
			var lines []string
			for line := range strings.SplitSeq(statement, "\n") {
				if !strings.HasPrefix(line, "--") {
					lines = append(lines, line)
				}
			}
			if statement = strings.TrimSpace(strings.Join(lines, "\n")); statement != "" {
				byHand.exec(t, statement)
			}
		}
	}
	apply(false)
	require.Equal(t, b.columns(t), byHand.columns(t))
	require.NoError(t, byHand.migrator(t, store.Config{}).Up(t.Context()), "which finds nothing to do")
	require.Equal(t, b.columns(t), byHand.columns(t))
	st, err := store.Open(t.Context(), byHand.db, cfg)
	require.NoError(t, err)
	require.NoError(t, st.Close())
	apply(true)
	require.Empty(t, byHand.columns(t))
}

func migrateConcurrently(t *testing.T, b *bundle) {
	const processes = 4
	var all sync.WaitGroup
	errs := make(chan error, processes)
	for range processes {
		db := b.open(t)
		all.Go(func() {
			st, err := store.Open(t.Context(), db, store.Config{Dialect: b.h.Dialect, Migrate: true})
			if err == nil {
				err = st.Close()
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, b.migrations(t), b.int(t, "SELECT count(*) FROM headrace_migrations WHERE version_id > 0"))
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM headrace_meta WHERE name NOT LIKE 'sequence_%'"))
}

func migrateStatus(t *testing.T, b *bundle) {
	m := b.migrator(t, store.Config{})
	list, err := m.Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, store.SchemaVersion, list[len(list)-1].Version)
	require.False(t, list[0].Applied)
	require.Empty(t, b.columns(t), "asking changes nothing")
	require.NoError(t, m.Up(t.Context()))
	list, err = m.Status(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 1, list[0].Version)
	for i, migration := range list {
		require.True(t, i == 0 || migration.Version > list[i-1].Version, "oldest first")
		require.True(t, migration.Applied)
		require.False(t, migration.At.IsZero())
		require.Contains(t, migration.Name, fmt.Sprintf("%05d_", migration.Version))
	}
}
