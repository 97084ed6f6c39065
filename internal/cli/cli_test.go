package cli

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// terminal is what a run of the command is given and what it wrote.
type terminal struct {
	input string
	env   map[string]string
	now   func() time.Time

	out, err bytes.Buffer
}

func (term *terminal) run(t *testing.T, args ...string) int {
	t.Helper()
	term.out.Reset()
	term.err.Reset()
	if term.now == nil {
		term.now = time.Now
	}
	return Run(t.Context(), Env{
		Args: args, In: strings.NewReader(term.input), Out: &term.out, Err: &term.err,
		Getenv: func(name string) string { return term.env[name] }, Now: term.now, ProgressEvery: time.Hour,
	})
}

// result runs the command for JSON and reads it.
func result[T any](t *testing.T, wantExit int, args ...string) (v T) {
	t.Helper()
	var term terminal
	exit := term.run(t, append(args, "--json")...)
	require.Equal(t, wantExit, exit, "%s%s", &term.out, &term.err)
	decoder := json.NewDecoder(&term.out)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&v))
	require.NoError(t, expectEnd(decoder))
	return v
}

func expectEnd(decoder *json.Decoder) error {
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than one JSON value: %w", err)
	}
	return nil
}

var dialects = map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}

// database is a fresh one, with the test that it is for.
type database struct {
	*testing.T

	kind, url string
}

// onEach runs a test on a database of every kind.
func onEach(t *testing.T, f func(on database)) {
	t.Helper()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(database{t, kind, testenv.Database(t, kind)})
		})
	}
}

// migrated brings up the schema and returns the database.
func migrated(t *testing.T, kind, url string) (*store.Store, *sql.DB) {
	t.Helper()
	db := testenv.Open(t, url)
	st, err := store.Open(t.Context(), db, store.Config{Dialect: dialects[kind], Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st, db
}

var (
	durations = regexp.MustCompile(`-?\b\d+(\.\d+)?(ms|s|m\d+s|h\d+m\d+s)\b`)
	times     = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`)
	gaps      = regexp.MustCompile(` {2,}`)
)

// steady replaces what differs from run to run: the address, times, and so the
// tables' widths.
func steady(text, url string) string {
	address, _, _ := strings.Cut(url, "?")
	if scheme, rest, ok := strings.Cut(address, "//"); ok {
		address = scheme + "//" + rest[strings.LastIndex(rest, "@")+1:]
	}
	text = strings.ReplaceAll(text, address, "DB")
	text = durations.ReplaceAllString(times.ReplaceAllString(text, "TIME"), "AGE")
	return gaps.ReplaceAllString(text, "  ")
}

func TestWrongUsageExitsWithTwoAndSaysWhatIsRight(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no database":          {[]string{"status"}, "pass --db URL or set HEADRACE_DB"},
		"no database to print": {[]string{"migrate", "print"}, "--dialect postgres, mysql or sqlite"},
		"unknown command":      {[]string{"migrat"}, "unknown command"},
		"unknown flag":         {[]string{"status", "--loud"}, "unknown flag: --loud"},
		"argument":             {[]string{"status", "now"}, `unknown command "now"`},
		"half a command":       {[]string{"migrate"}, "up, down, status or print"},
		"unknown subcommand":   {[]string{"migrate", "sideways"}, `unknown command "sideways"`},
		"unknown scheme":       {[]string{"status", "--db", "oracle://me:hunter22@db/shop"}, "postgres://user:password@host"},
		"unparseable URL":      {[]string{"status", "--db", "postgres://me:hunter22@db:x/shop"}, "percent-encoded"},
		"unknown dialect":      {[]string{"migrate", "print", "--dialect", "oracle"}, "store.Postgres"},
		"bad prefix":           {[]string{"migrate", "print", "--dialect", "sqlite", "--prefix", "a-b"}, "letters, digits"},
		"schema on SQLite":     {[]string{"migrate", "print", "--dialect", "sqlite", "--schema", "s"}, "SQLite has no schemas"},
		"topic alone":          {[]string{"doctor", "--db", "sqlite:x", "--topic", "stock"}, "--broker URL too"},
		"window alone":         {[]string{"doctor", "--db", "sqlite:x", "--window", "1h"}, "--broker URL too"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var term terminal
			require.Equal(t, exitFailed, term.run(t, test.args...))
			require.Empty(t, term.out.String())
			require.Contains(t, term.err.String(), test.want)
			require.True(t, strings.HasPrefix(term.err.String(), "headrace: "), term.err.String())
			require.NotContains(t, term.err.String(), "hunter22")
		})
	}
}

func TestUnreachableDatabaseIsNamedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"status"}, {"doctor"}, {"migrate", "up"}, {"migrate", "status"}} {
		for _, scheme := range []string{"postgres", "mysql", "mariadb"} {
			var term terminal
			// Port 1 is tcpmux, which nothing serves.
			url := scheme + "://me:hunter22@127.0.0.1:1/shop"
			require.Equal(t, exitFailed, term.run(t, append(command, "--connect-timeout", "100ms", "--db", url)...))
			require.Empty(t, term.out.String())
			require.Regexp(t, `can't be reached: `+scheme+`://127.0.0.1:1/shop: tried for \d+ms`, term.err.String())
			require.Contains(t, term.err.String(), "allow a longer connect timeout")
			require.NotContains(t, term.err.String(), "hunter22")
		}
	}
}

