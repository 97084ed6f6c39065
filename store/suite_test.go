package store_test

import (
	"database/sql"
	"net/url"
	"strings"
	"testing"

	_ "github.com/lib/pq" // registers the driver "postgres"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/storetest"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// The drivers and settings that the store is promised to run on.
func TestStore(t *testing.T) {
	for _, c := range []struct {
		name    string
		kind    string
		dialect store.Dialect
		// params are added to the database's URL.
		params string
		driver string
	}{
		{name: "postgres-pgx", kind: "postgres", dialect: store.Postgres},
		{name: "postgres-pgx-exec", kind: "postgres", dialect: store.Postgres, params: "default_query_exec_mode=exec"},
		{name: "postgres-pq", kind: "postgres", dialect: store.Postgres, driver: "postgres"},
		{name: "mariadb", kind: "mariadb", dialect: store.MySQL},
		{name: "mariadb-found-rows", kind: "mariadb", dialect: store.MySQL, params: "clientFoundRows=true&parseTime=true"},
		{name: "mariadb-interpolated", kind: "mariadb", dialect: store.MySQL, params: "interpolateParams=true&loc=Asia%2FTokyo"},
		{name: "sqlite", kind: "sqlite", dialect: store.SQLite, params: "_pragma=busy_timeout(2000)"},
		{
			name: "sqlite-wal", kind: "sqlite", dialect: store.SQLite,
			params: "_pragma=journal_mode(WAL)&_pragma=busy_timeout(2000)",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name != "sqlite-wal" {
				return // the services' databases are for the long run
			}
			storetest.Run(t, storetest.Harness{Dialect: c.dialect, Fresh: func(t testing.TB) func(testing.TB) *sql.DB {
				address := testenv.Database(t, c.kind)
				if c.kind == "sqlite" { // whose settings are the case's own
					address, _, _ = strings.Cut(address, "?")
				}
				address = with(address, c.params)
				return func(t testing.TB) *sql.DB {
					if c.driver != "" {
						return openWith(t, c.driver, address)
					}
					return testenv.Open(t, address)
				}
			}})
		})
	}
}

// with adds parameters to a database's URL.
func with(address, params string) string {
	switch {
	case params == "":
		return address
	case strings.Contains(address, "?"):
		return address + "&" + params
	}
	return address + "?" + params
}

func openWith(t testing.TB, driver, address string) *sql.DB {
	t.Helper()
	_, err := url.Parse(address)
	require.NoError(t, err)
	db, err := sql.Open(driver, address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}
