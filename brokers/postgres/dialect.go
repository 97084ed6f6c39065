package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/sqlbroker"
	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// dialect implements sqlbroker.Dialect.
type dialect struct{ schema string }

// table returns a table's quoted name.
func (d dialect) table(name string) string {
	if d.schema == "" {
		return pgx.Identifier{name}.Sanitize()
	}

	return pgx.Identifier{d.schema, name}.Sanitize()
}

func (d dialect) Schema(t sqlbroker.Tables) wsql.SchemaAdapter {
	return schemaAdapter{
		DefaultPostgreSQLSchema: wsql.DefaultPostgreSQLSchema{
			GenerateMessagesTableName: func(string) string { return d.table(t.Messages) },
		},
		dialect: d,
		tables:  t,
	}
}

// schemaAdapter is watermill-sql's own but for the type of metadata and the way
// of reading.
//
// It reads at READ COMMITTED (sqljoin), because the claim comes first: at
// watermill-sql's REPEATABLE READ what follows would see the state from before
// it, and a handler that joins would fail for good at the first concurrent
// change.
type schemaAdapter struct {
	wsql.DefaultPostgreSQLSchema

	dialect dialect
	tables  sqlbroker.Tables
}

// SelectQuery reads one message: a batch would be read, and lost or repeated, in
// one transaction. It doesn't lock the group's row, as watermill-sql's does:
// that takes a transaction id, and see the package's comment on what a handler
// with one does to everybody else. Claim locks instead.
func (a schemaAdapter) SelectQuery(params wsql.SelectQueryParams) (wsql.Query, error) {
	return wsql.Query{
		Query: `SELECT "offset", transaction_id, uuid, payload, metadata FROM ` + a.dialect.table(a.tables.Messages) +
			` WHERE ` + a.dialect.unread(a.tables) + ` ORDER BY transaction_id, "offset" LIMIT 1`,
		Args: []any{params.ConsumerGroup},
	}, nil
}

// InsertQuery passes metadata as text, which the column is.
func (a schemaAdapter) InsertQuery(params wsql.InsertQueryParams) (wsql.Query, error) {
	query, err := a.DefaultPostgreSQLSchema.InsertQuery(params)
	for i, arg := range query.Args {
		const columns, metadata = 3, 2 // uuid, payload, metadata
		if text, ok := arg.([]byte); ok && i%columns == metadata {
			query.Args[i] = string(text)
		}
	}

	if err != nil {
		return query, fmt.Errorf("encode messages: %w", err)
	}

	return query, nil
}

func (d dialect) Offsets(t sqlbroker.Tables) wsql.OffsetsAdapter {
	return offsetsAdapter{wsql.DefaultPostgreSQLOffsetsAdapter{
		GenerateMessagesOffsetsTableName: func(string) string { return d.table(t.Offsets) },
	}}
}

type offsetsAdapter struct {
	wsql.DefaultPostgreSQLOffsetsAdapter
}

// BeforeSubscribingQueries has nothing left to do: AddGroup has done it.
func (offsetsAdapter) BeforeSubscribingQueries(wsql.BeforeSubscribingQueriesParams) ([]wsql.Query, error) {
	return nil, nil
}

func (d dialect) Create(ctx context.Context, db *sql.DB, t sqlbroker.Tables) error {
	messages, offsets := d.table(t.Messages), d.table(t.Offsets)
	var exist bool
	err := db.QueryRowContext(ctx,
		"SELECT to_regclass($1) IS NOT NULL AND to_regclass($2) IS NOT NULL", messages, offsets).Scan(&exist)
	if err != nil {
		return fmt.Errorf("look for the tables: %w", err)
	}
	if exist {
		return nil
	}

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	for _, statement := range []string{
		// CREATE TABLE IF NOT EXISTS of two sessions at once fails in one.
		"SELECT pg_advisory_xact_lock(hashtextextended('headrace create', 0))",
		`CREATE TABLE IF NOT EXISTS ` + messages + ` (
			"offset" BIGSERIAL,
			uuid TEXT NOT NULL,
			created_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
			payload BYTEA,
			metadata TEXT,
			transaction_id XID8 NOT NULL,
			PRIMARY KEY (transaction_id, "offset")
		)`,
		`CREATE TABLE IF NOT EXISTS ` + offsets + ` (
			consumer_group TEXT PRIMARY KEY,
			offset_acked BIGINT NOT NULL,
			last_processed_transaction_id XID8 NOT NULL
		)`,
		fmt.Sprintf("COMMENT ON TABLE %s IS %s", messages, quote("messages of topic "+t.Topic)),
		fmt.Sprintf("COMMENT ON TABLE %s IS %s", offsets, quote("how far groups have read topic "+t.Topic)),
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}

	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}

	return nil
}

