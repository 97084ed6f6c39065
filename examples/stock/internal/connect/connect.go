// Package connect opens the example's database by URL. A real service names one
// driver and calls sql.Open; this one runs on three so that they can be tried.
//
// Built with -tags embedded, it knows SQLite and the embedded broker only and
// compiles in half the time.
package connect

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/headrace-go/headrace/store"
)

// Database is an open database and what Headrace must be told about it.
type Database struct {
	*sql.DB

	Dialect store.Dialect
}

// Numbered reports whether its placeholders are $1, $2, and not question marks.
func (d Database) Numbered() bool { return d.Dialect == store.Postgres }

// Open opens sqlite:path, postgres://… or mysql://… (mariadb://…). Nothing is
// connected to yet. Errors never repeat the URL, which may hold a password.
func Open(rawURL string) (Database, error) {
	scheme, rest, ok := strings.Cut(rawURL, ":")
	if !ok {
		return Database{}, errors.New("the database's URL has no scheme: write sqlite:path, postgres://… or mysql://…")
	}
	if scheme == "sqlite" {
		return openSQLite(rest)
	}
	open, ok := servers()[scheme]
	if !ok {
		return Database{}, fmt.Errorf("no driver for a database %q: known are %s", scheme,
			strings.Join(append(slices.Sorted(maps.Keys(servers())), "sqlite"), ", "))
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return Database{}, errors.New("the database's URL can't be parsed: escape what is special in user and password")
	}
	return open(u)
}

// openSQLite waits instead of failing while another process writes, and lets
// readers and the writer go on side by side.
func openSQLite(path string) (Database, error) {
	if path == "" {
		return Database{}, errors.New("the database's URL names no file: write sqlite:path")
	}
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	db, err := sql.Open("sqlite", "file:"+path+separator+"_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return Database{}, fmt.Errorf("open SQLite: %w", err)
	}
	return Database{DB: db, Dialect: store.SQLite}, nil
}
