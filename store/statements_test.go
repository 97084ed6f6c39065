package store

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStatementsThatEndATransactionAreFoundWhereverTheyStand(t *testing.T) {
	for dialect, queries := range map[Dialect][]string{
		"": {
			"COMMIT", " commit ;", "(COMMIT)", "begin", "START TRANSACTION", "ROLLBACK", "rollback work;", "END", "ABORT",
			"/* why */ COMMIT", "-- why\nCOMMIT", "/* a */ -- b\n /* c */ ROLLBACK", "\f\vCOMMIT", "COMMIT/**/", "COMMIT--",
			"SELECT 1; COMMIT", "SELECT 1;;; commit", "INSERT INTO t VALUES ('a'); COMMIT", "SELECT ';'; COMMIT",
			"SELECT 'it''s;'; COMMIT", "SELECT 1 /* ; */; COMMIT", "SELECT 1 -- ;\n; COMMIT",
			"SAVEPOINT a; ROLLBACK; SAVEPOINT b",
			"ROLLBACK /* TO */", "SELECT 1 /* */ ; /* */ COMMIT", "ROLLBACK; SELECT 1 TO x",
		},
		Postgres: {
			"/* a /* b */ c */ COMMIT", "SELECT $$;$$; COMMIT", "SELECT $a$ $$ ; $b$ $a$; COMMIT", `SELECT E'\'; ' ; COMMIT`,
			`SELECT '\'; COMMIT`, "PREPARE TRANSACTION 'x'", `SELECT ";"; COMMIT`, "SELECT $1; COMMIT", "SELECT $1, $2; COMMIT",
			"SELECT a$b$; COMMIT; SELECT a$b$", "SELECT arr[1]; COMMIT",
			"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; end; COMMIT",
			"CREATE TABLE t (begin_at int); COMMIT",
		},
		MySQL: {
			"# why\nCOMMIT", "/*! COMMIT */", "/*!50001 COMMIT */", "/*M!100100 COMMIT */", "/*!99999 SELECT */ COMMIT",
			"SELECT 1 /*! ; COMMIT */", `SELECT '\'; '; COMMIT`, `SELECT "a;"; COMMIT`, "SELECT `;`; COMMIT", "--\nCOMMIT",
			"SELECT 1--1; COMMIT", "SET autocommit = 1", "SET @a = 1, @@session.autocommit = 0", "/* x */ TRUNCATE t",
			"CREATE TABLE t (a int)", "CREATE OR REPLACE TABLE t (a int)", "SELECT 1; DROP TABLE t", "FLUSH TABLES",
			"ANALYZE TABLE t",
			"SET PASSWORD = 'x'", "LOAD INDEX INTO CACHE t", "SET STATEMENT max_statement_time=1 FOR COMMIT", "/* /* */ COMMIT",
		},
		SQLite: {
			"SELECT [;]; COMMIT", "SELECT `;`; COMMIT", `SELECT '\'; COMMIT`, "/* /* */ COMMIT", "END TRANSACTION",
			"CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; end; COMMIT",
			"CREATE TABLE t (a); COMMIT",
		},
	} {
		for _, d := range Dialects() {
			if dialect != "" && d != dialect {
				continue
			}
			for _, query := range queries {
				require.ErrorIs(t, d.refuseEnding(query), ErrOwned, "%s: %s", d, query)
			}
		}
	}
}

func TestOtherStatementsPass(t *testing.T) {
	for dialect, queries := range map[Dialect][]string{
		"": {
			"", ";", "/* ping */", "-- nothing", "SELECT 1", "select 1;", "INSERT INTO t VALUES ('; COMMIT')",
			"SELECT 1; SELECT 2;", "ROLLBACK TO SAVEPOINT a", "rollback work to a",
			"ROLLBACK /* x */ TO a", "SAVEPOINT a; RELEASE SAVEPOINT a",
			"SELECT 1 -- ; COMMIT", "SELECT 1 /* ; COMMIT */", `SELECT "a; COMMIT"`, "UPDATE t SET s = 'it''s; COMMIT; '",
			"WITH commit AS (SELECT 1) SELECT * FROM commit", "SELECT 1; /* COMMIT */", "SELECT 'unclosed; COMMIT",
			"CREATE TEMPORARY TABLE t (a int)",
		},
		Postgres: {
			"DO $$ BEGIN RAISE; END $$", "SELECT $x$; COMMIT; $x$", `SELECT E'\'; COMMIT'`, "PREPARE a AS SELECT 1",
			"/* /* */ ; COMMIT */ SELECT 1", "CREATE TABLE t (a int)", "ALTER TABLE t ADD b int; TRUNCATE t",
			"CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN 1 END; END",
			"SET LOCAL lock_timeout = 1", "SET autocommit = 1",
		},
		MySQL: {
			`SELECT 'it\'s; COMMIT'`, `SELECT "\"; COMMIT"`, "SELECT `; COMMIT`", "SELECT 1 # ; COMMIT", "SET @autocommit = 1",
			"CREATE OR REPLACE TEMPORARY TABLE t (a int)", "DROP TEMPORARY TABLE t", "ANALYZE SELECT 1", "/*!50001 SELECT */ 1",
			"SELECT /*+ MAX_EXECUTION_TIME(1) */ 1; SELECT 2", "SET STATEMENT max_statement_time=1 FOR SELECT 1",
		},
		SQLite: {
			"CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT RAISE(ABORT, 'x'); END", "SELECT [; COMMIT]", "DROP TABLE t",
			"CREATE TEMP TRIGGER a AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; end; SELECT 1",
		},
	} {
		for _, d := range Dialects() {
			if dialect != "" && d != dialect {
				continue
			}
			for _, query := range queries {
				require.NoError(t, d.refuseEnding(query), "%s: %s", d, query)
			}
		}
	}
}

