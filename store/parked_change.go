package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Release is a person's word that a kept message be handled again.
type Release struct {
	// By is who says so.
	By string
	// Decision is what they have decided of one in review. Optional.
	Decision string
	// Check may refuse it; it gets the message as it is, which doesn't change until the
	// transaction ends. Optional.
	Check func(ParkedRow) error
}

// ReleaseParked has a kept message handled again when it is its turn, in the
// transaction of who says so, and returns it as it was. Its tries begin anew. One of
// the outbox is sent, as it was edited to if it was.
//
// Errors match ErrNotParked; ErrStatus when it doesn't wait: it was released or is
// final by now, or has only lined up; and ErrOutboxGone.
func (s *Store) ReleaseParked(ctx context.Context, tx Tx, id int64, r Release) (ParkedRow, error) {
	row, g, err := s.lockParked(ctx, tx, id)
	if err == nil {
		switch row.Status {
		case StatusDelayed, StatusGap, StatusParked, StatusReview:
		case StatusWaiting, StatusReleased, StatusDone, StatusDiscarded, StatusExpired:
			err = &StatusError{ID: id, Status: row.Status, By: row.DecidedBy}
		}
	}
	if err == nil && r.Check != nil {
		err = r.Check(row)
	}
	if err != nil {
		return row, fmt.Errorf("store: release: %w", err)
	}
	by := plainText(r.By, maxActor)
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET status = 'released', due_at = NULL, tries = 0, decision = ?, "+
		"decided_by = ?, updated_at = "+s.dialect.now()+" WHERE id = ?", plainText(r.Decision, maxShort), by, id)
	if err == nil && row.Origin == OriginOutbox {
		err = s.unpark(ctx, tx, row)
	}
	if err == nil {
		err = s.changed(ctx, tx, row, g, Parked, "released by "+by)
	}
	if err != nil {
		return row, fmt.Errorf("store: release parked message %d: %w", id, err)
	}
	return row, nil
}

// DiscardParked has a kept message never handled again, in the transaction of who
// says so, and returns it as it was. What is behind it in its line goes on. check may
// refuse it, as Release.Check does.
//
// Errors match ErrNotParked, and ErrStatus when it is final by now, or of the outbox
// and released to be sent.
func (s *Store) DiscardParked(
	ctx context.Context, tx Tx, id int64, by, reason string, check func(ParkedRow) error,
) (ParkedRow, error) {
	row, g, err := s.lockParked(ctx, tx, id)
	if err == nil && !row.changeable() {
		err = &StatusError{ID: id, Status: row.Status, By: row.DecidedBy}
	}
	if err == nil && check != nil {
		err = check(row)
	}
	if err != nil {
		return row, fmt.Errorf("store: discard: %w", err)
	}
	by = plainText(by, maxActor)
	now := s.dialect.now()
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET status = 'discarded', line = NULL, due_at = NULL, "+
		"decided_by = ?, finished_at = "+now+", updated_at = "+now+" WHERE id = ?", by, id)
	if err == nil {
		if g != nil {
			g.Gone++
		}
		if row.Origin == OriginOutbox {
			err = s.removeParked(ctx, tx, row)
		} else {
			err = s.PassNumber(ctx, tx, row.Consumer, row.Metadata)
		}
	}
	if err == nil {
		err = s.changed(ctx, tx, row, g, Discarded, joinReason("discarded by "+by, reason))
	}
	if err != nil {
		return row, fmt.Errorf("store: discard parked message %d: %w", id, err)
	}
	return row, nil
}

// changeable reports whether a person may edit or discard a message. One of the
// outbox that was released may be at the broker already.
func (r ParkedRow) changeable() bool {
	return r.Status.Open() && (r.Origin != OriginOutbox || r.Status == StatusParked)
}

