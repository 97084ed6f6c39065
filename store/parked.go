package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ParkedStatus is what a kept message waits for, or what became of it.
type ParkedStatus string

// Of open messages: they are in a line, and only the first one of it is handled.
const (
	// StatusWaiting: it lined up behind others and was never tried.
	StatusWaiting ParkedStatus = "waiting"
	// StatusDelayed: it has failed and is tried again when it is due.
	StatusDelayed ParkedStatus = "delayed"
	// StatusGap: something before it is missing; it is handled when that has come, or
	// tried again when it is due.
	StatusGap ParkedStatus = "gap"
	// StatusReleased: a person has said that it be tried again.
	StatusReleased ParkedStatus = "released"
	// StatusParked: it waits for a person.
	StatusParked ParkedStatus = "parked"
	// StatusReview: it waits for a person to judge it.
	StatusReview ParkedStatus = "review"
)

// Of final messages.
const (
	StatusDone      ParkedStatus = "done"
	StatusDiscarded ParkedStatus = "discarded"
	StatusExpired   ParkedStatus = "expired"
)

const openStatuses = "('waiting', 'delayed', 'gap', 'released', 'parked', 'review')"

// Open reports whether the message is still to be handled.
func (p ParkedStatus) Open() bool {
	switch p {
	case StatusWaiting, StatusDelayed, StatusGap, StatusReleased, StatusParked, StatusReview:
		return true
	case StatusDone, StatusDiscarded, StatusExpired:
	}
	return false
}

// timed reports whether the message is handled when it is due.
func (p ParkedStatus) timed() bool { return p == StatusDelayed || p == StatusGap }

func (p ParkedStatus) forPerson() bool { return p == StatusParked || p == StatusReview }

// verdict is what the inbox says of a message with this status.
func (p ParkedStatus) verdict() Verdict {
	switch p {
	case StatusWaiting:
		return Accepted
	case StatusGap:
		return Gap
	case StatusReview:
		return Conflict
	case StatusDone:
		return Applied
	case StatusDiscarded:
		return Discarded
	case StatusExpired:
		return Expired
	case StatusDelayed, StatusReleased, StatusParked:
	}
	return Parked
}

// ParkedOrigin is where a kept message came from.
type ParkedOrigin string

// The origins.
const (
	// OriginConsumer: a handler got it.
	OriginConsumer ParkedOrigin = "consumer"
	// OriginOutbox: it couldn't be sent. The message itself stays in the outbox.
	OriginOutbox ParkedOrigin = "outbox"
	// OriginReview: nobody delivered it; it was written for a person to judge.
	OriginReview ParkedOrigin = "review"
)

// ErrorLink is one error of a chain.
type ErrorLink struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Stack is that of a panic.
	Stack string `json:"stack,omitempty"`
}

// AttemptRecord is one run of a handler that has failed.
type AttemptRecord struct {
	At time.Time `json:"at"`
	// Attempt counts the runs, from 1.
	Attempt int `json:"attempt"`
	// Instance says which process it was.
	Instance string `json:"instance,omitempty"`
	Class    string `json:"class,omitempty"`
	Error    string `json:"error,omitempty"`
	TookMs   int64  `json:"took_ms"`
}

// ParkedRow is a message that is kept. Names are in the form in which they are
// stored where it was read, and as they are where it is to be written.
type ParkedRow struct {
	ID     int64
	Origin ParkedOrigin
	// Consumer has the message; of one from the outbox it is the service.
	Consumer string
	// Line is what it is in order with (Line.Line). Of a final one, and one from the
	// outbox, it is "".
	Line string
	// InboxID is what the inbox knows it by. "" for one that no handler got.
	InboxID string
	// Fingerprint is the inbox row's. It is only written.
	Fingerprint []byte
	// MessageID is its UUID as it came, which may be "".
	MessageID string
	Key       string
	// Topic it came from, or goes to; Destination is for the outbox.
	Topic, Destination string
	// Payload and Metadata are what came, and never change. nil and empty stay apart.
	Payload  []byte
	Metadata map[string]string
	// EditedPayload and EditedMetadata are what is handled instead where Edits,
	// which counts them, isn't 0.
	EditedPayload  []byte
	EditedMetadata map[string]string
	Edits          int
	Status         ParkedStatus
	// Class of its failure, and Reason, one sentence for people.
	Class, Reason string
	// ErrorType, ErrorGroup and ErrorTitle tell failures of one kind from others.
	ErrorType, ErrorGroup, ErrorTitle string
	Chain                             []ErrorLink
	// History has the first and the last runs that failed.
	History []AttemptRecord
	// Attempts counts the runs of the handler, Tries those of them that came with a
	// delay since a person has last released it.
	Attempts, Tries int
	// DueIn is when a delayed one is due, by the database's clock.
	DueIn time.Duration
	// Gap is what it waits for behind; it is only written.
	Gap *GapRef
	// Subject is what a review is about, Diff what differs, as JSON.
	Subject string
	Diff    []byte
	// Decision is what a person has decided, DecidedBy who released or judged it.
	Decision, DecidedBy string
	// OutboxPartition and OutboxRow are where one from the outbox is.
	OutboxPartition Partition
	OutboxRow       int64
	// Note has the lines that people have added.
	Note string
	// ParkedAt, UpdatedAt and FinishedAt are set by the database; zero for never.
	ParkedAt, UpdatedAt, FinishedAt time.Time
	// Problem says why its content can't be read: Payload and Metadata, or what they
	// were edited to, are nil then.
	Problem error
}

