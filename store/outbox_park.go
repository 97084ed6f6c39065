package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/headrace-go/headrace/msgmeta"
)

// ErrOutboxGone says that a parked message of the outbox is no longer there:
// somebody has removed it by hand. It can be discarded.
var ErrOutboxGone = errors.New("its row in the outbox is gone")

// ParkOutbox parks a message where it is, in the outbox: it isn't sent, nor is what
// comes after it in its line, until a person releases or discards it. why says what
// it has failed with (Class to History); the rest is the row's. One that was released
// and has failed again is the same parked message as before. parked is false when
// the lease was taken by somebody else, or the row is gone.
func (s *Store) ParkOutbox(ctx context.Context, lease Lease, row OutboxRow, why ParkedRow) (parked bool, err error) {
	why.Origin, why.Status, why.Consumer, why.Line, why.InboxID = OriginOutbox, StatusParked, row.Service, "", ""
	why.MessageID, why.Key, why.Topic, why.Destination = row.MessageID, row.Key, row.Topic, row.Destination
	why.Payload, why.Metadata, why.Attempts = row.Payload, row.Metadata, row.Attempts+1
	why.OutboxPartition, why.OutboxRow = Partition{row.Service, row.Partition}, row.ID
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		parked = false
		fenced, err := s.fence(ctx, tx, map[int]Lease{row.Partition: lease})
		if err != nil || !fenced[row.Partition] {
			return err
		}
		id, err := s.parkAgain(ctx, tx, row.Released, why)
		if err != nil {
			return err
		}
		if id == 0 {
			values, err := s.parkedValues(ctx, why)
			if err != nil {
				return err
			}
			if id, err = s.insertParked(ctx, tx, why, values); err != nil {
				return err
			}
		}
		n, err := affected(tx.ExecContext(ctx, "UPDATE "+s.names.outbox+
			" SET parked_id = ?, attempts = attempts + 1, last_error = ?"+
			" WHERE service = ? AND partition_no = ? AND id = ? AND (parked_id IS NULL OR parked_id <= 0)",
			id, plainText(why.Reason, maxError), row.Service, row.Partition, row.ID))
		if err == nil && n == 0 {
			return errRowGone
		}
		parked = err == nil
		return err
	})
	if errors.Is(err, errRowGone) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: park message %q of the outbox: %w", Identity(row.MessageID), err)
	}
	return parked, nil
}

// errRowGone rolls back what was written for a row that isn't there.
var errRowGone = errors.New("the row is gone or parked already")

// parkAgain returns the id of a message that was released, which is parked once
// more, or 0.
func (s *Store) parkAgain(ctx context.Context, tx Tx, released int64, why ParkedRow) (int64, error) {
	if released == 0 {
		return 0, nil
	}
	before, err := s.readParked(ctx, " WHERE id = ?"+s.dialect.forUpdate(), released)
	if err != nil || len(before) == 0 {
		return 0, err
	}
	why.History = append(before[0].History, why.History...)
	failure, err := failureValues(why)
	if err != nil {
		return 0, err
	}
	n, err := affected(tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET status = 'parked', class = ?, reason = ?, "+
		"error_type = ?, error_group = ?, error_title = ?, chain = ?, history = ?, attempts = ?, decided_by = '', updated_at = "+
		s.dialect.now()+" WHERE id = ? AND status = 'released'", append(failure, why.Attempts, released)...))
	if err != nil || n == 0 {
		return 0, err
	}
	return released, nil
}

// unpark lets a message of the outbox be sent that was released, as it was edited to
// if it was. Its line goes on behind it.
func (s *Store) unpark(ctx context.Context, tx Tx, row ParkedRow) error {
	set, args := "parked_id = ?", []any{-row.ID}
	if row.Edits > 0 {
		if row.Problem != nil {
			return row.Problem
		}
		edited := keepNumber(row)
		metadata, err := encodeMetadata(OutboxRow{
			MessageID: row.MessageID, Service: row.OutboxPartition.Service, Topic: row.Topic, Destination: row.Destination,
			Key: row.Key, Metadata: edited,
		})
		if err != nil {
			return err
		}
		set += ", payload = ?, metadata = ?"
		args = append(args, nullBytes(row.EditedPayload), metadata)
	}
	p := row.OutboxPartition
	n, err := affected(tx.ExecContext(ctx, "UPDATE "+s.names.outbox+" SET "+set+
		" WHERE service = ? AND partition_no = ? AND id = ? AND parked_id = ?",
		append(args, p.Service, p.Number, row.OutboxRow, row.ID)...))
	if err == nil && n == 0 {
		err = ErrOutboxGone
	}
	if err != nil {
		return err
	}
	return s.afterCommitOf(ctx, tx, func() { s.WakeOutbox(p) })
}

// keepNumber returns what a message's metadata was edited to, with the number that it has.
func keepNumber(row ParkedRow) map[string]string {
	number, numbered, err := msgmeta.GetNumber(&message.Message{Metadata: row.Metadata})
	if err != nil || !numbered {
		return row.EditedMetadata
	}
	edited := message.Message{Metadata: maps.Clone(row.EditedMetadata)}
	msgmeta.SetNumber(&edited, number)
	return edited.Metadata
}