// changed carries a person's word to the inbox, the log and the line.
func (s *Store) changed(ctx context.Context, tx Tx, row ParkedRow, g *gateRow, verdict Verdict, reason string) error {
	if row.InboxID != "" {
		decided := InboxRow{Consumer: row.Consumer, MessageID: row.InboxID, Verdict: verdict, Reason: reason}
		if err := s.decideInbox(ctx, tx, decided); err != nil {
			return err
		}
	}
	// The owner of a claim looks at the line by itself when it is done.
	if g != nil && g.ClaimedBy == "" {
		if _, err := s.settle(ctx, tx, *g); err != nil {
			return err
		}
	}
	if row.InboxID == "" {
		return nil
	}
	return s.logStored(ctx, tx, VerdictLogRow{Consumer: row.Consumer, MessageID: row.InboxID, Verdict: verdict, Reason: reason})
}

// Edit is what a kept message is to be handled as instead.
type Edit struct {
	// Payload and Metadata replace the whole of what is handled now. Default: they stay.
	Payload  *[]byte
	Metadata map[string]string
	// Check may refuse it, as Release.Check does. Optional.
	Check func(ParkedRow) error
}

// EditParked changes what is handled of a kept message, in the transaction of who
// does so, and returns it as it was. What came stays as it is beside. A run that has
// begun before doesn't count (ErrParkedChanged).
//
// Errors match ErrNotParked; ErrStatus when it is final by now, or was released to be
// sent from the outbox; ErrContent or what ParkedRow.Problem is when what is to stay
// can't be read; and ErrContent when the database doesn't take so much.
func (s *Store) EditParked(ctx context.Context, tx Tx, id int64, e Edit) (ParkedRow, error) {
	row, _, err := s.lockParked(ctx, tx, id)
	if err == nil && !row.changeable() {
		err = &StatusError{ID: id, Status: row.Status, By: row.DecidedBy}
	}
	if err == nil && e.Check != nil {
		err = e.Check(row)
	}
	if err == nil && (e.Payload == nil || e.Metadata == nil) {
		err = row.Problem
	}
	if err != nil {
		return row, fmt.Errorf("store: edit: %w", err)
	}
	payload, metadata := row.Handled()
	if e.Payload != nil {
		payload = *e.Payload
	}
	if e.Metadata != nil {
		metadata = e.Metadata
	}
	sealed, err := s.seal(ctx, payload)
	if err != nil {
		return row, err
	}
	text, err := encodeOriginal(row.MessageID, metadata)
	if err != nil {
		return row, err
	}
	if err = s.fits(ctx, tx, sealed, text); err != nil {
		return row, fmt.Errorf("store: edit parked message %d: %w", id, err)
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET edited_payload = ?, edited_metadata = ?, edited_sealed = ?, "+
		"edits = edits + 1, updated_at = "+s.dialect.now()+" WHERE id = ?", nullBytes(sealed), text, s.codecName(), id)
	if err != nil {
		return row, fmt.Errorf("store: edit parked message %d: %w", id, s.content(err))
	}
	return row, nil
}

// maxNotes is what a message's notes have room for, in bytes.
const maxNotes = 60_000

// NoteParked adds a line to a kept message's notes. Errors match ErrNotParked, and
// ErrContent when they are full.
func (s *Store) NoteParked(ctx context.Context, tx Tx, id int64, line string) error {
	row, err := s.lockParkedRow(ctx, tx, id)
	if err != nil {
		return fmt.Errorf("store: note: %w", err)
	}
	note := plainText(line, maxReason)
	if row.Note != "" {
		note = row.Note + "\n" + note
	}
	if len(note) > maxNotes {
		return fmt.Errorf("store: %w: the notes of parked message %d are full", ErrContent, id)
	}
	query := "UPDATE " + s.names.parked + " SET note = ?, updated_at = " + s.dialect.now() + " WHERE id = ?"
	_, err = tx.ExecContext(ctx, query, note, id)
	if err != nil {
		return fmt.Errorf("store: note on parked message %d: %w", id, err)
	}
	return nil
}

