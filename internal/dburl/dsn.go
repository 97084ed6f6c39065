package dburl

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
)

var (
	// mysqlDSN is go-sql-driver's form: user:password@tcp(host:3306)/database?name=value.
	mysqlDSN = regexp.MustCompile(`^(?:[^/]*@)?[a-z]+\([^)]*\)/`)
	// keywordDSN is libpq's form: host=… dbname=… password=….
	keywordDSN = regexp.MustCompile(`^\s*(?:[a-z_]+\s*=\s*(?:'(?:[^'\\]|\\.)*'|\S*)\s*)+$`)
	// showable are an address and a name that can't hold part of a password.
	showable = regexp.MustCompile(`^[A-Za-z0-9._\-:\[\]]*$`)
)

// fromDSN says, of what drivers take as a data source's name, which URL it would
// be; "" where a text isn't one. User and password are not shown.
func fromDSN(raw string) string {
	if file, ok := strings.CutPrefix(raw, "file:"); ok {
		path, _, _ := strings.Cut(file, "?")
		if !regexp.MustCompile(`^[A-Za-z0-9._/\-]+$`).MatchString(path) {
			path = "path"
		}
		return looksLike("SQLite's driver", "sqlite:"+path+", with its parameters behind a ?")
	}
	bare := raw
	for _, scheme := range []string{"mysql://", "mariadb://"} {
		bare = strings.TrimPrefix(bare, scheme)
	}
	if mysqlDSN.MatchString(bare) {
		address, name := "host:3306", "database"
		if config, err := mysql.ParseDSN(bare); err == nil && config.Net == "tcp" {
			address, name = config.Addr, config.DBName
		}
		return looksLike("go-sql-driver/mysql", addressed("mysql", address, name))
	}
	if keywordDSN.MatchString(raw) {
		address, name := "host:5432", "database"
		if config, err := pgx.ParseConfig(raw); err == nil && !strings.HasPrefix(config.Host, "/") {
			address = net.JoinHostPort(config.Host, strconv.FormatUint(uint64(config.Port), 10))
			name = config.Database
		}
		return looksLike("PostgreSQL's drivers", addressed("postgres", address, name))
	}
	return ""
}

func looksLike(driver, as string) string {
	return fmt.Sprintf("it looks like the data source name (DSN) that %s takes, and a URL is needed: write %s", driver, as)
}

func addressed(scheme, address, name string) string {
	if !showable.MatchString(address) || !showable.MatchString(name) {
		address, name = "host:port", "database"
	}
	return scheme + "://user:password@" + address + "/" + name +
		", with special characters in user and password percent-encoded"
}
