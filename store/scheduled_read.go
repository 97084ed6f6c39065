package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// ListScheduled lists what waits to be sent later, of all services, what is due
// first before others: at most limit, behind the row with the id after, where that
// still exists; 0 is for the first ones. Payloads are left out.
func (s *Store) ListScheduled(ctx context.Context, after int64, limit int) ([]ScheduledRow, error) {
	query := s.scheduledQuery(true) + " WHERE state = 'waiting'"
	var args []any
	if after > 0 {
		due := "(SELECT due_at FROM " + s.names.scheduled + " WHERE id = ?)"
		query += " AND (due_at > " + due + " OR due_at = " + due + " AND id > ?)"
		args = append(args, after, after, after)
	}
	query += " ORDER BY due_at, id LIMIT ?"
	var rows []scheduledRow
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &rows, s.dialect.rebind(query), append(args, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: list scheduled messages: %w", err)
	}
	return scheduledRows(rows)
}

// ScheduledCount says what one topic of one destination of a service has for
// later.
type ScheduledCount struct {
	Service     string `db:"service" json:"service"`
	Destination string `db:"destination" json:"destination"`
	Topic       string `db:"topic" json:"topic"`
	Waiting     int64  `db:"waiting" json:"waiting"`
	// NextIn is until the next of them is due, by the database's clock: negative
	// when it is overdue.
	NextIn       time.Duration `db:"-" json:"next_in"`
	NextInMicros int64         `db:"next_us" json:"-"`
}

// CountScheduled counts what waits to be sent later.
func (s *Store) CountScheduled(ctx context.Context) ([]ScheduledCount, error) {
	var counts []ScheduledCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, "SELECT service, destination, topic, count(*) AS waiting, "+
			s.dialect.micros("min(due_at)")+" - "+s.dialect.micros(s.dialect.now())+" AS next_us FROM "+s.names.scheduled+
			" WHERE state = 'waiting' GROUP BY service, destination, topic ORDER BY service, destination, topic")
	})
	if err != nil {
		return nil, fmt.Errorf("store: count scheduled messages: %w", err)
	}
	for i := range counts {
		counts[i].NextIn = time.Duration(counts[i].NextInMicros) * time.Microsecond
	}
	return counts, nil
}

type scheduledRow struct {
	ID          int64          `db:"id"`
	Service     string         `db:"service"`
	Partition   int            `db:"partition_no"`
	MessageID   string         `db:"message_id"`
	Destination string         `db:"destination"`
	Topic       string         `db:"topic"`
	Key         sql.NullString `db:"message_key"`
	Payload     []byte         `db:"payload"`
	NoPayload   bool           `db:"no_payload"`
	Metadata    []byte         `db:"metadata"`
	Sequenced   bool           `db:"sequenced"`
	State       string         `db:"state"`
	DueAt       int64          `db:"due_us"`
	Slot        sql.NullString `db:"slot"`
	Subject     sql.NullString `db:"slot_subject"`
	Plan        sql.NullString `db:"slot_plan"`
}

func (s *Store) scheduledQuery(withoutPayload bool) string {
	payload := "payload, payload IS NULL AS no_payload"
	if withoutPayload {
		payload = "true AS no_payload"
	}
	return "SELECT id, service, partition_no, message_id, destination, topic, message_key, " + payload +
		", metadata, sequenced, state, " + s.dialect.micros("due_at") + " AS due_us, slot, slot_subject, slot_plan FROM " +
		s.names.scheduled
}

func scheduledRows(read []scheduledRow) ([]ScheduledRow, error) {
	rows := make([]ScheduledRow, len(read))
	for i, r := range read {
		rows[i] = ScheduledRow{
			OutboxRow: OutboxRow{
				ID: r.ID, Service: r.Service, Partition: r.Partition, MessageID: r.MessageID, Destination: r.Destination,
				Topic: r.Topic, Key: r.Key.String, Payload: r.Payload,
			},
			DueAt: timeFromMicros(r.DueAt), Sequenced: r.Sequenced, State: ScheduledState(r.State),
			Slot: r.Slot.String, Subject: r.Subject.String, Plan: r.Plan.String,
		}
		if r.Payload == nil && !r.NoPayload { // SQLite's driver returns an empty value as nil
			rows[i].Payload = []byte{}
		}
		if err := json.Unmarshal(r.Metadata, &rows[i].Metadata); err != nil {
			return nil, fmt.Errorf("metadata of scheduled message %d: %w", r.ID, err)
		}
	}
	return rows, nil
}
