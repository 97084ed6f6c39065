package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// Inspector looks at a database from outside and changes nothing. Unlike a Store
// it needs no schema, and it can be had for one that this program may not use.
// It is safe for concurrent use.
type Inspector struct{ store *Store }

// NewInspector returns an inspector. Only Dialect, Schema and Prefix of cfg
// matter. There is nothing to close.
func NewInspector(db *sql.DB, cfg Config) (*Inspector, error) {
	s, err := newStore(db, cfg)
	if err != nil {
		return nil, err
	}
	return &Inspector{s}, nil
}

// Server is a database's product, version, and those of its settings on which
// Headrace's promises or speed depend.
type Server struct {
	// Product is "PostgreSQL", "MySQL", "MariaDB" or "SQLite".
	Product string `json:"product"`
	// Version is in the product's own words, such as "11.8.3-MariaDB-0+deb13u1".
	Version string `json:"version"`
	// Settings are those of the inspector's session, by the product's own names
	// and in its own words and units. One that the version doesn't have is absent.
	Settings map[string]string `json:"settings"`
}

// Server reads what the database is and how it is set up.
func (i *Inspector) Server(ctx context.Context) (Server, error) {
	read := map[Dialect]func(context.Context) (Server, error){
		Postgres: i.postgresServer, MySQL: i.mysqlServer, SQLite: i.sqliteServer,
	}[i.store.dialect]
	server, err := read(ctx)
	if err != nil {
		return Server{}, fmt.Errorf("store: read the server's settings: %w", err)
	}
	return server, nil
}

// Clock returns the database's time.
func (i *Inspector) Clock(ctx context.Context) (time.Time, error) { return i.store.Now(ctx) }

func (i *Inspector) postgresServer(ctx context.Context) (Server, error) {
	return i.settings(ctx, "PostgreSQL", "server_version", "SELECT name, setting AS value FROM pg_settings WHERE name IN (%s)",
		"server_version", "transaction_isolation", "lock_timeout", "idle_in_transaction_session_timeout",
		"synchronous_commit", "fsync", "full_page_writes")
}

func (i *Inspector) mysqlServer(ctx context.Context) (Server, error) {
	// MariaDB calls the isolation tx_isolation before 11.1.
	server, err := i.settings(ctx, "MySQL", "version", "SHOW VARIABLES WHERE Variable_name IN (%s)",
		"version", "transaction_isolation", "tx_isolation", "innodb_print_all_deadlocks", "innodb_rollback_on_timeout",
		"innodb_lock_wait_timeout", "innodb_flush_log_at_trx_commit")
	if err != nil {
		return Server{}, err
	}
	if strings.Contains(server.Version, "MariaDB") {
		server.Product = "MariaDB"
	}
	if old, ok := server.Settings["tx_isolation"]; ok {
		server.Settings["transaction_isolation"] = old
		delete(server.Settings, "tx_isolation")
	}
	return server, nil
}

// settings runs a query for names and values; version names the one that is the
// product's.
func (i *Inspector) settings(ctx context.Context, product, version, query string, wanted ...string) (Server, error) {
	rows, err := i.store.db.QueryContext(ctx, fmt.Sprintf(query, "'"+strings.Join(wanted, "', '")+"'"))
	if err != nil {
		return Server{}, fmt.Errorf("ask: %w", err)
	}
	defer rows.Close()
	server := Server{Product: product, Settings: map[string]string{}}
	for rows.Next() {
		// SHOW VARIABLES names its columns otherwise than pg_settings.
		var name, value string
		if err := rows.Scan(&name, &value); err != nil {
			return Server{}, fmt.Errorf("scan: %w", err)
		}
		server.Settings[name] = value
	}
	if err := rows.Err(); err != nil {
		return Server{}, fmt.Errorf("scan: %w", err)
	}
	server.Version = server.Settings[version]
	delete(server.Settings, version)
	return server, nil
}

func (i *Inspector) sqliteServer(ctx context.Context) (Server, error) {
	server := Server{Product: "SQLite", Settings: map[string]string{}}
	if err := i.store.db.GetContext(ctx, &server.Version, "SELECT sqlite_version()"); err != nil {
		return Server{}, fmt.Errorf("version: %w", err)
	}
	for _, name := range []string{"journal_mode", "busy_timeout", "synchronous"} {
		var value string
		if err := i.store.db.GetContext(ctx, &value, "PRAGMA "+name); err != nil {
			return Server{}, fmt.Errorf("%s: %w", name, err)
		}
		server.Settings[name] = value
	}
	return server, nil
}
