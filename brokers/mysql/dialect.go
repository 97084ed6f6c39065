package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/internal/sqlbroker"
	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// dialect implements sqlbroker.Dialect.
type dialect struct{}

// topics has one row per topic, which publishers lock, and tells people which
// table holds which topic.
const topics = "headrace_broker_topics"

func (dialect) Schema(t sqlbroker.Tables) wsql.SchemaAdapter {
	return wsql.DefaultMySQLSchema{
		GenerateMessagesTableName: func(string) string { return t.Messages },
		SubscribeBatchSize:        1, // a batch would be read, and lost or repeated, in one transaction
	}
}

func (dialect) Offsets(t sqlbroker.Tables) wsql.OffsetsAdapter {
	return offsetsAdapter{wsql.DefaultMySQLOffsetsAdapter{
		GenerateMessagesOffsetsTableName: func(string) string { return t.Offsets },
	}}
}

type offsetsAdapter struct {
	wsql.DefaultMySQLOffsetsAdapter
}

// NextOffsetQuery reads what Claim has locked.
func (a offsetsAdapter) NextOffsetQuery(params wsql.NextOffsetQueryParams) (wsql.Query, error) {
	return wsql.Query{
		Query: `SELECT offset_acked FROM ` + a.MessagesOffsetsTable(params.Topic) + ` WHERE consumer_group = ?`,
		Args:  []any{params.ConsumerGroup},
	}, nil
}

func (a offsetsAdapter) AckMessageQuery(params wsql.AckMessageQueryParams) (wsql.Query, error) {
	return wsql.Query{
		Query: `UPDATE ` + a.MessagesOffsetsTable(params.Topic) + ` SET offset_acked = ? WHERE consumer_group = ?`,
		Args:  []any{params.LastRow.Offset, params.ConsumerGroup},
	}, nil
}

// ConsumedMessageQuery is watermill-sql's way to notice a second reader, of whom
// Claim leaves none.
func (offsetsAdapter) ConsumedMessageQuery(wsql.ConsumedMessageQueryParams) (wsql.Query, error) {
	return wsql.Query{}, nil
}