func TestMissingSQLiteFileIsNotCreatedByLookingAtIt(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "shop.db")
	for _, command := range [][]string{{"status"}, {"doctor"}, {"migrate", "status"}, {"migrate", "down", "--yes"}} {
		var term terminal
		require.Equal(t, exitFailed, term.run(t, append(command, "--db", "sqlite:"+file)...))
		require.Contains(t, term.err.String(), "there is no file "+file)
		require.NoFileExists(t, file)
	}
}

func TestDatabaseMayStandInTheEnvironment(t *testing.T) {
	t.Parallel()
	term := terminal{env: map[string]string{"HEADRACE_DB": testenv.SQLite(t)}}
	require.Equal(t, exitOK, term.run(t, "migrate", "up"), term.err.String())
	require.Equal(t, exitOK, term.run(t, "status"), term.err.String())
	require.Equal(t, exitFailed, term.run(t, "status", "--db", "sqlite:no-such-file"), "the flag wins")
}

func TestHelpNamesTheCommandsAndExitStatus(t *testing.T) {
	t.Parallel()
	var term terminal
	require.Equal(t, exitOK, term.run(t, "--help"))
	for _, text := range []string{"migrate", "status", "doctor", "Exit status: 0 fine, 1 a problem was found, 2"} {
		require.Contains(t, term.out.String(), text)
	}
	require.Equal(t, exitOK, term.run(t, "--version"))
	require.Contains(t, term.out.String(), fmt.Sprintf("schema version %d", store.SchemaVersion))
}

// lines gives each line that is written to a channel.
type lines chan string

func (l lines) Write(text []byte) (int, error) {
	l <- string(text)
	return len(text), nil
}

func TestLongWorkSaysHowFarItIs(t *testing.T) {
	t.Parallel()
	said := make(lines)
	a := &app{Env: Env{Err: said, ProgressEvery: time.Millisecond}}
	release := make(chan struct{})
	ended := make(chan error)
	go func() {
		ended <- a.progress("counting", func() error {
			<-release
			return errFound
		})
	}()
	require.Regexp(t, `^counting… [\d.]+m?s\n$`, <-said)
	require.Regexp(t, `^counting… [\d.]+m?s\n$`, <-said)
	close(release)
	for {
		select {
		case <-said: // a line that was due already
		case err := <-ended:
			require.ErrorIs(t, err, errFound)
			return
		}
	}
}

func TestTextFromTheDatabaseCannotSteerTheTerminal(t *testing.T) {
	t.Parallel()
	require.Equal(t, "·[31mred·· next line", cell("\x1b[31mred\x07\xff\n\tnext\tline\n"))
	require.Equal(t, strings.Repeat("ö", maxCell)+"…", cell(strings.Repeat("ö", 3*maxCell)))
	require.Equal(t, "A  B\nx  y\n", table([]string{"A", "B"}, []string{"x", "y"}))
	require.Len(t, strings.Split(table([]string{"a\nb\tc"}), "\n"), 2)
}
