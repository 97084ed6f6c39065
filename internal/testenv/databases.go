package testenv

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/dburl"
)

// adminTimeout bounds the creation and the removal of a schema. A removal that
// takes longer waits for a transaction that the test has left open.
const adminTimeout = 30 * time.Second

// Databases returns the kinds of database to run a test on: all three, or only
// the embedded one when the tests run with -short.
func Databases(t testing.TB) []string {
	t.Helper()

	if testing.Short() {
		return []string{"sqlite"}
	}

	return []string{"postgres", "mariadb", "sqlite"}
}

// Database returns the URL of a fresh, empty database of a kind that Databases
// names.
func Database(t testing.TB, kind string) string {
	t.Helper()

	switch kind {
	case "postgres":
		return Postgres(t)
	case "mariadb":
		return MariaDB(t)
	case "sqlite":
		return SQLite(t)
	default:
		t.Fatalf("testenv: unknown kind of database %q", kind)

		return ""
	}
}

// Postgres returns the URL of a fresh schema: its search_path names nothing but
// that schema. The schema is dropped at the end of the test.
func Postgres(t testing.TB) string {
	t.Helper()

	server := serviceURL(t, envPostgres)
	schema := uniqueName("t", maxTopicLength)
	administer(t, server.String(), "CREATE SCHEMA "+schema)
	t.Cleanup(func() { administer(t, server.String(), "DROP SCHEMA "+schema+" CASCADE") })

	fresh := *server
	query := fresh.Query()
	query.Set("search_path", schema)
	fresh.RawQuery = query.Encode()

	return fresh.String()
}

// MariaDB returns the mysql:// URL of a fresh database with the server's default
// collation. It is dropped at the end of the test.
func MariaDB(t testing.TB) string {
	t.Helper()

	server := serviceURL(t, envMariaDB)
	database := uniqueName("t", maxTopicLength)
	administer(t, server.String(), "CREATE DATABASE "+database)
	t.Cleanup(func() { administer(t, server.String(), "DROP DATABASE "+database) })

	fresh := *server
	fresh.Path = "/" + database

	return fresh.String()
}

// SQLite returns the sqlite: URL of a database file that doesn't exist yet, in a
// directory that is removed at the end of the test.
func SQLite(t testing.TB) string {
	t.Helper()

	return "sqlite:" + filepath.Join(t.TempDir(), "test.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)"
}

// Open opens a database by the URL that Postgres, MariaDB or SQLite returned and
// closes it at the end of the test. The query holds the driver's own parameters
// (clientFoundRows=true, _pragma=…).
func Open(t testing.TB, databaseURL string) *sql.DB {
	t.Helper()

	db, err := open(databaseURL)
	require.NoError(t, err, "open the test's database")
	t.Cleanup(func() { require.NoError(t, db.Close(), "close the test's database") })

	return db
}

func open(databaseURL string) (*sql.DB, error) {
	parsed, err := dburl.Parse(databaseURL)
	if err != nil {
		return nil, err
	}

	return parsed.Open()
}

// administer runs one statement on a connection of its own: the pools that a
// test opens are closed by the time its schema is dropped.
func administer(t testing.TB, serverURL, statement string) {
	t.Helper()

	// The test's own context is cancelled before its cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()

	db, err := open(serverURL)
	require.NoError(t, err, statement)

	_, err = db.ExecContext(ctx, statement)
	require.NoError(t, err, "%s (a wait here means that the test left a transaction open)", statement)
	require.NoError(t, db.Close(), statement)
}
