package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// OutboxPartitions is how many shards the outbox has. It is part of the schema:
// a row's partition is written with it. 16 lets as many forwarders share the
// work, and one forwarder read them all without many round trips.
const OutboxPartitions = 16

// OutboxRow is a message on its way out.
type OutboxRow struct {
	// ID orders the rows of a key; set by the database.
	ID int64
	// Partition is derived from the key, or from the message id where there is
	// none; set by InsertOutbox.
	Partition   int
	MessageID   string
	Destination string
	Topic       string
	// Key is empty for a message without one.
	Key string
	// Sequence is 0 for a message without one.
	Sequence int64
	// Payload is kept byte for byte; nil and empty stay apart.
	Payload  []byte
	Metadata map[string]string
	// Attempts counts failed publishes, LastError says why the last one failed.
	Attempts  int
	LastError string
	CreatedAt time.Time
}

// outboxPartition spreads keys over the partitions.
func outboxPartition(row OutboxRow) int {
	about := row.Key
	if about == "" {
		about = row.MessageID
	}
	return int(xxhash.Sum64String(about) % OutboxPartitions) //nolint:gosec // below 16
}

// insertChunk keeps a statement below Postgres' limit of 65,535 parameters with
// room to spare, and below SQLite's 32,766.
const insertChunk = 500

// InsertOutbox writes rows in the order given into the context's unit of work,
// whose commit wakes the process's forwarders. Errors match ErrContent when a
// row's metadata or key is not UTF-8 or holds a NUL, which no database column
// and few brokers can carry; then none of its chunk is written.
func (s *Store) InsertOutbox(ctx context.Context, tx Tx, rows []OutboxRow) error {
	var partitions []int
	for i := range rows {
		rows[i].Partition = outboxPartition(rows[i])
		partitions = append(partitions, rows[i].Partition)
	}
	for len(rows) > 0 {
		n := min(len(rows), insertChunk)
		if err := s.insertOutbox(ctx, tx, rows[:n]); err != nil {
			return fmt.Errorf("store: write to outbox: %w", err)
		}
		rows = rows[n:]
	}
	return AfterCommit(ctx, func() { s.WakeOutbox(partitions...) })
}

func (s *Store) insertOutbox(ctx context.Context, tx Tx, rows []OutboxRow) error {
	const columns = "partition_no, message_id, destination, topic, message_key, sequence, payload, metadata"
	values := make([]string, len(rows))
	args := make([]any, 0, len(rows)*8)
	for i, row := range rows {
		metadata, err := encodeMetadata(row)
		if err != nil {
			return err
		}
		values[i] = "(?, ?, ?, ?, ?, ?, ?, ?)"
		args = append(args, row.Partition, row.MessageID, row.Destination, row.Topic, nullString(row.Key),
			sql.NullInt64{Int64: row.Sequence, Valid: row.Sequence != 0}, nullBytes(row.Payload), metadata)
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO "+s.names.outbox+" ("+columns+") VALUES "+strings.Join(values, ", "), args...)
	return err
}

func encodeMetadata(row OutboxRow) (string, error) {
	check := func(what, v string) error {
		if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%w: %s of message %q is not UTF-8 or holds a NUL: put it in the payload, or encode it",
				ErrContent, what, Identity(row.MessageID))
		}
		return nil
	}
	for _, field := range [...][2]string{
		{"id", row.MessageID}, {"topic", row.Topic}, {"key", row.Key}, {"destination", row.Destination},
	} {
		if err := check(field[0], field[1]); err != nil {
			return "", err
		}
	}
	for name, value := range row.Metadata {
		if err := check("a metadata name", name); err != nil {
			return "", err
		}
		if err := check("metadata entry "+strconv.Quote(name), value); err != nil {
			return "", err
		}
	}
	if row.Metadata == nil {
		return "{}", nil
	}
	encoded, err := json.Marshal(row.Metadata)
	return string(encoded), err
}

