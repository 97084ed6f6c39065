package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/jmoiron/sqlx"
)

// OutboxPartitions is how many shards the outbox has. It is part of the schema:
// a row's partition is written with it. 16 lets as many forwarders share the
// work, and one forwarder read them all without many round trips.
const OutboxPartitions = 16

// Partition is a shard of a service's rows in the outbox.
type Partition struct {
	// Service whose rows they are; "" for rows that name none.
	Service string
	// Number is from 0 to OutboxPartitions-1.
	Number int
}

// OutboxRow is a message on its way out.
type OutboxRow struct {
	// ID orders the rows of a key; set by the database.
	ID int64
	// Service is whose relay sends it: services that share the tables have one
	// each.
	Service string
	// Partition is the number that is derived from the key, or from the message id
	// where there is none; set by InsertOutbox.
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
	// CreatedAt is zero where foreign SQL wrote something that is no time.
	CreatedAt time.Time
	// Parked is the id of the parked message that the row is: it isn't sent, nor is
	// what follows it in its line. Released is the same once a person has said that it
	// be sent again. 0 for none.
	Parked, Released int64
	// Problem says why a row that was written by foreign SQL can't be published
	// as it is. It matches ErrContent. What can't be read is then left out.
	Problem error
}

// outboxPartition spreads keys over the partitions.
func outboxPartition(row OutboxRow) int {
	about := row.Key
	if about == "" {
		about = row.MessageID
	}
	return int(xxhash.Sum64String(about) % OutboxPartitions)
}

// A statement carries at most insertChunk rows, which keeps it below the
// databases' limits on parameters (SQLite's 32,766 is the lowest), and no further
// row once it has insertBytes of payload, because of MySQL's max_allowed_packet.
const (
	insertChunk = 256
	insertBytes = 1 << 20
)

// InsertOutbox writes rows, and sets their Partition, in the order given. The
// commit of their unit of work wakes the process's forwarders.
//
// Errors match ErrContent when a row can't be stored as it is: its id, topic or
// destination is empty, its sequence negative, or one of them, its service, its
// key or its metadata is not UTF-8 or holds a NUL, which no database column and
// few brokers can carry, or is too long; then none is written. And when the database
// doesn't take so much.
func (s *Store) InsertOutbox(ctx context.Context, tx Tx, rows []OutboxRow) error {
	metadata := make([]string, len(rows))
	partitions := make([]Partition, len(rows))
	for i := range rows {
		var err error
		rows[i].Partition = outboxPartition(rows[i])
		partitions[i] = Partition{rows[i].Service, rows[i].Partition}
		if metadata[i], err = encodeMetadata(rows[i]); err != nil {
			return fmt.Errorf("store: write to outbox: %w", err)
		}
	}
	for len(rows) > 0 {
		n := chunk(rows)
		if err := s.insertOutbox(ctx, tx, rows[:n], metadata[:n]); err != nil {
			return fmt.Errorf("store: write to outbox: %w", err)
		}
		rows, metadata = rows[n:], metadata[n:]
	}
	return s.afterCommitOf(ctx, tx, func() { s.WakeOutbox(partitions...) })
}

// chunk returns how many rows the next statement takes. Above 16 it is a power of
// two, because each number of rows is a statement of its own in the driver's and
// the server's caches.
func chunk(rows []OutboxRow) int {
	n, size := 0, 0
	for n < min(len(rows), insertChunk) && size < insertBytes {
		size += len(rows[n].Payload)
		n++
	}
	if n > 16 {
		n = 1 << (bits.Len(uint(n)) - 1)
	}
	return n
}

func (s *Store) insertOutbox(ctx context.Context, tx Tx, rows []OutboxRow, metadata []string) error {
	const columns = "service, partition_no, message_id, destination, topic, message_key, sequence, payload, metadata"
	const values = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
	args := make([]any, 0, len(rows)*9)
	for i, row := range rows {
		args = append(args, row.Service, row.Partition, row.MessageID, row.Destination, row.Topic, nullString(row.Key),
			sql.NullInt64{Int64: row.Sequence, Valid: row.Sequence != 0}, nullBytes(row.Payload), metadata[i])
	}
	if err := s.fits(ctx, tx, args...); err != nil {
		return err
	}
	query := "INSERT INTO " + s.names.outbox + " (" + columns + ") VALUES " + values + strings.Repeat(", "+values, len(rows)-1)
	_, err := tx.ExecContext(ctx, query, args...)
	return s.content(err)
}

// What the columns of the narrowest database hold, in bytes.
const (
	maxOutboxID  = 1024
	maxOutboxKey = 65_535
	maxTopic     = 255
)

