package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"
)

// ReadOutbox reads the rows of a partition with an id above after, in order: at
// most limit, and no further row once their payloads exceed maxBytes. It is no
// part of any transaction.
func (s *Store) ReadOutbox(
	ctx context.Context, partition Partition, after int64, limit, maxBytes int,
) ([]OutboxRow, error) {
	query := s.dialect.rebind("SELECT id, message_id, destination, topic, message_key, sequence, payload, payload IS NULL, " +
		"metadata, attempts, last_error, parked_id, " + s.dialect.outboxCreated() + " FROM " + s.names.outbox +
		" WHERE service = ? AND partition_no = ? AND id > ? ORDER BY id LIMIT ?")
	var read []OutboxRow
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		rows, err := conn.QueryContext(ctx, query, partition.Service, partition.Number, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for size := 0; size <= maxBytes && rows.Next(); {
			row, err := scanOutboxRow(rows)
			if err != nil {
				return err
			}
			row.Service, row.Partition = partition.Service, partition.Number
			size += len(row.Payload)
			read = append(read, row)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("store: read outbox: %w", err)
	}
	return read, nil
}

// outboxCreated reads when a row was written, in microseconds since 1970, or NULL
// where foreign SQL wrote something that is no time and got past the table's
// constraints: Postgres' infinity, MySQL's 0000-00-00, text on SQLite.
func (d Dialect) outboxCreated() string {
	switch d {
	case MySQL:
		return d.micros("created_at") // NULL by itself
	case SQLite:
		return "CASE typeof(created_at) WHEN 'integer' THEN created_at END"
	case Postgres:
	}
	return "CASE WHEN created_at >= '1970-01-01 00:00:00+00' AND created_at < '10000-01-01 00:00:00+00' THEN " +
		d.micros("created_at") + " END"
}

// number is a column that holds an integer, NULL, or, on SQLite, whatever
// foreign SQL put there.
type number struct {
	sql.NullInt64

	odd bool
}

// Scan never fails: one odd row must not hide the others.
func (n *number) Scan(v any) error {
	n.odd = n.NullInt64.Scan(v) != nil
	if n.odd {
		n.NullInt64 = sql.NullInt64{}
	}
	return nil
}

func scanOutboxRow(rows *sql.Rows) (OutboxRow, error) {
	var (
		row                         OutboxRow
		key, lastError              sql.NullString
		sequence, attempts, created number
		parked                      number
		metadata                    []byte
		noPayload                   bool
	)
	err := rows.Scan(&row.ID, &row.MessageID, &row.Destination, &row.Topic, &key, &sequence, &row.Payload, &noPayload,
		&metadata, &attempts, &lastError, &parked, &created)
	if err != nil {
		return OutboxRow{}, err
	}
	row.Key, row.LastError = key.String, lastError.String
	row.Sequence, row.Attempts = sequence.Int64, int(attempts.Int64)
	if row.Payload == nil && !noPayload { // SQLite's driver returns an empty value as nil
		row.Payload = []byte{}
	}
	row.Parked, row.Released = max(parked.Int64, 0), max(-parked.Int64, 0)
	if created.Valid {
		row.CreatedAt = timeFromMicros(created.Int64)
	}
	if sequence.odd {
		row.Problem = fmt.Errorf("%w: sequence of message %q is no integer", ErrContent, Identity(row.MessageID))
	} else {
		row.Problem = checkOutboxRow(row)
	}
	if err := json.Unmarshal(metadata, &row.Metadata); err != nil {
		row.Metadata = nil
		row.Problem = fmt.Errorf("%w: metadata of message %q is not a JSON object of strings: %w",
			ErrContent, Identity(row.MessageID), err)
	} else if row.Metadata == nil { // JSON's null
		row.Metadata = map[string]string{}
	}
	return row, nil
}

// checkOutboxRow says why a row can't be stored or sent, its metadata and its
// lengths apart.
func checkOutboxRow(row OutboxRow) error {
	for _, field := range [...]struct {
		what, value string
		needed      bool
	}{
		{"id", row.MessageID, true},
		{"service", row.Service, false},
		{"topic", row.Topic, true},
		{"destination", row.Destination, true},
		{"key", row.Key, false},
	} {
		if err := checkText(row, field.what, field.value); err != nil {
			return err
		}
		if field.needed && field.value == "" {
			return fmt.Errorf("%w: %s of message %q is empty", ErrContent, field.what, Identity(row.MessageID))
		}
	}
	if row.Sequence < 0 {
		return fmt.Errorf("%w: sequence of message %q is %d: it begins at 1, and 0 is none",
			ErrContent, Identity(row.MessageID), row.Sequence)
	}
	return nil
}

func checkText(row OutboxRow, what, v string) error {
	if utf8.ValidString(v) && !strings.ContainsRune(v, 0) {
		return nil
	}
	return fmt.Errorf("%w: %s of message %q is not UTF-8 or holds a NUL: put it in the payload, or encode it",
		ErrContent, what, Identity(row.MessageID))
}