// Tried reports whether a handler had the message, or a person has spoken of it.
func (r ParkedRow) Tried() bool {
	return r.Status != StatusWaiting && (r.Status != StatusGap || r.Attempts > 0)
}

// GapRef is a message's place in the order of which something is missing before it.
type GapRef struct {
	Place

	Sequence int64
}

func (g *GapRef) values() []any {
	if g == nil {
		return []any{nil, nil}
	}
	return []any{g.name(), g.Sequence}
}

// Handled is the content that a handler gets.
func (r ParkedRow) Handled() (payload []byte, metadata map[string]string) {
	if r.Edits > 0 {
		return r.EditedPayload, r.EditedMetadata
	}
	return r.Payload, r.Metadata
}

// LineUp keeps a message that Admit has held, in the unit of work that did, with
// the status StatusWaiting, and returns its line's gate. Errors match ErrContent when
// the database doesn't take so much.
func (s *Store) LineUp(ctx context.Context, tx Tx, row ParkedRow) (id int64, g Gate, err error) {
	row.Status = StatusWaiting
	gate, id, err := s.append(ctx, tx, row)
	if err != nil {
		return 0, Gate{}, fmt.Errorf("store: line up message %q: %w", Identity(row.MessageID), err)
	}
	return id, gate.gate(), nil
}

// append puts a message at the end of its line. The gate's lock is held until the
// transaction ends, so that the ids of a line are in the order of their commits.
func (s *Store) append(ctx context.Context, tx Tx, row ParkedRow) (g gateRow, id int64, err error) {
	if row.Consumer == "" || row.Line == "" {
		return gateRow{}, 0, errors.New("it has no consumer or no line")
	}
	values, err := s.parkedValues(ctx, row)
	if err != nil {
		return gateRow{}, 0, err
	}
	g, made, err := s.hold(ctx, tx, Line{row.Consumer, row.Line, row.Key}.identity())
	if err != nil {
		return gateRow{}, 0, err
	}
	if id, err = s.insertParked(ctx, tx, row, values); err != nil {
		return gateRow{}, 0, err
	}
	g.Kept++
	first := made
	if !made && g.ClaimedBy == "" && !g.Paused && !g.DueMicros.Valid {
		// It waits for a person because of its first message, unless it has none.
		head, err := s.headOf(ctx, tx, g.Consumer, g.Line)
		if err != nil {
			return gateRow{}, 0, err
		}
		first = head != nil && head.ID == id
	}
	query, args := "UPDATE "+s.names.gates+" SET kept = kept + 1", []any(nil)
	if first && !row.Status.forPerson() {
		query += ", due_at = " + s.dialect.nowPlus()
		args = append(args, dueMicros(row))
		g.DueMicros.Valid, g.DueMicros.Int64 = true, dueMicros(row)
		if err := s.afterCommitOf(ctx, tx, func() { s.wakeLines(g.Consumer) }); err != nil {
			return gateRow{}, 0, err
		}
	}
	_, err = tx.ExecContext(ctx, query+" WHERE consumer = ? AND line = ?", append(args, g.Consumer, g.Line)...)
	return g, id, err
}

func dueMicros(row ParkedRow) int64 {
	if !row.Status.timed() {
		return 0
	}
	return row.DueIn.Microseconds()
}

