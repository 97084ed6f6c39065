package cli

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

func TestMigrateUpThenDownThenUp(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		var term terminal
		if url[:6] != "sqlite" { // there the file would be missing
			before := result[migrationsJSON](t, exitProblem, "migrate", "status", "--db", url)
			require.Zero(t, before.Version)
			require.False(t, before.Usable)
			require.EqualValues(t, store.SchemaVersion, before.Migrations[len(before.Migrations)-1].Version)
			require.False(t, before.Migrations[0].Applied)
			require.Equal(t, exitProblem, term.run(t, "status", "--db", url), "looking must not create anything")
		}

		require.Equal(t, exitOK, term.run(t, "migrate", "up", "--db", url), term.err.String())
		listed := func(applied string) string {
			status := result[migrationsJSON](t, exit(applied == "TIME"), "migrate", "status", "--db", url)
			lines := []string{"VERSION  MIGRATION  APPLIED\n"}
			for _, m := range status.Migrations {
				lines = append(lines, fmt.Sprintf("%d  %s  %s\n", m.Version, m.Name, applied))
			}
			return strings.Join(lines, "")
		}
		require.Equal(t, listed("TIME"), steady(term.out.String(), url))
		require.Contains(t, term.out.String(), "00001_init.sql")
		require.Regexp(t, `^applying \d+ migrations to DB\n$`, steady(term.err.String(), url))

		up := result[migrationsJSON](t, exitOK, "migrate", "status", "--db", url)
		require.EqualValues(t, store.SchemaVersion, up.Version)
		require.Equal(t, up.Version, up.Known)
		require.True(t, up.Usable)
		require.True(t, up.Migrations[0].Applied)
		require.WithinDuration(t, time.Now(), up.Migrations[0].At, time.Minute)

		require.Equal(t, exitOK, term.run(t, "migrate", "up", "--db", url), "a second time there is nothing to do")
		require.Empty(t, term.err.String())

		var down migrationsJSON
		for range up.Migrations {
			down = result[migrationsJSON](t, exitOK, "migrate", "down", "--yes", "--db", url)
		}
		require.Zero(t, down.Version)
		require.False(t, down.Usable)

		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--db", url))
		require.Contains(t, term.err.String(), "nothing to take back")
		require.Equal(t, listed("no"), steady(term.out.String(), url))

		require.Equal(t, exitOK, term.run(t, "migrate", "up", "--db", url), term.err.String())
		require.Equal(t, exitOK, term.run(t, "status", "--db", url), term.err.String())
	})
}

// exit is the status of a look at the schema.
func exit(usable bool) int {
	if usable {
		return exitOK
	}
	return exitProblem
}

func TestMigrateDownAsksFirstAndSaysWhatWouldBeLost(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, _ := migrated(t, kind, url)
		publish(t, st, store.OutboxRow{MessageID: "1", Destination: "d", Topic: "t"})
		refused := func(said string) {
			for _, answer := range []string{"", "no\n", "y\n"} {
				term := terminal{input: answer}
				require.Equal(t, exitFailed, term.run(t, "migrate", "down", "--db", url))
				require.Empty(t, term.out.String())
				require.Equal(t, said+"Type yes to go on:\nheadrace: nothing was changed: answer yes, or pass --yes\n",
					steady(term.err.String(), url))
			}
		}
		refused(fmt.Sprintf("Taking back version %d of DB deletes what its tables hold.\n", store.SchemaVersion))
		require.NoError(t, st.CheckSchema(t.Context()))
		downToFirst(t, url)
		require.ErrorIs(t, st.CheckSchema(t.Context()), store.ErrSchemaMissing)
		refused("Taking back version 1 of DB deletes what its tables hold.\n" +
			"Lost: 1 unsent message in the outbox, and the memory of what was handled already.\n")
		require.EqualValues(t, 1, downTo(t, url))
		term := terminal{input: "yes\n"}
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--db", url), term.err.String())
		require.Zero(t, downTo(t, url))
	})
}

// downToFirst takes back all migrations but the first.
func downToFirst(t *testing.T, url string) {
	t.Helper()
	for version := int64(store.SchemaVersion); version > 1; version = downTo(t, url) {
		var term terminal
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--db", url), term.err.String())
	}
}

// downTo is the schema's version while it is not usable.
func downTo(t *testing.T, url string) int64 {
	t.Helper()
	return result[migrationsJSON](t, exitProblem, "migrate", "status", "--db", url).Version
}

