package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// DetectDialect asks the database what it is. It doesn't look at the driver,
// which may be wrapped (for tracing, say) or have any name.
//
// MariaDB is MySQL's dialect. A database that speaks one of the dialects under
// another name is not recognised: say Config.Dialect then.
func DetectDialect(ctx context.Context, db *sql.DB) (Dialect, error) {
	var version string
	err := db.QueryRowContext(ctx, "SELECT version()").Scan(&version)
	switch {
	case err != nil:
		// SQLite has no such function.
		if lite := db.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); lite == nil {
			return SQLite, nil
		}
		return "", fmt.Errorf("store: ask the database what it is: %w", err)
	case strings.HasPrefix(version, "PostgreSQL"):
		return Postgres, nil
	case version != "" && '0' <= version[0] && version[0] <= '9':
		return MySQL, nil // a bare number, with or without "-MariaDB"
	}
	return "", fmt.Errorf("store: the database calls itself %q, which is none of %v: set Config.Dialect", version, Dialects())
}
