// Package warehouse is the stock service's own code: its tables, its SQL and its
// message handlers. It is written as if Headrace did not exist, and imports
// nothing of it: what it is given as database and publisher decides whether it
// is protected.
package warehouse

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Warehouse keeps stock, order lines and recommendations.
type Warehouse struct {
	db        *sql.DB
	publisher message.Publisher
	followUps string
	numbered  bool
}

// Config is what a Warehouse works with.
type Config struct {
	DB *sql.DB
	// Numbered: the database's placeholders are $1, $2, and not question marks.
	Numbered bool
	// Publisher sends the follow-ups, to the topic FollowUps.
	Publisher message.Publisher
	FollowUps string
}

// New returns a warehouse on tables that CreateTables has made.
func New(cfg Config) *Warehouse {
	return &Warehouse{db: cfg.DB, publisher: cfg.Publisher, followUps: cfg.FollowUps, numbered: cfg.Numbered}
}

// exec runs a statement and returns how many rows it found.
func (w *Warehouse) exec(ctx context.Context, query string, args ...any) (rows int64, err error) {
	result, err := w.db.ExecContext(ctx, w.placeholders(query), args...)
	if err != nil {
		return 0, fmt.Errorf("warehouse: %s: %w", verb(query), err)
	}
	if rows, err = result.RowsAffected(); err != nil {
		return 0, fmt.Errorf("warehouse: %s: %w", verb(query), err)
	}
	return rows, nil
}

// placeholders exists only because this example runs on three databases.
func (w *Warehouse) placeholders(query string) string {
	if !w.numbered {
		return query
	}
	parts := strings.Split(query, "?")
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

// verb is what a statement does and to which table, for errors.
func verb(query string) string {
	words := strings.Fields(query)
	return strings.Join(words[:min(3, len(words))], " ")
}
