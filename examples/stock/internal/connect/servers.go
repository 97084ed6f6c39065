//go:build !embedded

package connect

import (
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/store"
)

// Openers returns every broker's.
func Openers() map[string]brokers.Opener { return all.Openers() }

func servers() map[string]func(*url.URL) (Database, error) {
	return map[string]func(*url.URL) (Database, error){
		"postgres": openPostgres, "postgresql": openPostgres,
		"mysql": openMySQL, "mariadb": openMySQL,
	}
}

// maxConnections bounds what one process takes of the server's connections.
const maxConnections = 20

func openPostgres(u *url.URL) (Database, error) {
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		return Database{}, fmt.Errorf("open PostgreSQL: %w", err)
	}
	db.SetMaxOpenConns(maxConnections)
	return Database{DB: db, Dialect: store.Postgres}, nil
}

func openMySQL(u *url.URL) (Database, error) {
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if u.Port() == "" {
		cfg.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.Logger = &mysql.NopLogger{} // the same errors are returned
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return Database{}, fmt.Errorf("open MariaDB or MySQL: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(maxConnections)
	return Database{DB: db, Dialect: store.MySQL}, nil
}
