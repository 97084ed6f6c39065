package mem

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/headrace-go/headrace/brokers"
)

//go:embed file.sql
var fileSchema string

// fileVersion is kept in the file's user_version.
const fileVersion = 1

// busyTimeout is how long a transaction waits for another process's.
const busyTimeout = 10 * time.Second

// fileQueue is the queue of all processes that share a SQLite file.
//
// A claim is a time until which a delivery is out of reach (ready_at) and a
// token that ack and give-back must show. The oldest delivery of each key, and
// every one without a key, is marked as head: only heads are claimed, so a
// backlog of one key costs the others nothing.
type fileQueue struct {
	settings

	writer *fileWriter
	reader *sql.DB
	owner  *ownership
}

func openFileQueue(ctx context.Context, set settings) (*fileQueue, error) {
	// SQLite's own message for this names neither the path nor the cause.
	if dir := filepath.Dir(set.file); !isDir(dir) {
		return nil, brokers.Hopeless(fmt.Errorf("the directory %q of file= does not exist", dir))
	}

	q := &fileQueue{
		settings: set,
		//nolint:contextcheck // the writer lives as long as the queue, not as its opening
		writer: newFileWriter(openSQLite(set.file, set.sync, 0), openSQLite(set.file, syncNormal, 0)),
		reader: openSQLite(set.file, syncNormal, busyTimeout),
	}
	if err := q.prepare(ctx); err != nil {
		err = errors.Join(err, q.close())
		if !busy(err) {
			err = brokers.Hopeless(err)
		}

		return nil, fmt.Errorf("open %q: %w", set.file, err)
	}

	return q, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)

	return err == nil && info.IsDir()
}

func openSQLite(path, synchronous string, wait time.Duration) *sql.DB {
	pragmas := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", wait.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(" + strings.ToUpper(synchronous) + ")",
	}}
	db := sql.OpenDB(sqliteConnector{dsn: "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + pragmas.Encode()})
	db.SetMaxOpenConns(1)

	return db
}

func (q *fileQueue) prepare(ctx context.Context) error {
	err := q.writer.do(ctx, "create the queue's tables", true, func(tx fileTx) error {
		var version int
		if err := tx.scan("PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		switch {
		case version > fileVersion:
			return fmt.Errorf("the file was made by a newer version of Headrace (format %d, this one knows %d)",
				version, fileVersion)
		case version == fileVersion:
			return nil
		}
		if _, err := tx.exec(fileSchema); err != nil {
			return err
		}
		_, err := tx.exec(fmt.Sprintf("PRAGMA user_version = %d", fileVersion))

		return err
	})
	if err != nil {
		return err
	}

	q.owner, err = own(ctx, q.file, func() error {
		return q.writer.do(ctx, "free the claims of dead processes", false, func(tx fileTx) error {
			_, err := tx.exec("UPDATE deliveries SET claim = NULL, ready_at = 0 WHERE claim IS NOT NULL")

			return err
		})
	})

	return err
}

func (q *fileQueue) close() error {
	err := errors.Join(q.writer.close(), q.owner.close(), q.reader.Close())
	if err != nil {
		return fmt.Errorf("close %q: %w", q.file, err)
	}

	return nil
}

// busy reports that another process holds the file's lock for the moment.
func busy(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff // the primary code of an extended one

	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
