package mem

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/headrace-go/headrace/brokers"
)

//go:embed file.sql
var fileSchema string

// fileVersion is kept in the file's user_version.
const fileVersion = 1

// busyTimeout is how long a statement waits for another process's transaction.
const busyTimeout = 10 * time.Second

// fileQueue is the queue of all processes that share a SQLite file.
//
// A claim is a time until which a delivery is out of reach (ready_at) and a
// token that ack and give-back must show. The oldest delivery of each key, and
// every one without a key, is marked as head: only heads are claimed, so a
// backlog of one key costs the others nothing.
type fileQueue struct {
	settings
	durable *sql.DB // commits survive a power cut: publish, join
	quick   *sql.DB // commits survive the death of the process: claims, acks
	owner   *ownership
	// writer is held across each write, because two connections of one process
	// would otherwise wait for each other by SQLite's sleeping and trying again.
	writer chan struct{}
}

func openFileQueue(ctx context.Context, set settings) (*fileQueue, error) {
	// SQLite's own message for this names neither the path nor the cause.
	if dir := filepath.Dir(set.file); !isDir(dir) {
		return nil, brokers.Hopeless(fmt.Errorf("the directory %q of file= does not exist", dir))
	}

	q := &fileQueue{settings: set, writer: make(chan struct{}, 1)}
	q.durable = openSQLite(set.file, strings.ToUpper(set.sync))
	q.quick = openSQLite(set.file, "NORMAL")
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

func openSQLite(path, synchronous string) *sql.DB {
	pragmas := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(" + synchronous + ")",
	}}
	db := sql.OpenDB(sqliteConnector{dsn: "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + pragmas.Encode()})
	db.SetMaxOpenConns(1)

	return db
}

func (q *fileQueue) prepare(ctx context.Context) error {
	err := q.write(ctx, q.durable, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		switch {
		case version > fileVersion:
			return fmt.Errorf("the file was made by a newer version of Headrace (%d, this one knows %d)", version, fileVersion)
		case version == fileVersion:
			return nil
		}
		if _, err := tx.ExecContext(ctx, fileSchema); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", fileVersion))

		return err
	})
	if err != nil {
		return err
	}

	q.owner, err = own(ctx, q.file, func() error {
		return q.write(ctx, q.quick, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE deliveries SET claim = NULL, ready_at = 0 WHERE claim IS NOT NULL")

			return err
		})
	})

	return err
}

// write runs fn in a transaction that holds the file's write lock from its
// beginning.
func (q *fileQueue) write(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx) error) error {
	select {
	case q.writer <- struct{}{}:
		defer func() { <-q.writer }()
	case <-ctx.Done():
		return ctx.Err()
	}

	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}

	return tx.Commit()
}

func (q *fileQueue) publish(ctx context.Context, topic string, msgs []stored) error {
	return q.write(ctx, q.durable, func(tx *sql.Tx) error {
		for _, msg := range msgs {
			metadata, err := encodeMetadata(msg.metadata)
			if err != nil {
				return err
			}
			added, err := tx.ExecContext(ctx,
				"INSERT INTO messages (topic, uuid, key, payload, metadata) VALUES (?, ?, ?, ?, ?)",
				topic, []byte(msg.uuid), keyColumn(msg.key), msg.payload, metadata)
			if err != nil {
				return err
			}
			id, err := added.LastInsertId()
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO deliveries (topic, grp, id, key, head)
				SELECT g.topic, g.grp, ?1, ?2, ?2 IS NULL OR NOT EXISTS (
					SELECT 1 FROM deliveries d WHERE d.topic = g.topic AND d.grp = g.grp AND d.key = ?2)
				FROM groups g WHERE g.topic = ?3`, id, keyColumn(msg.key), topic); err != nil {
				return err
			}
		}

		return nil
	})
}

func (q *fileQueue) join(ctx context.Context, topic, group string) error {
	return q.write(ctx, q.durable, func(tx *sql.Tx) error {
		added, err := tx.ExecContext(ctx,
			"INSERT INTO groups (topic, grp) VALUES (?, ?) ON CONFLICT DO NOTHING", topic, group)
		if err != nil {
			return err
		}
		if n, err := added.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO deliveries (topic, grp, id, key, head)
			SELECT topic, ?, id, key, key IS NULL OR id = MIN(id) OVER (PARTITION BY key)
			FROM messages WHERE topic = ?`, group, topic); err != nil {
			return err
		}

		return forgetSpent(ctx, tx, topic) // the new group needs them all
	})
}

