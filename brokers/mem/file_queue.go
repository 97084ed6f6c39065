package mem

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

func (q *fileQueue) publish(ctx context.Context, topic string, msgs []stored) error {
	return q.writer.do(ctx, "publish", true, func(tx fileTx) error {
		for _, msg := range msgs {
			metadata, err := encodeMetadata(msg.metadata)
			if err != nil {
				return err
			}
			var id int64
			if err := tx.scan("INSERT INTO messages (topic, uuid, key, payload, metadata) VALUES (?, ?, ?, ?, ?) RETURNING id",
				topic, []byte(msg.uuid), keyColumn(msg.key), msg.payload, metadata).Scan(&id); err != nil {
				return err
			}
			if _, err := tx.exec(`INSERT INTO deliveries (topic, grp, id, key, head)
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
	return q.writer.do(ctx, "join", true, func(tx fileTx) error {
		added, err := tx.exec("INSERT INTO groups (topic, grp) VALUES (?, ?) ON CONFLICT DO NOTHING", topic, group)
		if err != nil || added == 0 {
			return err
		}
		if _, err := tx.exec(`INSERT INTO deliveries (topic, grp, id, key, head)
			SELECT topic, ?, id, key, key IS NULL OR id = MIN(id) OVER (PARTITION BY key)
			FROM messages WHERE topic = ?`, group, topic); err != nil {
			return err
		}

		return forgetSpent(tx, topic) // the new group needs them all
	})
}

// claim leaves next at 0: the queue is polled anyhow, for what other processes
// publish.
func (q *fileQueue) claim(ctx context.Context, topic, group string, limit int) ([]claim, time.Duration, error) {
	// Most polls find nothing, and must not take the write lock to learn that.
	var some bool
	err := q.reader.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM deliveries
		WHERE topic = ? AND grp = ? AND head = 1 AND ready_at <= ?)`, topic, group, millis(0)).Scan(&some)
	if err != nil {
		return nil, 0, fmt.Errorf("look for messages: %w", err)
	}
	if !some {
		return nil, 0, nil
	}

	var claims []claim
	token := uuid.NewString()
	err = q.writer.do(ctx, "claim", false, func(tx fileTx) (err error) {
		if claims, err = tx.claimable(topic, group, limit); err != nil {
			return err
		}
		for i, c := range claims {
			claims[i].token = token
			if _, err := tx.exec(`UPDATE deliveries SET ready_at = ?, claim = ?, attempts = ?
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

// claimable reads the heads that are within reach, oldest first.
func (t fileTx) claimable(topic, group string, limit int) (claims []claim, err error) {
	rows, err := t.tx.QueryContext(t.ctx, `SELECT d.id, d.attempts + 1, m.uuid, d.key, m.payload IS NULL, m.payload, m.metadata
		FROM deliveries d JOIN messages m ON m.id = d.id
		WHERE d.topic = ? AND d.grp = ? AND d.head = 1 AND d.ready_at <= ? ORDER BY d.id LIMIT ?`,
		topic, group, millis(0), limit)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()

	for rows.Next() {
		c, err := scanClaim(rows)
		if err != nil {
			return nil, err
		}
		claims = append(claims, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}

	return claims, nil
}

func scanClaim(rows *sql.Rows) (c claim, err error) {
	var (
		id, key, metadata, payload []byte
		isNil                      bool
	)
	if err := rows.Scan(&c.id, &c.attempt, &id, &key, &isNil, &payload, &metadata); err != nil {
		return c, fmt.Errorf("read a message: %w", err)
	}
	if c.metadata, err = decodeMetadata(metadata); err != nil {
		return c, fmt.Errorf("message %d: %w", c.id, err)
	}
	c.uuid, c.key = string(id), string(key)
	if !isNil { // the driver returns nil for an empty one too
		c.payload = append([]byte{}, payload...)
	}

	return c, nil
}

func (q *fileQueue) extend(ctx context.Context, topic, group string, claims []claim) error {
	return q.writer.do(ctx, "extend claims", false, func(tx fileTx) error {
		for _, c := range claims {
			if _, err := tx.exec(`UPDATE deliveries SET ready_at = ?
				WHERE topic = ? AND grp = ? AND id = ? AND claim = ?`,
				millis(q.ackDeadline), topic, group, c.id, c.token); err != nil {
				return err
			}
		}

		return nil
	})
}

func (q *fileQueue) ack(ctx context.Context, topic, group string, c claim) error {
	return q.writer.do(ctx, "ack", false, func(tx fileTx) error {
		gone, err := tx.exec("DELETE FROM deliveries WHERE topic = ? AND grp = ? AND id = ? AND claim = ?",
			topic, group, c.id, c.token)
		if err != nil || gone == 0 {
			return err
		}
		if c.key != "" {
			if _, err := tx.exec(`UPDATE deliveries SET head = 1 WHERE topic = ?1 AND grp = ?2 AND id = (
				SELECT MIN(id) FROM deliveries WHERE topic = ?1 AND grp = ?2 AND key = ?3)`,
				topic, group, []byte(c.key)); err != nil {
				return err
			}
		}

		return q.spend(tx, topic, c.id)
	})
}

func (q *fileQueue) giveBack(ctx context.Context, topic, group string, c claim, delay time.Duration, tried bool) error {
	attempts := c.attempt
	if !tried {
		attempts--
	}

	return q.writer.do(ctx, "give back", false, func(tx fileTx) error {
		_, err := tx.exec(`UPDATE deliveries SET ready_at = ?, claim = NULL, attempts = ?
			WHERE topic = ? AND grp = ? AND id = ? AND claim = ?`,
			millis(delay), attempts, topic, group, c.id, c.token)

		return err
	})
}

func (q *fileQueue) backlog(ctx context.Context, topic, group string) (n int64, err error) {
	err = q.reader.QueryRowContext(ctx, `SELECT CASE WHEN EXISTS (SELECT 1 FROM groups WHERE topic = ?1 AND grp = ?2)
		THEN (SELECT COUNT(*) FROM deliveries WHERE topic = ?1 AND grp = ?2)
		ELSE (SELECT COUNT(*) FROM messages WHERE topic = ?1) END`, topic, group).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the backlog of %q: %w", topic, err)
	}

	return n, nil
}

func (q *fileQueue) remove(ctx context.Context, topic string) error {
	return q.writer.do(ctx, "delete a topic", true, func(tx fileTx) error {
		for _, table := range []string{"deliveries", "groups", "spent", "spent_totals", "messages"} {
			if _, err := tx.exec("DELETE FROM "+table+" WHERE topic = ?", topic); err != nil {
				return err
			}
		}

		return nil
	})
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
	encoded, err := json.Marshal(pairs)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}

	return encoded, nil
}

func decodeMetadata(encoded []byte) (map[string]string, error) {
	var pairs [][2][]byte
	if err := json.Unmarshal(encoded, &pairs); err != nil {
		return nil, fmt.Errorf("decode metadata: %w", err)
	}
	metadata := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		metadata[string(pair[0])] = string(pair[1])
	}

	return metadata, nil
}