func TestStatementsThatReadAndThoseThatChangeRows(t *testing.T) {
	for query, want := range map[string]struct{ reads, changes bool }{
		"SELECT 1":                              {reads: true},
		" (select 1);":                          {reads: true},
		"/* traced */ SELECT 1":                 {reads: true},
		"SHOW TABLES":                           {reads: true},
		"SELECT 1; INSERT INTO t VALUES (1)":    {changes: true},
		"insert into t values (1)":              {changes: true},
		"-- traced\nUPDATE t SET a = ';'":       {changes: true},
		"INSERT INTO t VALUES (1); COMMIT":      {},
		"BEGIN; INSERT INTO t VALUES (1)":       {},
		"EXPLAIN ANALYZE DELETE FROM t":         {},
		"WITH a AS (DELETE FROM t) SELECT 1":    {changes: true},
		"INSERTING":                             {},
		"VACUUM":                                {},
		"CREATE TABLE t AS SELECT * FROM other": {},
	} {
		for _, d := range Dialects() {
			require.Equal(t, want.reads, d.readsOnly(query), "%s: %s", d, query)
			require.Equal(t, want.changes, d.changesRows(query), "%s: %s", d, query)
		}
	}
}

func TestWhetherAQueryLeavesATransactionOpen(t *testing.T) {
	for query, want := range map[string][2]bool{ // if it was open, if it wasn't
		"SELECT 1":                        {true, false},
		"SELECT 1; SELECT 2":              {true, false},
		"begin":                           {true, true},
		"/* x */ START TRANSACTION":       {true, true},
		"COMMIT":                          {false, false},
		"ROLLBACK TO a":                   {true, false},
		"COMMIT AND CHAIN":                {true, true},
		"COMMIT AND NO CHAIN":             {false, false},
		"PREPARE TRANSACTION 'a'":         {false, false},
		"BEGIN; SELECT 1; COMMIT":         {false, false},
		"COMMIT; BEGIN":                   {true, true},
		"INSERT INTO t VALUES (1); BEGIN": {true, true},
	} {
		require.Equal(t, want[0], Postgres.leavesOpen(query, true), query)
		require.Equal(t, want[1], Postgres.leavesOpen(query, false), query)
	}
}

// No text makes the scanner panic, and the short way agrees with the long one:
// what follows a complete comment, and what follows a semicolon, is found as well
// as if it stood alone.
func FuzzStatements(f *testing.F) {
	for _, seed := range []string{
		"SELECT 1; COMMIT", "/* a /* b */ */ COMMIT", "$a$ ; $a$; END", `E'\`, "'", "/*!", "/*M!5",
		"[", "$", "$$", "--", "#", "@",
		"@@",
		"CREATE TRIGGER a BEGIN SELECT CASE END; end; COMMIT", "SET STATEMENT a FOR COMMIT",
		"\x00\xff", "SELECT `", `"\`, "1e", "(;)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		for _, d := range Dialects() {
			err := d.refuseEnding(query)
			d.readsOnly(query)
			d.changesRows(query)
			d.leavesOpen(query, true)
			if (d.refuseEnding("/* x */"+query) == nil) != (err == nil) {
				t.Errorf("%s: a comment before %q changes its meaning", d, query)
			}
			if (d.refuseEnding("SELECT 1;"+query) == nil) != (err == nil) {
				t.Errorf("%s: a statement before %q changes its meaning", d, query)
			}
			if d.refuseEnding("SELECT '"+strings.NewReplacer("'", "", `\`, "").Replace(query)+"' ;") != nil {
				t.Errorf("%s: refuses what %q holds as a literal", d, query)
			}
		}
	})
}

func BenchmarkRefuseEnding(b *testing.B) {
	query := "INSERT INTO headrace_inbox (consumer, message_id, verdict, reason, fingerprint) VALUES ($1, $2, $3, $4, $5) " +
		"ON CONFLICT (consumer, message_id) DO NOTHING"
	b.ReportAllocs()
	for b.Loop() {
		if Postgres.refuseEnding(query) != nil || Postgres.readsOnly(query) {
			b.Fatal("refused")
		}
	}
}
