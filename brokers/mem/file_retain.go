package mem

import (
	"database/sql"
	"errors"
)

// spend keeps a message that every group has acked for groups that come later,
// and drops the oldest of those beyond the bounds.
func (q *fileQueue) spend(tx fileTx, topic string, id int64) error {
	var wanted bool
	if err := tx.scan("SELECT EXISTS (SELECT 1 FROM deliveries WHERE id = ?)", id).Scan(&wanted); err != nil || wanted {
		return err
	}

	var bytes int
	err := tx.scan(`INSERT INTO spent (topic, id, bytes)
		SELECT topic, id, COALESCE(LENGTH(payload), 0) FROM messages WHERE id = ? RETURNING bytes`, id).Scan(&bytes)
	if err != nil {
		return err
	}

	var total retention
	err = tx.scan(`INSERT INTO spent_totals (topic, messages, bytes) VALUES (?, 1, ?)
		ON CONFLICT (topic) DO UPDATE SET messages = messages + 1, bytes = bytes + excluded.bytes
		RETURNING messages, bytes`, topic, bytes).Scan(&total.messages, &total.bytes)
	if err != nil {
		return err
	}

	return q.trim(tx, topic, total)
}

func (q *fileQueue) trim(tx fileTx, topic string, total retention) error {
	for total.messages > q.retain.messages || (total.bytes > q.retain.bytes && total.messages > 0) {
		var (
			id    int64
			bytes int
		)
		err := tx.scan(`DELETE FROM spent WHERE seq = (SELECT MIN(seq) FROM spent WHERE topic = ?)
			RETURNING id, bytes`, topic).Scan(&id, &bytes)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.exec("DELETE FROM messages WHERE id = ?", id); err != nil {
			return err
		}
		if _, err := tx.exec("UPDATE spent_totals SET messages = messages - 1, bytes = bytes - ? WHERE topic = ?",
			bytes, topic); err != nil {
			return err
		}
		total.messages--
		total.bytes -= bytes
	}

	return nil
}

func forgetSpent(tx fileTx, topic string) error {
	if _, err := tx.exec("DELETE FROM spent WHERE topic = ?", topic); err != nil {
		return err
	}
	_, err := tx.exec("DELETE FROM spent_totals WHERE topic = ?", topic)

	return err
}