func TestPrintedMigrationsCreateTheTables(t *testing.T) {
	t.Parallel()
	var term terminal
	for _, dialect := range []string{"postgres", "mysql", "sqlite"} {
		require.Equal(t, exitOK, term.run(t, "migrate", "print", "--dialect", dialect, "--prefix", "mine_"), term.err.String())
		want, err := store.PrintMigrations(store.Config{Dialect: store.Dialect(dialect), Prefix: "mine_"}, false)
		require.NoError(t, err)
		require.Equal(t, want, term.out.String())
		require.Contains(t, term.out.String(), "mine_outbox")
		printed := result[map[string]string](t, exitOK, "migrate", "print", "--dialect", dialect, "--prefix", "mine_")
		require.Equal(t, map[string]string{"dialect": dialect, "sql": want}, printed)
	}

	// The URL says the dialect as well, without being connected to.
	require.Equal(t, exitOK, term.run(t, "migrate", "print", "--db", "mariadb://nowhere.invalid/x"))
	require.Contains(t, term.out.String(), "ENGINE=InnoDB")

	url := testenv.SQLite(t)
	db := testenv.Open(t, url)
	require.Equal(t, exitOK, term.run(t, "migrate", "print", "--db", url))
	_, err := db.ExecContext(t.Context(), term.out.String())
	require.NoError(t, err)
	require.Positive(t, tables(t, db))
	require.Equal(t, exitOK, term.run(t, "migrate", "print", "--down", "--db", url))
	_, err = db.ExecContext(t.Context(), term.out.String())
	require.NoError(t, err)
	require.Zero(t, tables(t, db))
}

func tables(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	query := "SELECT count(*) FROM sqlite_master WHERE name LIKE 'headrace%'"
	require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

func TestPrefixAndSchemaChooseTheTables(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		var term terminal
		args := []string{"--db", url, "--prefix", "mine_"}
		if kind != "sqlite" {
			schema := testenv.Topic(t, "schema")
			args = append(args, "--schema", schema)
			db := testenv.Open(t, url)
			_, err := db.ExecContext(t.Context(), "CREATE SCHEMA "+schema)
			require.NoError(t, err)
			drop := map[string]string{"postgres": "DROP SCHEMA " + schema + " CASCADE", "mariadb": "DROP SCHEMA " + schema}[kind]
			defer func() { _, _ = db.Exec(drop) }() //nolint:noctx // the test's context is over by then
		}
		require.Equal(t, exitOK, term.run(t, append(args, "migrate", "up")...), term.err.String())
		require.Equal(t, exitOK, term.run(t, append(args, "status")...), term.err.String())
		require.Equal(t, exitProblem, term.run(t, "status", "--db", url), "the usual place is empty")
		require.Contains(t, term.err.String(), "headrace migrate up")
		require.Equal(t, exitOK, term.run(t, append(args, "migrate", "down", "--yes")...), term.err.String())
	})
}

func TestSchemaOfANewerProgram(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		_, db := migrated(t, kind, url)
		newer(t, db, "1") // a rolling deploy: the new program still lets this one work
		status := result[migrationsJSON](t, exitOK, "migrate", "status", "--db", url)
		require.True(t, status.Usable)
		require.EqualValues(t, store.SchemaVersion+1, status.Version)
		require.Equal(t, "of a newer program", status.Migrations[len(status.Migrations)-1].Name)
		require.Equal(t, exitOK, new(terminal).run(t, "status", "--db", url))
		require.Equal(t, gradeOK, examine(t, exitOK, url)["schema"].Status)

		var term terminal
		require.Equal(t, exitProblem, term.run(t, "migrate", "down", "--yes", "--db", url))
		require.Contains(t, term.err.String(), "only that one can take it back")

		newer(t, db, strconv.Itoa(store.SchemaVersion+1))
		require.False(t, result[migrationsJSON](t, exitProblem, "migrate", "status", "--db", url).Usable)
		require.Equal(t, exitProblem, term.run(t, "status", "--db", url))
		require.Contains(t, term.err.String(), "upgrade the program")
		require.Equal(t, "upgrade the program", examine(t, exitProblem, url)["schema"].WayOut)
	})
}

// newer marks the schema as migrated by a program of the next version.
func newer(t *testing.T, db *sql.DB, minProgram string) {
	t.Helper()
	for _, statement := range []string{
		fmt.Sprintf("DELETE FROM headrace_migrations WHERE version_id = %d", store.SchemaVersion+1),
		fmt.Sprintf("INSERT INTO headrace_migrations (version_id, is_applied) VALUES (%d, true)", store.SchemaVersion+1),
		"UPDATE headrace_meta SET value = '" + minProgram + "' WHERE name = 'min_program'",
	} {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
}
