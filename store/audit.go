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

// AuditRow is one change that an operator has made.
type AuditRow struct {
	ID int64
	// At is set by the database.
	At time.Time
	// Actor is who did it, at most 255 bytes of text. Required.
	Actor string
	// Action is what was done ("rename", "reset", "retry"), 16 bytes at most.
	Action string
	// TargetKind and Target say to what; Target is stored as Identity says.
	TargetKind string
	Target     string
	// Subject is the message key that it was about, as it is or as it is stored.
	// Optional.
	Subject string
	// Details are what changed, as JSON; never payloads. Default: none.
	Details map[string]any
	// Note is the operator's own, cut at 2,000 bytes. Optional.
	Note string
}

// What changes are made to.
const (
	// TargetConsumer is the TargetKind of what was done to a consumer's memory.
	TargetConsumer = "consumer"
	// TargetParked is that of a kept message; Target is its id.
	TargetParked = "parked"
	// TargetKey is that of a key's line; Target is KeyTarget.
	TargetKey = "key"
)

// KeyTarget is the Target of what was done to a line.
func KeyTarget(line Line) string { return Identity(line.Consumer) + "/" + line.Line }

const maxActor = 255

// ErrNoActor says that a change wants to be signed by somebody.
var ErrNoActor = errors.New("a change needs an actor: who makes it")

// InsertAudit records a change in the transaction that makes it. Errors match
// ErrNoActor when nobody signs it.
func (s *Store) InsertAudit(ctx context.Context, tx Tx, row AuditRow) error {
	actor := plainText(row.Actor, maxActor)
	if actor == "" {
		return fmt.Errorf("store: audit: %w", ErrNoActor)
	}
	details := []byte("{}")
	if len(row.Details) > 0 {
		var err error
		if details, err = json.Marshal(row.Details); err != nil {
			return fmt.Errorf("store: audit: %w", err)
		}
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO "+s.names.audit+
		" (actor, action, target_kind, target, subject, details, note) VALUES (?, ?, ?, ?, ?, ?, ?)",
		actor, row.Action, row.TargetKind, storedIdentity(row.Target), storedIdentity(row.Subject), string(details),
		reasonValue(row.Note))
	if err != nil {
		return fmt.Errorf("store: audit: %w", err)
	}
	return nil
}

// AuditOf returns the last changes of a target, oldest first, at most limit.
func (s *Store) AuditOf(ctx context.Context, kind, target string, limit int) ([]AuditRow, error) {
	var rows []auditRow
	err := s.withConn(ctx, func(conn *sqlx.Conn) (err error) {
		rows, err = s.auditOf(ctx, conn, kind, target, limit)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store: read the audit of %q: %w", Identity(target), err)
	}
	changes := make([]AuditRow, len(rows))
	for i, row := range rows {
		changes[len(rows)-1-i] = row.change(kind, target)
	}
	return changes, nil
}

func (s *Store) auditOf(ctx context.Context, conn *sqlx.Conn, kind, target string, limit int) (rows []auditRow, err error) {
	query := s.dialect.rebind("SELECT id, actor, action, subject, details, note, " + s.dialect.micros("at") +
		" AS at_us FROM " + s.names.audit + " WHERE target_kind = ? AND target = ? ORDER BY id DESC LIMIT ?")
	err = conn.SelectContext(ctx, &rows, query, kind, storedIdentity(target), limit)
	return rows, err
}

type auditRow struct {
	ID      int64          `db:"id"`
	At      int64          `db:"at_us"`
	Actor   string         `db:"actor"`
	Action  string         `db:"action"`
	Subject string         `db:"subject"`
	Details string         `db:"details"`
	Note    sql.NullString `db:"note"`
}

func (r auditRow) change(kind, target string) AuditRow {
	row := AuditRow{
		ID: r.ID, At: timeFromMicros(r.At), Actor: r.Actor, Action: r.Action, TargetKind: kind,
		Target: storedIdentity(target), Subject: r.Subject, Note: r.Note.String,
	}
	if json.Unmarshal([]byte(r.Details), &row.Details) != nil { // somebody else's row: shown without
		row.Details = nil
	}
	return row
}
