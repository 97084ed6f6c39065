package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	// TargetSequences is that of what was done to the outbox's numbers.
	TargetSequences = "sequences"
	// TargetEffect is that of a call to the outside world; Target is its scope and its key
	// with a slash between them, and Subject its key.
	TargetEffect = "effect"
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

// AuditFilter says which changes are listed. What is empty isn't asked for.
type AuditFilter struct {
	TargetKind string
	// Target and Subject may be given as they are or as they are stored.
	Target, Subject string
	Actor, Action   string
	// Since is when the oldest was made, by the database's clock.
	Since time.Time
	// Before lists those older than the one with this ID, to go on with a list.
	Before int64
}

// ListAudit returns the last changes that operators have made, youngest first, at
// most limit.
func (s *Store) ListAudit(ctx context.Context, f AuditFilter, limit int) ([]AuditRow, error) {
	where, args := f.where(s.dialect)
	var rows []auditRow
	err := s.withConn(ctx, func(conn *sqlx.Conn) (err error) {
		rows = nil
		query := s.auditQuery() + where + " ORDER BY id DESC LIMIT ?"
		return conn.SelectContext(ctx, &rows, s.dialect.rebind(query), append(args, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: read the audit: %w", err)
	}
	changes := make([]AuditRow, len(rows))
	for i, row := range rows {
		changes[i] = row.change()
	}
	return changes, nil
}

func (f AuditFilter) where(d Dialect) (where string, args []any) {
	var conditions []string
	add := func(condition string, arg any) {
		conditions, args = append(conditions, condition), append(args, arg)
	}
	for _, c := range []struct{ column, value string }{
		{"target_kind", f.TargetKind},
		{"target", storedIdentity(f.Target)},
		{"subject", storedIdentity(f.Subject)},
		{"actor", plainText(f.Actor, maxActor)},
		{"action", f.Action},
	} {
		if c.value != "" {
			add(c.column+" = ?", c.value)
		}
	}
	if !f.Since.IsZero() {
		add("at >= "+d.fromMicros(), f.Since.UnixMicro())
	}
	if f.Before > 0 {
		add("id < ?", f.Before)
	}
	if len(conditions) == 0 {
		return "", nil
	}
	return " WHERE " + strings.Join(conditions, " AND "), args
}

// AuditOf returns the last changes of a target, oldest first, at most limit.
func (s *Store) AuditOf(ctx context.Context, kind, target string, limit int) ([]AuditRow, error) {
	changes, err := s.ListAudit(ctx, AuditFilter{TargetKind: kind, Target: target}, limit)
	slices.Reverse(changes)
	return changes, err
}

func (s *Store) auditQuery() string {
	return "SELECT id, actor, action, target_kind, target, subject, details, note, " + s.dialect.micros("at") +
		" AS at_us FROM " + s.names.audit
}

type auditRow struct {
	ID         int64          `db:"id"`
	At         int64          `db:"at_us"`
	Actor      string         `db:"actor"`
	Action     string         `db:"action"`
	TargetKind string         `db:"target_kind"`
	Target     string         `db:"target"`
	Subject    string         `db:"subject"`
	Details    string         `db:"details"`
	Note       sql.NullString `db:"note"`
}

func (r auditRow) change() AuditRow {
	row := AuditRow{
		ID: r.ID, At: timeFromMicros(r.At), Actor: r.Actor, Action: r.Action, TargetKind: r.TargetKind,
		Target: r.Target, Subject: r.Subject, Note: r.Note.String,
	}
	if json.Unmarshal([]byte(r.Details), &row.Details) != nil { // somebody else's row: shown without
		row.Details = nil
	}
	return row
}
