package relay

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of both sides
)

// NewSchemaName returns a name for the schema of one run.
func NewSchemaName() string { return "bench_" + strings.ToLower(watermill.NewShortUUID()) }

// SchemaURL is the database's URL with a schema of one run as the default.
func (s Setting) SchemaURL(schema string) string {
	u, err := url.Parse(s.PostgresURL)
	if err != nil {
		return s.PostgresURL // opening it will say what is wrong
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

// CreateSchema makes the schema of one run.
func (s Setting) CreateSchema(ctx context.Context, schema string) error {
	return s.admin(ctx, `CREATE SCHEMA "`+schema+`"`)
}

// DropSchema removes it with all that is in it. A failure leaves it behind.
func (s Setting) DropSchema(ctx context.Context, schema string) {
	_ = s.admin(ctx, `DROP SCHEMA IF EXISTS "`+schema+`" CASCADE`)
}

func (s Setting) admin(ctx context.Context, statement string) error {
	db, err := sql.Open("pgx", s.PostgresURL)
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, statement)
	return errors.Join(err, db.Close())
}

// open makes a schema and connects to it.
func (s Setting) open(ctx context.Context, schema string) (*sql.DB, error) {
	if err := s.CreateSchema(ctx, schema); err != nil {
		return nil, err
	}
	return sql.Open("pgx", s.SchemaURL(schema))
}