func (d dialect) Drop(ctx context.Context, db *sql.DB, t sqlbroker.Tables) error {
	if _, err := db.ExecContext(ctx, "DROP TABLE IF EXISTS "+d.table(t.Messages)+", "+d.table(t.Offsets)); err != nil {
		return fmt.Errorf("drop its tables: %w", err)
	}

	return nil
}

// quote makes a literal; it is for names that were checked to hold no NUL.
func quote(text string) string {
	return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

func (d dialect) AddGroup(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) error {
	_, err := db.ExecContext(ctx, `INSERT INTO `+d.table(t.Offsets)+`
		(consumer_group, offset_acked, last_processed_transaction_id) VALUES ($1, 0, '0')
		ON CONFLICT (consumer_group) DO NOTHING`, group)
	if err != nil {
		return fmt.Errorf("insert the group: %w", err)
	}

	return nil
}

func (d dialect) HasGroup(ctx context.Context, q sqljoin.Statements, t sqlbroker.Tables, group string) (bool, error) {
	return sqlbroker.QueryBool(ctx, q,
		`SELECT EXISTS (SELECT 1 FROM `+d.table(t.Offsets)+` WHERE consumer_group = $1)`, group)
}

// unread is the condition under which a message is still to be read by group $1
// and nothing older can come after it. A comparison of rows, unlike
// watermill-sql's OR, is one range of the primary key: reading costs the same
// whatever the backlog.
func (d dialect) unread(t sqlbroker.Tables) string {
	offsets := d.table(t.Offsets)

	return `(transaction_id, "offset") > (
			(SELECT last_processed_transaction_id FROM ` + offsets + ` WHERE consumer_group = $1),
			(SELECT offset_acked FROM ` + offsets + ` WHERE consumer_group = $1))
		AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())`
}

func (d dialect) Peek(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) (found bool, err error) {
	err = db.QueryRowContext(ctx,
		`SELECT EXISTS (SELECT 1 FROM `+d.table(t.Messages)+` WHERE `+d.unread(t)+`
			ORDER BY transaction_id, "offset" LIMIT 1)`, group).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("query: %w", err)
	}

	return found, nil
}

// Claim takes an advisory lock, which needs no transaction id and ends with the
// transaction, behind a transaction pooler too. The table's oid is part of its
// name, because the schema may come from the search_path.
func (d dialect) Claim(ctx context.Context, q sqljoin.Statements, t sqlbroker.Tables, group string) (bool, error) {
	return sqlbroker.QueryBool(ctx, q,
		"SELECT pg_try_advisory_xact_lock(hashtextextended('headrace read ' || $1, to_regclass($2)::oid::bigint))",
		group, d.table(t.Offsets))
}

// OrderPublish has nothing to do: readers go by transaction and wait for older
// ones.
func (dialect) OrderPublish(context.Context, *sql.Tx, sqlbroker.Tables) error { return nil }

const undefinedTable = "42P01"

func (d dialect) Backlog(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) (n int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+d.table(t.Messages)+` m
		WHERE NOT EXISTS (SELECT 1 FROM `+d.table(t.Offsets)+` o WHERE o.consumer_group = $1
			AND (m.transaction_id, m."offset") <= (o.last_processed_transaction_id, o.offset_acked))`,
		group).Scan(&n)
	var missing *pgconn.PgError
	if errors.As(err, &missing) && missing.Code == undefinedTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count the backlog of topic %q: %w", t.Topic, err)
	}

	return n, nil
}

// Refuse refuses NUL in the UUID, which is text here. In metadata it is escaped.
func (dialect) Refuse(msg *message.Message) error {
	if strings.ContainsRune(msg.UUID, 0) {
		return fmt.Errorf("%w: it holds a NUL", brokers.ErrBadUUID)
	}

	return nil
}
