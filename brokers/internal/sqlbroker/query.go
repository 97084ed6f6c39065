package sqlbroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// QueryBool runs a query of at most one row and column; no row is false.
func QueryBool(ctx context.Context, q sqljoin.Statements, query string, args ...any) (value bool, err error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()

	for rows.Next() {
		if err := rows.Scan(&value); err != nil {
			return false, fmt.Errorf("read: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("read: %w", err)
	}

	return value, nil
}