func (q *fileQueue) claim(ctx context.Context, topic, group string, limit int) ([]claim, time.Duration, error) {
	// Most polls find nothing, and must not take the write lock to learn that.
	var any bool
	err := q.quick.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM deliveries
		WHERE topic = ? AND grp = ? AND head = 1 AND ready_at <= ?)`, topic, group, millis(0)).Scan(&any)
	if err != nil || !any {
		return nil, 0, err
	}

	var claims []claim
	token := uuid.NewString()
	err = q.write(ctx, q.quick, func(tx *sql.Tx) error {
		now := millis(0)
		rows, err := tx.QueryContext(ctx, `SELECT d.id, d.attempts + 1, m.uuid, d.key, m.payload IS NULL, m.payload, m.metadata
			FROM deliveries d JOIN messages m ON m.id = d.id
			WHERE d.topic = ? AND d.grp = ? AND d.head = 1 AND d.ready_at <= ? ORDER BY d.id LIMIT ?`,
			topic, group, now, limit)
		if err != nil {
			return err
		}
		if claims, err = scanClaims(rows, token); err != nil {
			return err
		}
		for _, c := range claims {
			if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET ready_at = ?, claim = ?, attempts = ?
				WHERE topic = ? AND grp = ? AND id = ?`,
				millis(q.ackDeadline), token, c.attempt, topic, group, c.id); err != nil {
				return err
			}
		}

		return nil
	})
	if err != nil {
		return nil, 0, err
	}

	return claims, 0, nil
}

func scanClaims(rows *sql.Rows, token string) (claims []claim, err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var (
			c                   = claim{token: token}
			id, key, meta, body []byte
			isNil               bool
		)
		if err := rows.Scan(&c.id, &c.attempt, &id, &key, &isNil, &body, &meta); err != nil {
			return nil, err
		}
		if c.metadata, err = decodeMetadata(meta); err != nil {
			return nil, fmt.Errorf("message %d: %w", c.id, err)
		}
		c.uuid, c.key = string(id), string(key)
		if !isNil {
			c.payload = append([]byte{}, body...)
		}
		claims = append(claims, c)
	}

	return claims, rows.Err()
}

func (q *fileQueue) extend(ctx context.Context, topic, group string, claims []claim) error {
	return q.write(ctx, q.quick, func(tx *sql.Tx) error {
		for _, c := range claims {
			if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET ready_at = ?
				WHERE topic = ? AND grp = ? AND id = ? AND claim = ?`,
				millis(q.ackDeadline), topic, group, c.id, c.token); err != nil {
				return err
			}
		}

		return nil
	})
}

func (q *fileQueue) ack(ctx context.Context, topic, group string, c claim) error {
	return q.write(ctx, q.quick, func(tx *sql.Tx) error {
		gone, err := tx.ExecContext(ctx, "DELETE FROM deliveries WHERE topic = ? AND grp = ? AND id = ? AND claim = ?",
			topic, group, c.id, c.token)
		if err != nil {
			return err
		}
		if n, err := gone.RowsAffected(); err != nil || n == 0 {
			return err
		}
		if c.key != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET head = 1 WHERE topic = ?1 AND grp = ?2 AND id = (
				SELECT MIN(id) FROM deliveries WHERE topic = ?1 AND grp = ?2 AND key = ?3)`,
				topic, group, []byte(c.key)); err != nil {
				return err
			}
		}

		return q.spend(ctx, tx, topic, c.id)
	})
}

func (q *fileQueue) giveBack(ctx context.Context, topic, group string, c claim, delay time.Duration, tried bool) error {
	attempts := c.attempt
	if !tried {
		attempts--
	}

	return q.write(ctx, q.quick, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE deliveries SET ready_at = ?, claim = NULL, attempts = ?
			WHERE topic = ? AND grp = ? AND id = ? AND claim = ?`,
			millis(delay), attempts, topic, group, c.id, c.token)

		return err
	})
}

func (q *fileQueue) backlog(ctx context.Context, topic, group string) (n int64, err error) {
	err = q.quick.QueryRowContext(ctx, `SELECT CASE WHEN EXISTS (SELECT 1 FROM groups WHERE topic = ?1 AND grp = ?2)
		THEN (SELECT COUNT(*) FROM deliveries WHERE topic = ?1 AND grp = ?2)
		ELSE (SELECT COUNT(*) FROM messages WHERE topic = ?1) END`, topic, group).Scan(&n)

	return n, err
}

func (q *fileQueue) close() error {
	return errors.Join(q.owner.close(), q.durable.Close(), q.quick.Close())
}

// millis is a time from now, in milliseconds since 1970: the processes that
// share a file share a clock.
func millis(fromNow time.Duration) int64 { return time.Now().Add(fromNow).UnixMilli() }

// keyColumn is NULL for messages without a key.
func keyColumn(key string) any {
	if key == "" {
		return nil
	}

	return []byte(key)
}

// encodeMetadata keeps bytes that are not UTF-8, which a JSON object would not.
func encodeMetadata(metadata map[string]string) ([]byte, error) {
	pairs := make([][2][]byte, 0, len(metadata))
	for name, value := range metadata {
		pairs = append(pairs, [2][]byte{[]byte(name), []byte(value)})
	}

	return json.Marshal(pairs)
}

func decodeMetadata(encoded []byte) (map[string]string, error) {
	var pairs [][2][]byte
	if err := json.Unmarshal(encoded, &pairs); err != nil {
		return nil, err
	}
	metadata := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		metadata[string(pair[0])] = string(pair[1])
	}

	return metadata, nil
}

// busy reports that another process holds the file's lock for the moment.
func busy(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff

	return code == sqlite3.SQLITE_BUSY || code == sqlite3.SQLITE_LOCKED
}