// ReadOutbox reads the rows of a partition with an id above after, in order: at
// most limit, and no further row once their payloads exceed maxBytes. It is no
// part of any transaction.
func (s *Store) ReadOutbox(ctx context.Context, partition int, after int64, limit, maxBytes int) ([]OutboxRow, error) {
	query := s.dialect.rebind("SELECT id, message_id, destination, topic, message_key, sequence, payload, metadata, " +
		"attempts, last_error, " + s.dialect.micros("created_at") + " FROM " + s.names.outbox +
		" WHERE partition_no = ? AND id > ? ORDER BY id LIMIT ?")
	rows, err := s.db.QueryContext(ctx, query, partition, after, limit)
	if err != nil {
		return nil, fmt.Errorf("store: read outbox: %w", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err is looked at
	var read []OutboxRow
	for size := 0; size <= maxBytes && rows.Next(); {
		row, err := scanOutboxRow(rows)
		if err != nil {
			return nil, fmt.Errorf("store: read outbox: %w", err)
		}
		row.Partition = partition
		size += len(row.Payload)
		read = append(read, row)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("store: read outbox: %w", err)
	}
	return read, nil
}

func scanOutboxRow(rows *sql.Rows) (OutboxRow, error) {
	var (
		row             OutboxRow
		key, lastError  sql.NullString
		sequence        sql.NullInt64
		metadata        []byte
		createdAtMicros int64
	)
	err := rows.Scan(&row.ID, &row.MessageID, &row.Destination, &row.Topic, &key, &sequence, &row.Payload, &metadata,
		&row.Attempts, &lastError, &createdAtMicros)
	if err != nil {
		return OutboxRow{}, err
	}
	row.Key, row.LastError, row.Sequence = key.String, lastError.String, sequence.Int64
	row.CreatedAt = timeFromMicros(createdAtMicros)
	if err := json.Unmarshal(metadata, &row.Metadata); err != nil {
		// Written by foreign SQL. The relay reports the row and goes on.
		row.Metadata = nil
		row.LastError = "metadata is not a JSON object of strings: " + err.Error()
	}
	return row, nil
}

// WaitingPartitions returns the partitions that have any row, in one cheap query.
func (s *Store) WaitingPartitions(ctx context.Context) ([]int, error) {
	// Every term reads the one row of meta, because databases disagree on how a
	// SELECT without a table is written.
	terms := make([]string, OutboxPartitions)
	for p := range terms {
		terms[p] = fmt.Sprintf("SELECT %d AS p FROM %s WHERE name = 'min_program' AND EXISTS "+
			"(SELECT 1 FROM %s WHERE partition_no = %d)", p, s.names.meta, s.names.outbox, p)
	}
	var waiting []int
	if err := s.db.SelectContext(ctx, &waiting, strings.Join(terms, " UNION ALL ")); err != nil {
		return nil, fmt.Errorf("store: look for waiting partitions: %w", err)
	}
	return waiting, nil
}

// ConfirmOutbox removes rows that their broker has taken, provided that the
// lease still has its owner and epoch. It returns how many were removed; fewer
// than given means that the lease or the rows were taken by somebody else.
//
// The statement spells its numbers out instead of binding them: each batch would
// otherwise leave a prepared statement of its own on the connection.
func (s *Store) ConfirmOutbox(ctx context.Context, lease Lease, partition int, ids []int64) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	if !plainName(lease.Name) || !plainName(lease.Owner) {
		return 0, fmt.Errorf("store: confirm outbox: lease %q of %q has a name with odd characters", lease.Name, lease.Owner)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "DELETE FROM %s WHERE partition_no = %d AND id IN (", s.names.outbox, partition)
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	fmt.Fprintf(&b, ") AND EXISTS (SELECT 1 FROM %s WHERE name = '%s' AND owner = '%s' AND epoch = %d)",
		s.names.leases, lease.Name, lease.Owner, lease.Epoch)
	res, err := s.autocommit(ctx, b.String())
	if err != nil {
		return 0, fmt.Errorf("store: confirm outbox: %w", err)
	}
	n, err := res.RowsAffected()
	return n, err
}

// FailOutbox records a failed publish. The text is cut at 2,000 bytes.
func (s *Store) FailOutbox(ctx context.Context, partition int, id int64, cause error) error {
	text := strings.ToValidUTF8(strings.ReplaceAll(cause.Error(), "\x00", ""), "�")
	if len(text) > 2000 {
		text = strings.ToValidUTF8(text[:2000], "")
	}
	query := s.dialect.rebind("UPDATE " + s.names.outbox +
		" SET attempts = attempts + 1, last_error = ? WHERE partition_no = ? AND id = ?")
	if _, err := s.autocommit(ctx, query, text, partition, id); err != nil {
		return fmt.Errorf("store: record failed publish: %w", err)
	}
	return nil
}

// autocommit runs one statement in a transaction of its own. On SQLite it waits
// for its turn as the writer.
func (s *Store) autocommit(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := s.lockWriter(ctx); err != nil {
		return nil, err
	}
	defer s.unlockWriter()
	return s.db.ExecContext(ctx, query, args...)
}

func plainName(name string) bool {
	for _, r := range name {
		if r > 0x7e || r < 0x21 || r == '\'' || r == '\\' {
			return false
		}
	}
	return true
}

// OutboxCount says what waits in the outbox for one topic of one destination.
type OutboxCount struct {
	Destination string `db:"destination" json:"destination"`
	Topic       string `db:"topic" json:"topic"`
	Unsent      int64  `db:"unsent" json:"unsent"`
	// Failing counts the rows that a publish has already failed for.
	Failing int64 `db:"failing" json:"failing"`
	// OldestAge is how long the oldest row has been waiting, by the database's
	// clock.
	OldestAge time.Duration `db:"-" json:"oldest_age"`
	// LastError is one of the failing rows' errors.
	LastError string `db:"last_error" json:"last_error,omitempty"`
	AgeMicros int64  `db:"age_us" json:"-"`
}

// CountOutbox says what waits in the outbox. It reads the whole table.
func (s *Store) CountOutbox(ctx context.Context) ([]OutboxCount, error) {
	var counts []OutboxCount
	age := s.dialect.micros(s.dialect.now()) + " - min(" + s.dialect.micros("created_at") + ")"
	err := s.db.SelectContext(ctx, &counts, "SELECT destination, topic, count(*) AS unsent, "+
		"sum(CASE WHEN attempts > 0 THEN 1 ELSE 0 END) AS failing, coalesce(max(last_error), '') AS last_error, "+age+
		" AS age_us FROM "+s.names.outbox+" GROUP BY destination, topic ORDER BY destination, topic")
	if err != nil {
		return nil, fmt.Errorf("store: count outbox: %w", err)
	}
	for i := range counts {
		counts[i].OldestAge = time.Duration(counts[i].AgeMicros) * time.Microsecond
	}
	return counts, nil
}
