package conformance

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver of the database that is used where the harness has none

	"github.com/headrace-go/headrace/store"
)

// connections is the most that a service of the suite opens to its database.
const connections = 8

// database is where a service keeps its effects, and Headrace its tables. All of
// them begin with a prefix of their own, and are removed at the end.
type database struct {
	db      *sql.DB
	store   *store.Store
	prefix  string
	effects string // the service's own table
	remove  func() error
}

// openDatabase opens a service's database and makes the tables.
func (t *Trial) openDatabase() *database {
	d := &database{remove: func() error { return nil }}
	err := t.call("open a database", func() error { return t.prepare(d) })
	if err != nil {
		t.Unknownf("open a database for the composition: %v", err)
	}

	return d
}

func (t *Trial) prepare(d *database) (err error) {
	open := t.Harness.Database
	if open == nil {
		open = d.file
	}
	if d.db, err = open(t.ctx); err != nil {
		return err
	}
	if d.db == nil {
		return errors.New("the harness returned none")
	}
	if d.db.Stats().MaxOpenConnections == 0 {
		d.db.SetMaxOpenConns(connections)
	}
	dialect, err := store.DetectDialect(t.ctx, d.db)
	if err != nil {
		return fmt.Errorf("which kind it is: %w", err)
	}
	name := uniqueName("conf")
	d.prefix, d.effects = name+"_hr_", name+"_effects"
	d.store, err = store.Open(t.ctx, d.db, store.Config{Dialect: dialect, Prefix: d.prefix, Migrate: true})
	if err != nil {
		return fmt.Errorf("make Headrace's tables: %w", err)
	}
	sequence := map[store.Dialect]string{
		store.Postgres: "BIGSERIAL PRIMARY KEY",
		store.MySQL:    "BIGINT AUTO_INCREMENT PRIMARY KEY",
		store.SQLite:   "INTEGER PRIMARY KEY AUTOINCREMENT",
	}[dialect]
	// Nothing in the table forbids a double: what is done twice is there twice.
	_, err = d.db.ExecContext(t.ctx, fmt.Sprintf(
		"CREATE TABLE %s (seq %s, hop BIGINT NOT NULL, start_no BIGINT NOT NULL)", d.effects, sequence))
	if err != nil {
		return fmt.Errorf("make the table of effects: %w", err)
	}

	return nil
}

// file opens the database where the harness has none.
func (d *database) file(context.Context) (db *sql.DB, err error) {
	db, remove, err := openFile()
	if err == nil {
		d.remove = remove
	}

	return db, err
}

// openFile opens a database in a file, and returns how to remove it when it is
// closed. It needs no sync: the program doesn't outlive what it tries.
func openFile() (db *sql.DB, remove func() error, err error) {
	folder, err := os.MkdirTemp("", "headrace-conformance-")
	if err != nil {
		return nil, nil, fmt.Errorf("a folder for it: %w", err)
	}
	address := url.URL{Scheme: "file", Opaque: url.PathEscape(filepath.Join(folder, "effects.db")), RawQuery: url.Values{
		"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(OFF)"},
	}.Encode()}
	if db, err = sql.Open("sqlite", address.String()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("SQLite: %w", err), os.RemoveAll(folder))
	}

	return db, func() error { return os.RemoveAll(folder) }, nil
}

// close removes the tables.
func (d *database) close(ctx context.Context, bound time.Duration) error {
	if d.db == nil {
		return d.remove()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	var errs []error
	if d.store != nil {
		_, err := d.db.ExecContext(ctx, "DROP TABLE IF EXISTS "+d.effects)
		errs = append(errs, err, d.takeBack(ctx), d.store.Close())
	}

	return errors.Join(append(errs, d.db.Close(), d.remove())...)
}

// takeBack removes Headrace's tables.
func (d *database) takeBack(ctx context.Context) error {
	migrator := d.store.Migrator()
	migrations, err := migrator.Status(ctx)
	if err != nil {
		return fmt.Errorf("list the migrations: %w", err)
	}
	for range migrations {
		if err := migrator.Down(ctx); err != nil {
			return fmt.Errorf("remove Headrace's tables: %w", err)
		}
	}

	return nil
}

// effect is one handling of a message that a service's database knows of.
type effect struct{ hop, start int }

// ledger returns all effects, in the order in which they were written.
func (d *database) ledger(ctx context.Context) (effects []effect, err error) {
	rows, err := d.db.QueryContext(ctx, "SELECT hop, start_no FROM "+d.effects+" ORDER BY seq")
	if err != nil {
		return nil, fmt.Errorf("read the effects: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var e effect
		if err := rows.Scan(&e.hop, &e.start); err != nil {
			return nil, fmt.Errorf("read an effect: %w", err)
		}
		effects = append(effects, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the effects: %w", err)
	}

	return effects, nil
}

// remembered counts what the inbox remembers as handled, of all consumers.
func (d *database) remembered(ctx context.Context) (n int, err error) {
	counts, err := d.store.CountInbox(ctx)
	for _, c := range counts {
		if c.Verdict == store.Applied {
			n += int(c.Count)
		}
	}

	return n, err
}

// unsent counts what is left in the outbox.
func (d *database) unsent(ctx context.Context) (n int, err error) {
	counts, err := d.store.CountOutbox(ctx)
	for _, c := range counts {
		n += int(c.Unsent)
	}

	return n, err
}
