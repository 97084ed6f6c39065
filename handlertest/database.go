package handlertest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/headrace-go/headrace/store"
)

// connections is how many are in use at once, and kept between runs.
const connections = 8

// environment is what all runs of a case share.
type environment struct {
	c      Case
	db     *sql.DB
	store  *store.Store
	prefix string
	// kept are the tables that are not emptied.
	kept map[string]bool
	free []func() error
}

func open(ctx context.Context, c Case) (_ *environment, err error) {
	e := &environment{c: c, db: c.DB, kept: map[string]bool{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if e.db == nil {
		if err := e.openSQLite(); err != nil {
			return nil, err
		}
	}
	if e.c.Store.Dialect == "" {
		if e.c.Store.Dialect, err = store.DetectDialect(ctx, e.db); err != nil {
			return nil, fmt.Errorf("handlertest: %w", err)
		}
	}
	if e.c.Store.Dialect == store.SQLite && e.c.Store.ConnTimeout == 0 {
		e.c.Store.ConnTimeout = lockTimeout // there it is the wait for the one writer
	}
	if e.prefix = e.c.Store.Prefix; e.prefix == "" {
		e.prefix = store.DefaultPrefix
	}
	e.db.SetMaxIdleConns(connections)
	if err := e.schema(ctx, false); err != nil {
		return nil, err
	}
	migrating := e.c.Store
	migrating.Migrate = true
	if e.store, err = store.Open(ctx, e.db, migrating); err != nil {
		return nil, fmt.Errorf("handlertest: %w", err)
	}
	e.free = append(e.free, e.store.Close)
	tables, err := e.tables(ctx)
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		var rows bool
		if err := e.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+table+")").Scan(&rows); err != nil {
			return nil, fmt.Errorf("handlertest: look into table %s: %w", table, err)
		}
		e.kept[table] = rows
	}
	// The next case on this database must not take what is left for rows to keep.
	e.free = append(e.free, func() error { return e.clear(context.WithoutCancel(ctx)) })
	return e, nil
}

// openSQLite makes a database of its own. It waits for no lock: that is done
// where it is known who holds it.
func (e *environment) openSQLite() error {
	dir, err := os.MkdirTemp("", "handlertest")
	if err != nil {
		return fmt.Errorf("handlertest: %w", err)
	}
	e.free = append(e.free, func() error { return os.RemoveAll(dir) })
	e.db, err = sql.Open("sqlite", filepath.Join(dir, "test.db")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(0)")
	if err != nil {
		return fmt.Errorf("handlertest: %w", err)
	}
	e.free = append(e.free, e.db.Close)
	return nil
}

func (e *environment) close() error {
	var err error
	for _, free := range slices.Backward(e.free) {
		err = errors.Join(err, free())
	}
	return err
}

// tables lists the tables of the database, quoted.
func (e *environment) tables(ctx context.Context) (tables []string, err error) {
	query := map[store.Dialect]string{
		store.Postgres: "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()",
		store.MySQL: "SELECT concat('`', table_name, '`') FROM information_schema.tables " +
			"WHERE table_schema = database() AND table_type = 'BASE TABLE'",
		store.SQLite: `SELECT '"' || name || '"' FROM sqlite_master WHERE type = 'table' ` +
			`AND (name NOT LIKE 'sqlite\_%' ESCAPE '\' OR name = 'sqlite_sequence')`,
	}[e.c.Store.Dialect]
	rows, err := e.db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("handlertest: list the tables: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, fmt.Errorf("handlertest: list the tables: %w", err)
		}
		tables = append(tables, table)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("handlertest: list the tables: %w", err)
	}
	return tables, nil
}

// schema executes the statements that make tables, or those that fill them.
func (e *environment) schema(ctx context.Context, inserts bool) error {
	for _, statement := range e.c.Schema {
		verb, _, _ := strings.Cut(strings.TrimSpace(statement), " ")
		if verb == "" || strings.EqualFold(verb, "INSERT") != inserts {
			continue
		}
		if _, err := e.db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("handlertest: Case.Schema: %w", err)
		}
	}
	return nil
}

// clear empties the tables.
func (e *environment) clear(ctx context.Context) error {
	tables, err := e.tables(ctx)
	if err != nil {
		return err
	}
	tables = slices.DeleteFunc(tables, func(table string) bool { return e.kept[table] })
	if err := e.empty(ctx, tables); err != nil {
		return fmt.Errorf("handlertest: empty the tables: %w", err)
	}
	return nil
}

// reset makes the database as it is before every run.
func (e *environment) reset(ctx context.Context) error {
	if err := e.clear(ctx); err != nil {
		return err
	}
	if err := e.schema(ctx, true); err != nil || e.c.Setup == nil {
		return err
	}
	if err := e.c.Setup(ctx, e.db); err != nil {
		return fmt.Errorf("handlertest: Case.Setup: %w", err)
	}
	return nil
}

func (e *environment) empty(ctx context.Context, tables []string) (err error) {
	if len(tables) == 0 {
		return nil
	}
	if e.c.Store.Dialect == store.Postgres {
		// TRUNCATE knows how to go about foreign keys, and takes ten times as long.
		_, err := e.db.ExecContext(ctx, "DELETE FROM "+strings.Join(tables, "; DELETE FROM "))
		if err != nil {
			_, err = e.db.ExecContext(ctx, "TRUNCATE "+strings.Join(tables, ", "))
		}
		return err
	}
	conn, err := e.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	statements := []string{"BEGIN IMMEDIATE"}
	if e.c.Store.Dialect == store.MySQL {
		statements = []string{"SET foreign_key_checks = 0", "START TRANSACTION"}
	}
	for _, table := range tables {
		statements = append(statements, "DELETE FROM "+table)
	}
	statements = append(statements, "COMMIT")
	if e.c.Store.Dialect == store.MySQL {
		statements = append(statements, "SET foreign_key_checks = 1")
	}
	for _, s := range statements {
		if _, err := conn.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// relay sends what the outbox holds, as the forwarder would have. One that stops
// before it has confirmed a message leaves all since the last confirmation to be
// sent again.
func (t *trial) relay() error {
	waiting, err := t.env.store.WaitingPartitions(t.ctx, "")
	if err != nil {
		return fmt.Errorf("handlertest: %w", err)
	}
	var rows []store.OutboxRow
	for _, partition := range waiting {
		read, err := t.env.store.ReadOutbox(t.ctx, partition, 0, math.MaxInt32, math.MaxInt32)
		if err != nil {
			return fmt.Errorf("handlertest: %w", err)
		}
		rows = append(rows, read...)
	}
	slices.SortFunc(rows, func(a, b store.OutboxRow) int { return int(a.ID - b.ID) })
	unconfirmed := 0
	for i, row := range rows {
		t.publishRow(row)
		if t.choose(choice{fault: resent}).fault == "" {
			continue
		}
		t.story.resent(rows[unconfirmed : i+1])
		for _, again := range rows[unconfirmed : i+1] {
			t.publishRow(again)
		}
		unconfirmed = i + 1
	}
	return nil
}

func (t *trial) publishRow(row store.OutboxRow) {
	msg := message.NewMessage(row.MessageID, row.Payload)
	msg.Metadata = maps.Clone(row.Metadata)
	t.reached(row.Topic, msg)
}