func encodeMetadata(row OutboxRow) (string, error) {
	if err := checkOutboxRow(row); err != nil {
		return "", err
	}
	for _, field := range [...]struct {
		what, value string
		limit       int
	}{
		{"id", row.MessageID, maxOutboxID},
		{"service", row.Service, MaxIdentity},
		{"topic", row.Topic, maxTopic},
		{"destination", row.Destination, maxTopic},
		{"key", row.Key, maxOutboxKey},
	} {
		if len(field.value) > field.limit {
			return "", fmt.Errorf("%w: %s of message %q has %d bytes, at most %d fit", ErrContent, field.what,
				Identity(row.MessageID), len(field.value), field.limit)
		}
	}
	for name, value := range row.Metadata {
		if err := checkText(row, "a metadata name", name); err != nil {
			return "", err
		}
		if err := checkText(row, "metadata entry "+strconv.Quote(name), value); err != nil {
			return "", err
		}
	}
	if len(row.Metadata) == 0 {
		return "{}", nil
	}
	encoded, err := json.Marshal(row.Metadata)
	return string(encoded), err
}

// WaitingPartitions returns a service's partitions that have any row, in one
// cheap query.
func (s *Store) WaitingPartitions(ctx context.Context, service string) ([]Partition, error) {
	// Every term reads the one row of meta, because databases disagree on how a
	// SELECT without a table is written.
	terms, args := make([]string, OutboxPartitions), make([]any, OutboxPartitions)
	for p := range terms {
		terms[p] = fmt.Sprintf("SELECT %d AS p FROM %s WHERE name = 'min_program' AND EXISTS "+
			"(SELECT 1 FROM %s WHERE service = ? AND partition_no = %d)", p, s.names.meta, s.names.outbox, p)
		args[p] = service
	}
	var numbers []int
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &numbers, s.dialect.rebind(strings.Join(terms, " UNION ALL ")), args...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: look for waiting partitions: %w", err)
	}
	waiting := make([]Partition, len(numbers))
	for i, n := range numbers {
		waiting[i] = Partition{service, n}
	}
	return waiting, nil
}

// ConfirmOutbox removes rows that their broker has taken, provided that the
// lease still has its owner and epoch. It returns how many were removed; fewer
// than given means that the lease or the rows were taken by somebody else.
//
// The statement spells everything out instead of binding it: each batch would
// otherwise leave a prepared statement of its own on the connection.
func (s *Store) ConfirmOutbox(ctx context.Context, lease Lease, partition Partition, ids []int64) (int64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	if err := checkLeaseNames(lease.Name, lease.Owner); err != nil {
		return 0, fmt.Errorf("store: confirm outbox: %w", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "DELETE FROM %s WHERE service = %s AND partition_no = %d AND id IN (",
		s.names.outbox, s.dialect.literal(partition.Service), partition.Number)
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	// The range says nothing new, but Postgres needs it: while its statistics don't
	// know of a backlog, it reads the whole partition and compares each row with the
	// list.
	fmt.Fprintf(&b, ") AND id BETWEEN %d AND %d", slices.Min(ids), slices.Max(ids))
	fmt.Fprintf(&b, " AND EXISTS (SELECT 1 FROM %s WHERE name = '%s' AND owner = '%s' AND epoch = %d)",
		s.names.leases, lease.Name, lease.Owner, lease.Epoch)
	res, err := s.autocommit(ctx, b.String())
	if err != nil {
		return 0, fmt.Errorf("store: confirm outbox: %w", err)
	}
	n, err := res.RowsAffected()
	return n, err
}

// FailOutbox records a failed publish. The text is cut at 2,000 bytes.
func (s *Store) FailOutbox(ctx context.Context, partition Partition, id int64, cause error) error {
	text := plainText(cause.Error(), maxError)
	query := s.dialect.rebind("UPDATE " + s.names.outbox +
		" SET attempts = attempts + 1, last_error = ? WHERE service = ? AND partition_no = ? AND id = ?")
	if _, err := s.autocommit(ctx, query, text, partition.Service, partition.Number, id); err != nil {
		return fmt.Errorf("store: record failed publish: %w", err)
	}
	return nil
}

// autocommit runs one statement in a transaction of its own, in bounded time: it
// has no lock timeout. On SQLite it waits for its turn as the writer.
func (s *Store) autocommit(ctx context.Context, query string, args ...any) (res sql.Result, err error) {
	if err := s.lockWriter(ctx); err != nil {
		return nil, err
	}
	defer s.unlockWriter()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnTimeout+s.cfg.LockTimeout)
	defer cancel()
	for {
		err = s.withConn(ctx, func(conn *sqlx.Conn) error {
			res, err = conn.ExecContext(ctx, query, args...)
			return err
		})
		if s.dialect != SQLite || !s.dialect.contention(err) || pause(ctx) != nil {
			return res, err
		}
	}
}