func (dialect) Create(ctx context.Context, db *sql.DB, t sqlbroker.Tables) error {
	// Names, ids and contents are bytes: under a text collation "ABC" and "abc "
	// would be one group, and JSON columns rewrite what they are given.
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS ` + topics + ` (
			slug VARBINARY(64) PRIMARY KEY,
			topic VARBINARY(255) NOT NULL
		) ENGINE = InnoDB`,
		`CREATE TABLE IF NOT EXISTS ` + t.Messages + ` (
			` + "`offset`" + ` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
			uuid VARBINARY(` + strconv.Itoa(maxUUID) + `) NOT NULL,
			created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
			payload LONGBLOB,
			metadata LONGBLOB
		) ENGINE = InnoDB`,
		`CREATE TABLE IF NOT EXISTS ` + t.Offsets + ` (
			consumer_group VARBINARY(255) PRIMARY KEY,
			offset_acked BIGINT NOT NULL
		) ENGINE = InnoDB`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("create table: %w", err)
		}
	}
	_, err := db.ExecContext(ctx,
		`INSERT INTO `+topics+` (slug, topic) VALUES (?, ?) ON DUPLICATE KEY UPDATE slug = slug`, t.Slug, t.Topic)
	if err != nil {
		return fmt.Errorf("register topic: %w", err)
	}

	return nil
}

func (dialect) Drop(ctx context.Context, db *sql.DB, t sqlbroker.Tables) error {
	_, err := db.ExecContext(ctx, "DROP TABLE IF EXISTS "+t.Messages+", "+t.Offsets)
	if err == nil {
		_, err = db.ExecContext(ctx, "DELETE FROM "+topics+" WHERE slug = ?", t.Slug)
	}
	var missing *mysql.MySQLError
	if errors.As(err, &missing) && missing.Number == errNoTable {
		return nil // no topic was ever made
	}
	if err != nil {
		return fmt.Errorf("drop its tables: %w", err)
	}

	return nil
}

// AddGroup looks for the group first, because the INSERT would wait for a handler at
// work. So that nobody's handler is at work between the two, one process does this at a
// time.
func (dialect) AddGroup(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) (err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close() //nolint:errcheck // it goes back to the pool
	const lock = "CONCAT('headrace/', SHA1(CONCAT(DATABASE(), '/', ?)))"
	var locked sql.NullBool
	if err := conn.QueryRowContext(ctx, "SELECT GET_LOCK("+lock+", 30)", t.Offsets).Scan(&locked); err != nil {
		return fmt.Errorf("wait for others that add a group: %w", err)
	}
	if !locked.Bool {
		return errors.New("others add groups to the topic for too long")
	}
	defer func() { // the lock is the connection's, which others use afterwards
		_, unlock := conn.ExecContext(context.WithoutCancel(ctx), "DO RELEASE_LOCK("+lock+")", t.Offsets)
		err = errors.Join(err, unlock)
	}()
	var known bool
	err = conn.QueryRowContext(ctx,
		`SELECT EXISTS (SELECT 1 FROM `+t.Offsets+` WHERE consumer_group = ?)`, group).Scan(&known)
	if err != nil {
		return fmt.Errorf("look for the group: %w", err)
	}
	if known {
		return nil
	}
	_, err = conn.ExecContext(ctx, `INSERT INTO `+t.Offsets+` (consumer_group, offset_acked) VALUES (?, 0)
		ON DUPLICATE KEY UPDATE consumer_group = consumer_group`, group)
	if err != nil {
		return fmt.Errorf("insert the group: %w", err)
	}

	return nil
}

func (dialect) HasGroup(ctx context.Context, q sqljoin.Statements, t sqlbroker.Tables, group string) (bool, error) {
	return sqlbroker.QueryBool(ctx, q, `SELECT EXISTS (SELECT 1 FROM `+t.Offsets+` WHERE consumer_group = ?)`, group)
}

func (dialect) Peek(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) (found bool, err error) {
	err = db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+t.Messages+" WHERE `offset` > "+
		"(SELECT offset_acked FROM "+t.Offsets+" WHERE consumer_group = ?))", group).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("query: %w", err)
	}

	return found, nil
}

// Claim locks the group's row.
func (dialect) Claim(ctx context.Context, q sqljoin.Statements, t sqlbroker.Tables, group string) (bool, error) {
	return sqlbroker.QueryBool(ctx, q,
		`SELECT TRUE FROM `+t.Offsets+` WHERE consumer_group = ? FOR UPDATE SKIP LOCKED`, group)
}

// OrderPublish makes publishers of a topic commit one after the other.
func (dialect) OrderPublish(ctx context.Context, tx *sql.Tx, t sqlbroker.Tables) error {
	var one int
	err := tx.QueryRowContext(ctx, `SELECT 1 FROM `+topics+` WHERE slug = ? FOR UPDATE`, t.Slug).Scan(&one)
	if err != nil {
		return fmt.Errorf("lock topic %q: %w", t.Topic, err)
	}

	return nil
}

const errNoTable = 1146

func (dialect) Backlog(ctx context.Context, db *sql.DB, t sqlbroker.Tables, group string) (n int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+t.Messages+" WHERE `offset` > "+
		"COALESCE((SELECT offset_acked FROM "+t.Offsets+" WHERE consumer_group = ?), 0)", group).Scan(&n)
	var missing *mysql.MySQLError
	if errors.As(err, &missing) && missing.Number == errNoTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count the backlog of topic %q: %w", t.Topic, err)
	}

	return n, nil
}

// maxUUID is the width of the column; a server that isn't strict would cut what
// is longer, and take two messages for one.
const maxUUID = 1024

func (dialect) Refuse(msg *message.Message) error {
	if len(msg.UUID) > maxUUID {
		return fmt.Errorf("%w: it has %d bytes and the limit is %d", brokers.ErrBadUUID, len(msg.UUID), maxUUID)
	}
	size := 0
	for name, value := range msg.Metadata {
		size += len(name) + len(value)
	}
	if size > maxMetadata {
		return fmt.Errorf("%w: it has %d bytes and the limit is %d", brokers.ErrMetadata, size, maxMetadata)
	}

	return nil
}
