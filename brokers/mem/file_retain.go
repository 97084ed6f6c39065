package mem

import (
	"context"
	"database/sql"
	"errors"
)

// spend keeps a message that every group has acked for groups that come later,
// and drops the oldest of those beyond the bounds.
func (q *fileQueue) spend(ctx context.Context, tx *sql.Tx, topic string, id int64) error {
	var wanted bool
	if err := tx.QueryRowContext(ctx,
		"SELECT EXISTS (SELECT 1 FROM deliveries WHERE id = ?)", id).Scan(&wanted); err != nil || wanted {
		return err
	}

	var bytes int
	err := tx.QueryRowContext(ctx, `INSERT INTO spent (topic, id, bytes)
		SELECT topic, id, COALESCE(LENGTH(payload), 0) FROM messages WHERE id = ? RETURNING bytes`, id).Scan(&bytes)
	if err != nil {
		return err
	}

	var total retention
	err = tx.QueryRowContext(ctx, `INSERT INTO spent_totals (topic, messages, bytes) VALUES (?, 1, ?)
		ON CONFLICT (topic) DO UPDATE SET messages = messages + 1, bytes = bytes + excluded.bytes
		RETURNING messages, bytes`, topic, bytes).Scan(&total.messages, &total.bytes)
	if err != nil {
		return err
	}

	return q.trim(ctx, tx, topic, total)
}

func (q *fileQueue) trim(ctx context.Context, tx *sql.Tx, topic string, total retention) error {
	for total.messages > q.retain.messages || (total.bytes > q.retain.bytes && total.messages > 0) {
		var (
			id    int64
			bytes int
		)
		err := tx.QueryRowContext(ctx, `DELETE FROM spent WHERE seq = (SELECT MIN(seq) FROM spent WHERE topic = ?)
			RETURNING id, bytes`, topic).Scan(&id, &bytes)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM messages WHERE id = ?", id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE spent_totals SET messages = messages - 1, bytes = bytes - ? WHERE topic = ?",
			bytes, topic); err != nil {
			return err
		}
		total.messages--
		total.bytes -= bytes
	}

	return nil
}

func forgetSpent(ctx context.Context, tx *sql.Tx, topic string) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM spent WHERE topic = ?", topic); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM spent_totals WHERE topic = ?", topic)

	return err
}
