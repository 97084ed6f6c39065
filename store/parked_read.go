package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrNotParked says that there is no kept message with an id.
var ErrNotParked = errors.New("no such parked message")

// ParkedByID returns a kept message. Errors match ErrNotParked.
func (s *Store) ParkedByID(ctx context.Context, id int64) (ParkedRow, error) {
	rows, err := s.readParked(ctx, " WHERE id = ?", id)
	if err == nil && len(rows) == 0 {
		err = ErrNotParked
	}
	if err != nil {
		return ParkedRow{}, fmt.Errorf("store: read parked message %d: %w", id, err)
	}
	return rows[0], nil
}

// readParked reads whole messages, in the context's unit of work if there is one.
// The rest of the query must be the program's own text.
func (s *Store) readParked(ctx context.Context, rest string, args ...any) ([]ParkedRow, error) {
	var read []parkedRow
	err := s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.SelectContext(ctx, q, &read, s.dialect.rebind(s.parkedQuery()+rest), args...)
	})
	if err != nil {
		return nil, err
	}
	rows := make([]ParkedRow, len(read))
	for i, r := range read {
		if rows[i], err = s.parkedOf(ctx, r); err != nil {
			return nil, fmt.Errorf("parked message %d: %w", r.ID, err)
		}
	}
	return rows, nil
}

type parkedRow struct {
	ID              int64          `db:"id"`
	Origin          string         `db:"origin"`
	Consumer        string         `db:"consumer"`
	Line            sql.NullString `db:"line"`
	InboxID         sql.NullString `db:"inbox_id"`
	MessageID       string         `db:"message_id"`
	Key             sql.NullString `db:"message_key"`
	Topic           string         `db:"topic"`
	Destination     string         `db:"destination"`
	Payload         []byte         `db:"payload"`
	NoPayload       bool           `db:"no_payload"`
	Metadata        string         `db:"metadata"`
	Sealed          string         `db:"sealed"`
	EditedPayload   []byte         `db:"edited_payload"`
	NoEditedPayload bool           `db:"no_edited_payload"`
	EditedMetadata  sql.NullString `db:"edited_metadata"`
	EditedSealed    string         `db:"edited_sealed"`
	Edits           int            `db:"edits"`
	Status          string         `db:"status"`
	Class           string         `db:"class"`
	Reason          sql.NullString `db:"reason"`
	ErrorType       string         `db:"error_type"`
	ErrorGroup      string         `db:"error_group"`
	ErrorTitle      string         `db:"error_title"`
	Chain           string         `db:"chain"`
	History         string         `db:"history"`
	Attempts        int            `db:"attempts"`
	Tries           int            `db:"tries"`
	Due             sql.NullInt64  `db:"due_us"`
	Subject         sql.NullString `db:"subject"`
	Diff            []byte         `db:"diff"`
	Decision        string         `db:"decision"`
	DecidedBy       string         `db:"decided_by"`
	OutboxService   sql.NullString `db:"outbox_service"`
	OutboxPartition sql.NullInt64  `db:"outbox_partition"`
	OutboxRow       sql.NullInt64  `db:"outbox_row"`
	Note            sql.NullString `db:"note"`
	ParkedAt        int64          `db:"parked_us"`
	UpdatedAt       int64          `db:"updated_us"`
	FinishedAt      sql.NullInt64  `db:"finished_us"`
}

func (s *Store) parkedQuery() string {
	d := s.dialect
	return "SELECT id, origin, consumer, line, inbox_id, message_id, message_key, topic, destination, payload, " +
		"payload IS NULL AS no_payload, metadata, sealed, edited_payload, edited_payload IS NULL AS no_edited_payload, " +
		"edited_metadata, edited_sealed, edits, status, class, reason, error_type, error_group, error_title, chain, history, " +
		"attempts, tries, " + d.micros("due_at") + " - " + d.micros(d.now()) + " AS due_us, subject, diff, decision, " +
		"decided_by, outbox_service, outbox_partition, outbox_row, note, " + d.micros("parked_at") + " AS parked_us, " +
		d.micros("updated_at") + " AS updated_us, " + d.micros("finished_at") + " AS finished_us FROM " + s.names.parked
}

func (s *Store) parkedOf(ctx context.Context, r parkedRow) (ParkedRow, error) {
	row := ParkedRow{
		ID: r.ID, Origin: ParkedOrigin(r.Origin), Consumer: r.Consumer, Line: r.Line.String, InboxID: r.InboxID.String,
		MessageID: r.MessageID, Key: r.Key.String, Topic: r.Topic, Destination: r.Destination, Edits: r.Edits,
		Status: ParkedStatus(r.Status), Class: r.Class, Reason: r.Reason.String,
		ErrorType: r.ErrorType, ErrorGroup: r.ErrorGroup, ErrorTitle: r.ErrorTitle,
		Attempts: r.Attempts, Tries: r.Tries, DueIn: time.Duration(r.Due.Int64) * time.Microsecond,
		Subject: r.Subject.String, Decision: r.Decision, DecidedBy: r.DecidedBy, Note: r.Note.String,
		OutboxPartition: Partition{r.OutboxService.String, int(r.OutboxPartition.Int64)}, OutboxRow: r.OutboxRow.Int64,
		ParkedAt: timeFromMicros(r.ParkedAt), UpdatedAt: timeFromMicros(r.UpdatedAt),
	}
	if r.FinishedAt.Valid {
		row.FinishedAt = timeFromMicros(r.FinishedAt.Int64)
	}
	if err := json.Unmarshal([]byte(r.Chain), &row.Chain); err != nil {
		return ParkedRow{}, fmt.Errorf("its errors: %w", err)
	}
	if err := json.Unmarshal([]byte(r.History), &row.History); err != nil {
		return ParkedRow{}, fmt.Errorf("its history: %w", err)
	}
	row.Problem = s.openParked(ctx, r, &row)
	return row, nil
}

// openParked fills in the content. What can't be read is left out.
func (s *Store) openParked(ctx context.Context, r parkedRow, row *ParkedRow) error {
	payload, err := s.unseal(ctx, r.Sealed, emptied(r.Payload, r.NoPayload))
	if err != nil {
		return err
	}
	diff, err := s.unseal(ctx, r.Sealed, r.Diff)
	if err != nil {
		return err
	}
	id, metadata, err := decodeOriginal(r.MessageID, r.Metadata)
	if err != nil {
		return err
	}
	row.MessageID, row.Payload, row.Metadata, row.Diff = id, payload, metadata, diff
	if r.Edits == 0 {
		return nil
	}
	edited, err := s.unseal(ctx, r.EditedSealed, emptied(r.EditedPayload, r.NoEditedPayload))
	if err != nil {
		return err
	}
	_, row.EditedMetadata, err = decodeOriginal(r.MessageID, r.EditedMetadata.String)
	row.EditedPayload = edited
	return err
}

// emptied keeps empty apart from nil, as which SQLite's driver returns it.
func emptied(value []byte, null bool) []byte {
	if value == nil && !null {
		return []byte{}
	}
	return value
}