// lockParked locks a kept message as its handler would: its inbox row, its line's
// gate, its own row. It waits for a handler that has it, and sees what that has left.
// The gate is nil where the message has no line, or none any more.
func (s *Store) lockParked(ctx context.Context, tx Tx, id int64) (ParkedRow, *gateRow, error) {
	var names struct {
		Consumer string         `db:"consumer"`
		Line     sql.NullString `db:"line"`
		InboxID  sql.NullString `db:"inbox_id"`
	}
	err := tx.GetContext(ctx, &names, "SELECT consumer, line, inbox_id FROM "+s.names.parked+" WHERE id = ?", id)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %d", ErrNotParked, id)
	}
	if err != nil {
		return ParkedRow{}, nil, err
	}
	if _, err := s.lockOpen(ctx, tx, names.Consumer, names.InboxID.String); err != nil {
		return ParkedRow{}, nil, err
	}
	var gate *gateRow
	if names.Line.Valid {
		g, err := s.lockGate(ctx, tx, Line{Consumer: names.Consumer, Line: names.Line.String})
		if err == nil {
			gate = &g
		} else if !errors.Is(err, sql.ErrNoRows) {
			return ParkedRow{}, nil, err
		}
	}
	row, err := s.lockParkedRow(ctx, tx, id)
	if row.Line == "" {
		gate = nil
	}
	return row, gate, err
}

// lockParkedRow locks a kept message's own row and reads it.
func (s *Store) lockParkedRow(ctx context.Context, tx Tx, id int64) (ParkedRow, error) {
	var read parkedRow
	err := tx.GetContext(ctx, &read, s.parkedQuery()+" WHERE id = ?"+s.dialect.forUpdate(), id)
	if errors.Is(err, sql.ErrNoRows) {
		return ParkedRow{}, fmt.Errorf("%w: %d", ErrNotParked, id)
	}
	if err != nil {
		return ParkedRow{}, err
	}
	return s.parkedOf(ctx, read)
}

// PauseLine has nothing of a line handled until ResumeLine, in the transaction of who
// says so; the line need not be held before. A message that is in its handler now is
// the last one (Gate.ClaimedBy says whether there may be one). The line may be given
// as it was read.
func (s *Store) PauseLine(ctx context.Context, tx Tx, line Line) (Gate, error) {
	g, _, err := s.hold(ctx, tx, line.stored())
	if err != nil {
		return Gate{}, fmt.Errorf("store: pause line: %w", err)
	}
	due := ""
	if g.ClaimedBy == "" {
		due = ", due_at = NULL"
		g.DueMicros = sql.NullInt64{}
	}
	if err := s.setPaused(ctx, tx, g, "TRUE"+due); err != nil {
		return Gate{}, fmt.Errorf("store: pause line: %w", err)
	}
	g.Paused = true
	return g.gate(), nil
}

// ResumeLine ends PauseLine and returns the gate as it was: the line goes on with its
// first message, or is opened when it has none. Errors match ErrNotHeld.
func (s *Store) ResumeLine(ctx context.Context, tx Tx, line Line) (Gate, error) {
	line = line.stored()
	g, err := s.lockGate(ctx, tx, line)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: %q of %q", ErrNotHeld, line.Line, line.Consumer)
	}
	if err == nil {
		err = s.setPaused(ctx, tx, g, "FALSE")
	}
	if err == nil && g.ClaimedBy == "" {
		resumed := g
		resumed.Paused = false
		_, err = s.settle(ctx, tx, resumed)
	}
	if err != nil {
		return Gate{}, fmt.Errorf("store: resume line: %w", err)
	}
	return g.gate(), nil
}

func (s *Store) setPaused(ctx context.Context, tx Tx, g gateRow, paused string) error {
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.gates+" SET paused = "+paused+" WHERE consumer = ? AND line = ?",
		g.Consumer, g.Line)
	return err
}