// removeParked removes a message from the outbox that was discarded. Its line goes on
// without it; of one that has a number consumers are told not to wait for it.
func (s *Store) removeParked(ctx context.Context, tx Tx, row ParkedRow) error {
	p := row.OutboxPartition
	const where = " WHERE service = ? AND partition_no = ? AND id = ? AND parked_id = ?"
	at := []any{p.Service, p.Number, row.OutboxRow, row.ID}
	var numbered []struct {
		MessageID string `db:"message_id"`
		Metadata  []byte `db:"metadata"`
	}
	err := tx.SelectContext(ctx, &numbered, "SELECT message_id, metadata FROM "+s.names.outbox+where+
		" AND sequence IS NOT NULL", at...)
	if err != nil {
		return err
	}
	query, args := "DELETE FROM "+s.names.outbox, at
	if len(numbered) == 1 {
		id, metadata, err := skipMarker(numbered[0].MessageID, numbered[0].Metadata)
		if err != nil {
			return err
		}
		query = "UPDATE " + s.names.outbox + " SET message_id = ?, payload = ?, metadata = ?, attempts = 0, parked_id = NULL"
		args = append([]any{id, []byte{}, metadata}, at...)
	}
	if _, err := tx.ExecContext(ctx, query+where, args...); err != nil {
		return err
	}
	return s.afterCommitOf(ctx, tx, func() { s.WakeOutbox(p) })
}

// skipMarker is what is sent in place of a message that had a number. It has an id of its
// own: the message may have reached the broker all the same.
func skipMarker(id string, metadata []byte) (markerID, encoded string, err error) {
	var had map[string]string
	if err := json.Unmarshal(metadata, &had); err != nil {
		return "", "", err
	}
	number, _, err := msgmeta.GetNumber(&message.Message{Metadata: had})
	if err != nil {
		return "", "", err
	}
	marker := message.Message{Metadata: message.Metadata{}}
	msgmeta.SetNumber(&marker, number)
	msgmeta.SetSkip(&marker)
	text, err := json.Marshal(marker.Metadata)
	if markerID = id + ".skip"; len(markerID) > maxOutboxID {
		markerID = Identity(markerID)
	}
	return markerID, string(text), err
}

// ConfirmReleased is ConfirmOutbox for one row that was parked and released: its
// parked message is done.
func (s *Store) ConfirmReleased(ctx context.Context, lease Lease, row OutboxRow) (removed bool, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		removed = false
		fenced, err := s.fence(ctx, tx, map[int]Lease{row.Partition: lease})
		if err != nil || !fenced[row.Partition] {
			return err
		}
		now := s.dialect.now()
		_, err = tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET status = 'done', finished_at = "+now+", updated_at = "+now+
			" WHERE id = ? AND status = 'released'", row.Released)
		if err != nil {
			return err
		}
		n, err := affected(tx.ExecContext(ctx, "DELETE FROM "+s.names.outbox+" WHERE service = ? AND partition_no = ? AND id = ?",
			row.Service, row.Partition, row.ID))
		removed = n > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store: confirm released message %q: %w", Identity(row.MessageID), err)
	}
	return removed, nil
}

// StillParked returns which of a partition's rows are parked.
func (s *Store) StillParked(ctx context.Context, partition Partition, ids []int64) (still map[int64]bool, err error) {
	still = make(map[int64]bool, len(ids))
	for some := range slices.Chunk(ids, insertChunk) {
		query, args, err := sqlx.In("SELECT id FROM "+s.names.outbox+
			" WHERE service = ? AND partition_no = ? AND id IN (?) AND parked_id > 0", partition.Service, partition.Number, some)
		if err != nil {
			return nil, err
		}
		var found []int64
		err = s.withConn(ctx, func(conn *sqlx.Conn) error {
			return conn.SelectContext(ctx, &found, s.dialect.rebind(query), args...)
		})
		if err != nil {
			return nil, fmt.Errorf("store: look for parked rows of the outbox: %w", err)
		}
		for _, id := range found {
			still[id] = true
		}
	}
	return still, nil
}

// ParkedInOutbox says what of a service is parked in the outbox, and what waits.
type ParkedInOutbox struct {
	// Parked counts the messages that are, Behind those that wait behind one of them.
	Parked, Behind int64
	// Left counts the rest, which can be sent.
	Left int64
}

// CountParkedInOutbox reads all rows of a service, and those of keys of which a
// message is parked twice.
func (s *Store) CountParkedInOutbox(ctx context.Context, service string) (count ParkedInOutbox, err error) {
	const line = "partition_no, destination, topic, message_key"
	outbox := s.names.outbox
	query := s.dialect.rebind("SELECT count(*) AS everything, " +
		"coalesce(sum(CASE WHEN parked_id > 0 THEN 1 ELSE 0 END), 0) AS parked, " +
		"(SELECT count(*) FROM " + outbox + " o JOIN (SELECT " + line + ", min(id) AS first FROM " + outbox +
		" WHERE service = ? AND parked_id > 0 AND message_key <> '' GROUP BY " + line + ") p " +
		"ON p.partition_no = o.partition_no AND p.destination = o.destination AND p.topic = o.topic " +
		"AND p.message_key = o.message_key " +
		"WHERE o.service = ? AND o.id > p.first AND (o.parked_id IS NULL OR o.parked_id <= 0)) AS behind " +
		"FROM " + outbox + " WHERE service = ?")
	var row struct {
		Everything int64 `db:"everything"`
		Parked     int64 `db:"parked"`
		Behind     int64 `db:"behind"`
	}
	err = s.withConn(ctx, func(conn *sqlx.Conn) error { return conn.GetContext(ctx, &row, query, service, service, service) })
	if err != nil {
		return ParkedInOutbox{}, fmt.Errorf("store: count what is parked in the outbox: %w", err)
	}
	return ParkedInOutbox{Parked: row.Parked, Behind: row.Behind, Left: row.Everything - row.Parked - row.Behind}, nil
}

// affected is how many rows a statement found.
func affected(res sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