// Park keeps a message that has failed: its inbox row gets the open verdict of its
// status (delayed, gap, parked or review), its line is held, and the message is put at
// the line's end. It belongs in a transaction of its own, behind the one that was
// rolled back; where the subscriber reads in a transaction, in that one.
//
// When the consumer knows the message already, because another copy was quicker,
// parked is false and existing says what it knows. before runs between the inbox
// row and the gate, where rows of the user's own are locked; it may be nil. A row
// without InboxID, which nobody delivered, has no inbox row. Errors match ErrContent
// when the database doesn't take so much.
func (s *Store) Park(
	ctx context.Context, tx Tx, row ParkedRow, before func(ctx context.Context, tx Tx) error,
) (id int64, existing InboxRow, parked bool, err error) {
	switch row.Status {
	case StatusDelayed, StatusGap, StatusParked, StatusReview:
	case StatusWaiting, StatusReleased, StatusDone, StatusDiscarded, StatusExpired:
		return 0, InboxRow{}, false, fmt.Errorf("store: a message isn't parked as %q", row.Status)
	default:
		return 0, InboxRow{}, false, fmt.Errorf("store: unknown status %q", row.Status)
	}
	if row.InboxID != "" {
		existing, inserted, err := s.InsertInbox(ctx, InboxRow{
			Consumer: row.Consumer, MessageID: row.InboxID, Verdict: row.Status.verdict(), Reason: row.Reason,
			Fingerprint: row.Fingerprint,
		})
		if err != nil || !inserted {
			return 0, existing, false, err
		}
	}
	if before != nil {
		if err := before(ctx, tx); err != nil {
			return 0, InboxRow{}, false, err
		}
	}
	_, id, err = s.append(ctx, tx, row)
	if err != nil {
		return 0, InboxRow{}, false, fmt.Errorf("store: park message %q: %w", Identity(row.MessageID), err)
	}
	if row.InboxID == "" {
		return id, InboxRow{}, true, nil
	}
	err = s.LogVerdict(ctx, tx, VerdictLogRow{
		Consumer: row.Consumer, MessageID: row.InboxID, Verdict: row.Status.verdict(), Reason: row.Reason,
	})
	return id, InboxRow{}, err == nil, err
}

// parkedColumns are those that parkedValues fills, but for due_at.
const parkedColumns = "origin, consumer, line, inbox_id, message_id, message_key, topic, destination, payload, metadata, " +
	"sealed, status, class, reason, error_type, error_group, error_title, chain, history, attempts, tries, subject, diff, " +
	"outbox_service, outbox_partition, outbox_row, gap_place, gap_sequence"

func (s *Store) parkedValues(ctx context.Context, row ParkedRow) ([]any, error) {
	payload, err := s.seal(ctx, row.Payload)
	if err != nil {
		return nil, err
	}
	diff, err := s.seal(ctx, row.Diff)
	if err != nil {
		return nil, err
	}
	metadata, err := encodeOriginal(row.MessageID, row.Metadata)
	if err != nil {
		return nil, err
	}
	failure, err := failureValues(row)
	if err != nil {
		return nil, err
	}
	var service, partition, outboxRow any
	if row.OutboxRow != 0 {
		service, partition, outboxRow = row.OutboxPartition.Service, row.OutboxPartition.Number, row.OutboxRow
	}
	values := []any{
		string(row.Origin), Identity(row.Consumer), nullIdentity(Identity(row.Line)), nullIdentity(Identity(row.InboxID)),
		Identity(row.MessageID), nullIdentity(Identity(row.Key)), Identity(row.Topic), Identity(row.Destination),
		nullBytes(payload), metadata, s.codecName(), string(row.Status),
	}
	values = append(values, failure...)
	values = append(values, row.Attempts, row.Tries, nullIdentity(Identity(row.Subject)), nullBytes(diff),
		service, partition, outboxRow)
	return append(values, row.Gap.values()...), nil
}

// failureValues are class, reason, error_type, error_group, error_title, chain and
// history.
func failureValues(row ParkedRow) ([]any, error) {
	chain, err := json.Marshal(boundChain(row.Chain))
	if err != nil {
		return nil, err
	}
	history, err := json.Marshal(boundHistory(row.History))
	if err != nil {
		return nil, err
	}
	return []any{
		plainText(row.Class, maxShort), reasonValue(row.Reason), Identity(plainText(row.ErrorType, MaxIdentity)),
		plainText(row.ErrorGroup, maxGroup), plainText(row.ErrorTitle, maxTitle), string(chain), string(history),
	}, nil
}

// insertParked writes a row and returns its id. Errors match ErrContent when the
// database doesn't take so much.
func (s *Store) insertParked(ctx context.Context, tx Tx, row ParkedRow, values []any) (id int64, err error) {
	if err := s.fits(ctx, tx, values...); err != nil {
		return 0, err
	}
	due := "NULL"
	query := "INSERT INTO " + s.names.parked + " (" + parkedColumns + ", due_at) VALUES (?" + questionMarks(len(values)-1) + ", "
	if row.Status.timed() {
		due, values = s.dialect.nowPlus(), append(values, row.DueIn.Microseconds())
	}
	query += due + ")"
	if s.dialect == Postgres {
		err = tx.GetContext(ctx, &id, query+" RETURNING id", values...)
		return id, s.content(err)
	}
	res, err := tx.ExecContext(ctx, query, values...)
	if err != nil {
		return 0, s.content(err)
	}
	return res.LastInsertId()
}
