package dburl_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

func TestURLIsReadAsDialectNameAndFile(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]dburl.URL{
		"postgres://me:pw@db:5432/shop?sslmode=disable": {Dialect: "postgres", Name: "postgres://db:5432/shop"},
		"postgresql://db/shop":                          {Dialect: "postgres", Name: "postgresql://db/shop"},
		"mysql://me:pw@db:3306/shop":                    {Dialect: "mysql", Name: "mysql://db:3306/shop"},
		"mariadb://db/shop?clientFoundRows=true":        {Dialect: "mysql", Name: "mariadb://db/shop"},
		"sqlite:shop.db?_pragma=busy_timeout(1)":        {Dialect: "sqlite", Name: "sqlite:shop.db", File: "shop.db"},
		"sqlite:/var/a%20b.db":                          {Dialect: "sqlite", Name: "sqlite:/var/a%20b.db", File: "/var/a b.db"},
		"sqlite:///var/shop.db":                         {Dialect: "sqlite", Name: "sqlite:///var/shop.db", File: "/var/shop.db"},
	} {
		got, err := dburl.Parse(raw)
		require.NoError(t, err, raw)
		require.Equal(t, want, dburl.URL{Dialect: got.Dialect, Name: got.Name, File: got.File}, raw)
	}
}

func TestBadURLIsRefusedWithoutShowingIt(t *testing.T) {
	t.Parallel()
	for raw, why := range map[string]string{
		"":                                      "no scheme",
		"shop.db":                               "no scheme",
		"127.0.0.1:5432":                        "no scheme",
		"oracle://me:hunter22@db/shop":          `unknown scheme "oracle"`,
		"postgres://me:hunter22@db:port/shop":   "percent-encoded",
		"postgres://me:hun#ter22@db/shop":       "percent-encoded",
		"postgres://me:hunter22@db/s?sslmode=x": "sslmode is invalid",
		"mysql://me:hunter22@/shop":             "names no host",
		"mysql://me:hunter22@db/s?timeout=x":    "",
		"mysql://me:hunter22@db/s?%zz":          "options can't be parsed",
		"sqlite:":                               "names no file",

		"me:hunter22@tcp(db:3306)/shop?parseTime=true": "write mysql://user:password@db:3306/shop, with",
		"mysql://me:hunter22@tcp(db)/shop":             "write mysql://user:password@db:3306/shop, with",
		"me:hun%ter22@unix(/tmp/my.sock)/shop":         "go-sql-driver/mysql takes",
		"tcp(db)/shop":                                 "write mysql://user:password@db:3306/shop, with",
		"host=db dbname=shop password=hunter22":        "write postgres://user:password@db:5432/shop, with",
		"user=me password='hunter22 x' host=db port=1": "postgres://user:password@db:1/",
		"file:shop.db?_pragma=busy_timeout(1)":         "write sqlite:shop.db, with",
		"file:/var/hunter22@x.db":                      "write sqlite:path, with",
		"sqlite://shop.db":                             "sqlite:path",
		"sqlite:50%.db":                                "%25",
		"sqlite:a.db?%zz":                              "options can't be parsed",
	} {
		_, err := dburl.Parse(raw)
		require.ErrorIs(t, err, dburl.ErrBadURL, raw)
		require.ErrorContains(t, err, why, raw)
		require.NotContains(t, err.Error(), "hunter22", raw)
	}
}

func TestEveryDatabaseConnects(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u, err := dburl.Parse(testenv.Database(t, kind))
			require.NoError(t, err)
			db, err := u.Connect(t.Context(), time.Minute)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		})
	}
}

func TestSilentDatabaseIsTriedUntilTheTimeoutAndNamed(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close()) // nobody answers there now
	for _, scheme := range []string{"postgres", "mysql"} {
		u, err := dburl.Parse(scheme + "://me:hunter22@" + address + "/shop")
		require.NoError(t, err)
		_, err = u.Connect(t.Context(), 200*time.Millisecond)
		require.ErrorIs(t, err, dburl.ErrUnreachable)
		require.ErrorContains(t, err, scheme+"://"+address+"/shop")
		require.ErrorContains(t, err, "attempts)")
		require.NotContains(t, err.Error(), "hunter22")
		var unreachable *dburl.UnreachableError
		require.ErrorAs(t, err, &unreachable)
		require.GreaterOrEqual(t, unreachable.Tried, 200*time.Millisecond)
		require.Greater(t, unreachable.Attempts, 1)
		require.False(t, unreachable.Refused)
	}
}

func TestCancelledConnectEnds(t *testing.T) {
	t.Parallel()
	u, err := dburl.Parse("postgres://127.0.0.1:1/shop")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = u.Connect(ctx, time.Hour)
	require.ErrorIs(t, err, dburl.ErrUnreachable)
	require.ErrorIs(t, err, context.Canceled)
}

func TestDatabaseThatAnswersNoIsAskedOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			raw := testenv.Database(t, kind)
			if kind == "sqlite" {
				file := filepath.Join(t.TempDir(), "no-database")
				require.NoError(t, os.WriteFile(file, []byte("this is a text and no database at all"), 0o600))
				raw = "sqlite:" + file
			} else {
				parsed, err := url.Parse(raw)
				require.NoError(t, err)
				parsed.Path = "/no_such_database"
				raw = parsed.String()
			}
			u, err := dburl.Parse(raw)
			require.NoError(t, err)
			_, err = u.Connect(t.Context(), time.Hour)
			var unreachable *dburl.UnreachableError
			require.ErrorAs(t, err, &unreachable)
			require.Equal(t, 1, unreachable.Attempts)
			require.True(t, unreachable.Refused)
			require.ErrorContains(t, err, "check user, password, database")
		})
	}
}

func TestSQLiteFileIsOnlyCreatedWhenAskedFor(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "new.db")
	u, err := dburl.Parse("sqlite:" + file)
	require.NoError(t, err)
	_, err = u.Existing().Connect(t.Context(), time.Second)
	require.ErrorIs(t, err, dburl.ErrUnreachable)
	require.NoFileExists(t, file)
}

func TestServiceGetsALogAndABusyTimeoutUnlessTheURLDecides(t *testing.T) {
	t.Parallel()
	settings := func(raw string) (journal string, busy int) {
		u, err := dburl.Parse(raw)
		require.NoError(t, err)
		db, err := u.ForService().Connect(t.Context(), time.Minute)
		require.NoError(t, err)
		require.NoError(t, db.QueryRowContext(t.Context(), "PRAGMA journal_mode").Scan(&journal))
		require.NoError(t, db.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&busy))
		require.NoError(t, db.Close())
		return journal, busy
	}
	file, _, _ := strings.Cut(testenv.SQLite(t), "?") // it has pragmas of its own
	journal, busy := settings(file)
	require.Equal(t, "wal", journal)
	require.Equal(t, 5000, busy)
	journal, busy = settings(file + "?_pragma=journal_mode(TRUNCATE)&_pragma=busy_timeout(7)")
	require.Equal(t, "truncate", journal)
	require.Equal(t, 7, busy)
}
