package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testSchema(t *testing.T, h Harness) {
	each(t, h, []test{
		{"Missing", schemaMissing},
		{"Older", schemaOlder},
		{"NewerServesOlderPrograms", schemaNewer},
		{"TwoPrefixesSideBySide", schemaPrefixes},
		{"OfItsOwn", schemaOwn},
		{"OddNamesAreRefused", schemaNames},
		{"LostWhileRunning", schemaLost},
	})
}

// check opens a store that neither migrates nor may leave anything behind.
func (b *bundle) check(t *testing.T) error {
	t.Helper()
	st, err := b.h.Store(t.Context(), b.db, store.Config{Dialect: b.h.Dialect})
	if err == nil {
		require.NoError(t, st.Close())
	}
	require.Zero(t, b.inUse())
	return err
}

func schemaMissing(t *testing.T, b *bundle) {
	err := b.check(t)
	require.ErrorIs(t, err, store.ErrSchemaMissing)
	require.ErrorContains(t, err, "headrace migrate up")
}

func schemaOlder(t *testing.T, b *bundle) {
	require.NoError(t, b.migrator(t, store.Config{}).Up(t.Context()))
	b.exec(t, "DELETE FROM headrace_migrations WHERE version_id = ?", store.SchemaVersion)
	err := b.check(t)
	require.ErrorIs(t, err, store.ErrSchemaMissing)
	require.ErrorContains(t, err, fmt.Sprintf("this program needs %d", store.SchemaVersion))
}

// schemaNewer is a rolling deploy: the newer program has migrated, this one is
// the older.
func schemaNewer(t *testing.T, b *bundle) {
	require.NoError(t, b.migrator(t, store.Config{}).Up(t.Context()))
	b.exec(t, "INSERT INTO headrace_migrations (version_id, is_applied) VALUES (?, ?)", store.SchemaVersion+1, true)
	require.NoError(t, b.check(t), "the schema still serves this program")
	st := b.store(t, store.Config{}) // with Migrate
	_, inserted := record(t, st, inbox("c", "m"))
	require.True(t, inserted)

	b.exec(t, "UPDATE headrace_meta SET value = ? WHERE name = 'min_program'", fmt.Sprint(store.SchemaVersion+1))
	err := b.check(t)
	require.ErrorIs(t, err, store.ErrSchemaTooNew)
	require.ErrorContains(t, err, "upgrade the program")
	_, err = store.Open(t.Context(), b.db, store.Config{Dialect: b.h.Dialect, Migrate: true})
	require.ErrorIs(t, err, store.ErrSchemaTooNew)
}

func schemaPrefixes(t *testing.T, b *bundle) {
	one := b.store(t, store.Config{Prefix: "one_"})
	two := b.storeOn(t, b.db, store.Config{Prefix: "two_"})
	for _, st := range []*store.Store{one, two} {
		_, inserted := record(t, st, inbox("c", "m"))
		require.True(t, inserted)
		write(t, st, store.OutboxRow{MessageID: "1"})
	}
	down := b.migrator(t, store.Config{Prefix: "one_"})
	for range b.migrations(t) {
		require.NoError(t, down.Down(t.Context()))
	}
	require.Len(t, readAll(t, two), 1)
	require.ErrorIs(t, one.CheckSchema(t.Context()), store.ErrSchemaMissing)
	require.NoError(t, two.CheckSchema(t.Context()))
}

// schemaOwn keeps the tables apart from the connection's own schema.
func schemaOwn(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite {
		_, err := store.NewMigrator(b.db, store.Config{Dialect: store.SQLite, Schema: "other"})
		require.ErrorContains(t, err, "SQLite has no schemas")
		return
	}
	name := strings.TrimSuffix(prefix(), "_")
	t.Cleanup(func() {
		cascade := map[store.Dialect]string{store.Postgres: " CASCADE"}[b.h.Dialect]
		_, err := b.db.ExecContext(context.Background(), "DROP SCHEMA IF EXISTS "+name+cascade)
		require.NoError(t, err)
	})
	st := b.store(t, store.Config{Schema: name})
	_, inserted := record(t, st, inbox("c", "m"))
	require.True(t, inserted)
	require.Equal(t, 1, b.int(t, "SELECT count(*) FROM "+name+".headrace_inbox"))
	write(t, st, store.OutboxRow{MessageID: "1"})
	row := readAll(t, st)[0]
	lease, ok := acquire(t, st, "outbox/0", "me", 0)
	require.True(t, ok)
	n, err := st.ConfirmOutbox(t.Context(), lease, shard(row.Partition), []int64{row.ID})
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.ErrorIs(t, b.check(t), store.ErrSchemaMissing, "the connection's own schema has none")
	list, err := st.Migrator().Status(t.Context())
	require.NoError(t, err)
	require.True(t, list[0].Applied)

	second := b.storeOn(t, b.open(t), store.Config{Schema: name})
	_, inserted = record(t, second, inbox("c", "m"))
	require.False(t, inserted)

	script, err := store.PrintMigrations(store.Config{Dialect: b.h.Dialect, Schema: "apart"}, false)
	require.NoError(t, err)
	require.Contains(t, script, "CREATE SCHEMA IF NOT EXISTS")
	for _, table := range []string{"inbox", "outbox", "leases", "meta", "verdict_log", "migrations"} {
		require.Regexp(t, "CREATE TABLE (IF NOT EXISTS )?[`\"]?apart[`\"]?\\.[`\"]?headrace_"+table, script)
	}
}

func schemaNames(t *testing.T, b *bundle) {
	for _, cfg := range []store.Config{
		{Prefix: "a-b_"},
		{Prefix: `x"; DROP TABLE users; --`},
		{Prefix: "1_"},
		{Prefix: "Upper_"},
		{Prefix: strings.Repeat("x", 31)},
		{Schema: "a b"},
		{Schema: "a.b"},
	} {
		cfg.Dialect = b.h.Dialect
		_, err := store.Open(t.Context(), b.db, cfg)
		require.Error(t, err)
		_, err = store.PrintMigrations(cfg, false)
		require.Error(t, err)
	}
}

func schemaLost(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	b.exec(t, "DROP TABLE headrace_inbox")
	err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, _, err := st.InsertInbox(ctx, inbox("c", "m"))
		return err
	})
	require.ErrorIs(t, err, store.ErrSchemaMissing)
	require.ErrorContains(t, err, "headrace migrate up")
}
