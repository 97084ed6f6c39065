package store

import (
	"context"
	"database/sql"
	"strings"

	"github.com/jmoiron/sqlx"
)

// execIn runs a statement whose last "?" stands for a list.
func (s *Store) execIn(ctx context.Context, tx Tx, query string, args ...any) (sql.Result, error) {
	query, args, err := sqlx.In(query, args...)
	if err != nil {
		return nil, err
	}
	return tx.ExecContext(ctx, query, args...)
}

func nullString(v string) any {
	if v == "" {
		return nil
	}
	return v
}

// reasonValue is a reason as it is stored.
func reasonValue(reason string) any { return nullString(plainText(reason, maxReason)) }

// nullBytes keeps nil apart from empty, which some drivers don't.
func nullBytes(v []byte) any {
	if v == nil {
		return nil
	}
	return v
}

// maxReason and maxError bound texts that explain something, in bytes.
const (
	maxReason = 2000
	maxError  = 2000
)

// plainText makes a text storable in any database: UTF-8, without NUL, bounded.
func plainText(s string, limit int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}
