// Package dburl opens databases by URL, for the programs that Headrace itself
// brings (the command, the examples, the tests). The library never does: its
// users bring their own driver and their own *sql.DB.
package dburl

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/headrace-go/headrace/internal/redact"
)

// ErrBadURL says that a database's URL can't be used. The error never repeats
// the URL.
var ErrBadURL = errors.New("the database's URL can't be used")

const known = "write postgres://user:password@host:port/database, mysql://… or mariadb://… alike, or sqlite:path"

// Dialects as package store names them. They are strings here, so that store's
// own tests may open their databases through this package.
const (
	postgres   = "postgres"
	mysqlLike  = "mysql"
	sqliteFile = "sqlite"
)

// URL is a database's parsed address.
type URL struct {
	// Dialect is "postgres", "mysql" (MariaDB too) or "sqlite": what
	// store.Dialect calls them.
	Dialect string
	// Name is the address without user, password and options.
	Name string
	// File is the path of SQLite's file, "" elsewhere.
	File string

	secrets *redact.Redactor
	open    func() (*sql.DB, error)
	sqlite  sqliteURI
}

// Parse understands postgres://, postgresql://, mysql://, mariadb:// and
// sqlite:path. The query holds the driver's own parameters (sslmode=disable,
// clientFoundRows=true, _pragma=busy_timeout(5000)). Errors match ErrBadURL.
func Parse(raw string) (*URL, error) {
	scheme, rest, _ := strings.Cut(raw, ":")
	if scheme == sqliteFile {
		return parseSQLite(rest)
	}
	if hint := fromDSN(raw); hint != "" {
		return nil, fmt.Errorf("%w: %s", ErrBadURL, hint)
	}
	parsed, err := redact.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadURL, err)
	}
	u := &URL{Name: redact.Describe(parsed), secrets: redact.New(parsed)}
	switch parsed.Scheme {
	case "postgres", "postgresql":
		err = u.postgres(parsed)
	case "mysql", "mariadb":
		err = u.mysql(parsed)
	case "":
		err = errors.New("it has no scheme: " + known)
	default:
		err = fmt.Errorf("unknown scheme %q: %s", parsed.Scheme, known)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadURL, u.Redact(err))
	}
	return u, nil
}

// Open returns a handle; like sql.Open it connects to nothing yet.
func (u *URL) Open() (*sql.DB, error) {
	db, err := u.open()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadURL, u.Name, u.Redact(err))
	}
	return db, nil
}

// Redact hides the URL's secrets in an error's text.
func (u *URL) Redact(err error) error { return u.secrets.Err(err) }

func (u *URL) postgres(parsed *url.URL) error {
	config, err := pgx.ParseConfig(parsed.String())
	if err != nil {
		return fmt.Errorf("pgx: %w", err)
	}
	u.Dialect = postgres
	u.open = func() (*sql.DB, error) { return stdlib.OpenDB(*config), nil }
	return nil
}

func (u *URL) mysql(parsed *url.URL) error {
	if parsed.Hostname() == "" {
		return errors.New("it names no host: " + known)
	}
	config := mysql.NewConfig()
	config.Net, config.Addr = "tcp", parsed.Host
	if parsed.Port() == "" {
		config.Addr = net.JoinHostPort(parsed.Hostname(), "3306")
	}
	config.User = parsed.User.Username()
	config.Passwd, _ = parsed.User.Password()
	config.DBName = strings.TrimPrefix(parsed.Path, "/")
	dsn := config.FormatDSN()
	if parsed.RawQuery != "" {
		separator := "?"
		if strings.Contains(dsn[strings.LastIndex(dsn, "/"):], "?") {
			separator = "&"
		}
		dsn += separator + parsed.RawQuery
	}
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return fmt.Errorf("its options: %w", err)
	}
	config.Logger = &mysql.NopLogger{} // the same errors are returned
	u.Dialect = mysqlLike
	u.open = func() (*sql.DB, error) {
		connector, err := mysql.NewConnector(config)
		if err != nil {
			return nil, fmt.Errorf("its options: %w", err)
		}
		return sql.OpenDB(connector), nil
	}
	return nil
}

// sqliteURI is SQLite's own form of an address: file:path?parameters.
type sqliteURI struct {
	path   string
	params url.Values
}

func (s sqliteURI) String() string {
	if len(s.params) == 0 {
		return "file:" + s.path
	}
	return "file:" + s.path + "?" + s.params.Encode()
}

// parseSQLite reads what follows "sqlite:". '%', '?' and '#' in the path must be
// percent-encoded.
func parseSQLite(rest string) (*URL, error) {
	path, query, _ := strings.Cut(rest, "?")
	params, err := url.ParseQuery(query)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: its options can't be parsed; write sqlite:path?name=value&name=value", ErrBadURL)
	case path == "":
		return nil, fmt.Errorf("%w: it names no file: write sqlite:path", ErrBadURL)
	case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
		return nil, fmt.Errorf("%w: sqlite://name would be a host: write sqlite:path, or sqlite:/path", ErrBadURL)
	}
	file, err := url.PathUnescape(path)
	if err != nil {
		return nil, fmt.Errorf("%w: a '%%' in the path that is none: write it as %%25", ErrBadURL)
	}
	if strings.HasPrefix(file, "///") {
		file = file[2:]
	}
	u := &URL{
		Dialect: sqliteFile, Name: "sqlite:" + path, File: file,
		secrets: redact.New(&url.URL{RawQuery: query}),
		sqlite:  sqliteURI{path, params},
	}
	u.open = func() (*sql.DB, error) { return sql.Open("sqlite", u.sqlite.String()) }
	return u, nil
}

// ForService returns the address with what a service needs of SQLite unless the
// URL decides it itself: a write-ahead log, so that readers and the writer don't
// wait for each other, and a wait instead of an error while another process
// writes. Other databases need nothing.
func (u *URL) ForService() *URL {
	if u.Dialect != sqliteFile {
		return u
	}
	tuned := *u
	pragmas := slices.Clone(u.sqlite.params["_pragma"])
	for name, value := range map[string]string{"busy_timeout": "5000", "journal_mode": "WAL"} {
		if !slices.ContainsFunc(pragmas, func(p string) bool { return strings.HasPrefix(strings.TrimSpace(p), name) }) {
			pragmas = append(pragmas, name+"("+value+")")
		}
	}
	slices.Sort(pragmas)
	return tuned.withParam("_pragma", pragmas...)
}

// Existing returns the address such that opening it doesn't create a missing
// SQLite file.
func (u *URL) Existing() *URL {
	if u.Dialect != sqliteFile || u.sqlite.params.Has("mode") {
		return u
	}
	return u.withParam("mode", "rw")
}

func (u *URL) withParam(name string, values ...string) *URL {
	changed := *u
	changed.sqlite.params = url.Values{}
	maps.Copy(changed.sqlite.params, u.sqlite.params)
	changed.sqlite.params[name] = values
	changed.open = func() (*sql.DB, error) { return sql.Open("sqlite", changed.sqlite.String()) }
	return &changed
}
