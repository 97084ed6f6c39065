package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
)

// ScheduledRow is a message for later: when it is due it enters the outbox.
type ScheduledRow struct {
	// OutboxRow is the message. Its ID is the scheduled row's own.
	OutboxRow

	// DueAt is when it enters the outbox, by the database's clock. With the zero
	// time it is DueIn from now.
	DueAt time.Time
	DueIn time.Duration
	// State is what became of it; set by the database.
	State ScheduledState
	// Slot is the identity of its time slot, stored as Identity says; at most one row
	// has it. "" is none.
	Slot string
	// Sequenced says that it gets its number when it is due, as InsertSequenced does.
	Sequenced bool
	// Subject is what the slot's message is about, Plan whatever its scheduler
	// needs to know again, as text.
	Subject, Plan string
}

// ScheduledState is what became of a scheduled message.
type ScheduledState string

// A row of a slot stays for a while when it is sent or cancelled; other rows are
// removed.
const (
	ScheduledWaiting   ScheduledState = "waiting"
	ScheduledSent      ScheduledState = "sent"
	ScheduledCancelled ScheduledState = "cancelled"
)

// What a time can be, on the narrowest database.
const (
	firstYear = 1970
	lastYear  = 9999
)

// Now is the database's time, within the context's unit of work if there is one.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	query := "SELECT " + s.dialect.micros(s.dialect.now())
	var us int64
	if u := s.UnitFromContext(ctx); u != nil {
		err = u.Tx().GetContext(ctx, &us, query)
	} else {
		err = s.withConn(ctx, func(conn *sqlx.Conn) error { return conn.GetContext(ctx, &us, query) })
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("store: read the database's clock: %w", err)
	}
	return timeFromMicros(us), nil
}

// InsertScheduled writes messages for later into a unit of work. Errors match
// ErrContent as those of InsertOutbox do, and where a time is before 1970 or
// after 9999.
func (s *Store) InsertScheduled(ctx context.Context, tx Tx, rows []ScheduledRow) error {
	for i := range rows {
		query, args, err := s.insertScheduled("", &rows[i])
		if err != nil {
			return fmt.Errorf("store: schedule: %w", err)
		}
		if _, err := tx.ExecContext(ctx, query, args...); err != nil {
			return fmt.Errorf("store: schedule: %w", err)
		}
	}
	return nil
}

func (s *Store) insertScheduled(alias string, row *ScheduledRow) (query string, args []any, err error) {
	row.Partition = outboxPartition(row.OutboxRow)
	metadata, err := encodeMetadata(row.OutboxRow)
	if err != nil {
		return "", nil, err
	}
	due, at := s.dialect.nowPlus(), row.DueIn.Microseconds()
	if !row.DueAt.IsZero() {
		if year := row.DueAt.UTC().Year(); year < firstYear || year > lastYear {
			return "", nil, fmt.Errorf("%w: message %q is for the year %d: it must be between %d and %d",
				ErrContent, Identity(row.MessageID), year, firstYear, lastYear)
		}
		due, at = s.dialect.fromMicros(), row.DueAt.UnixMicro()
	}
	if err := errors.Join(checkText(row.OutboxRow, "its slot's subject", row.Subject),
		checkText(row.OutboxRow, "its slot's plan", row.Plan)); err != nil {
		return "", nil, err
	}
	slot := row.Slot
	if slot != "" {
		slot = Identity(slot)
	}
	return "INSERT INTO " + s.names.scheduled + alias + " (service, partition_no, message_id, destination, topic, message_key, " +
			"payload, metadata, sequenced, due_at, slot, slot_subject, slot_plan) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, " + due +
			", ?, ?, ?)",
		[]any{
			row.Service, row.Partition, row.MessageID, row.Destination, row.Topic, nullString(row.Key), nullBytes(row.Payload),
			metadata, row.Sequenced, at, nullString(slot), nullString(row.Subject), nullString(row.Plan),
		}, nil
}

// TouchSlot writes the message of a slot, unless the slot has one, and returns
// its state. The row stays locked until the unit of work ends, so that the slot
// isn't sent before: what the unit has done belongs to it. A message that was
// cancelled waits again.
func (s *Store) TouchSlot(ctx context.Context, tx Tx, row ScheduledRow) (ScheduledState, error) {
	state, err := s.touchSlot(ctx, tx, row)
	if err != nil {
		return "", fmt.Errorf("store: schedule for a slot: %w", err)
	}
	return state, nil
}

func (s *Store) touchSlot(ctx context.Context, tx Tx, row ScheduledRow) (state ScheduledState, err error) {
	alias, touch := " AS known", " ON CONFLICT (slot) DO UPDATE SET touched = known.touched + 1"
	if s.dialect == MySQL {
		alias, touch = "", " ON DUPLICATE KEY UPDATE touched = touched + 1"
	}
	query, args, err := s.insertScheduled(alias, &row)
	if err != nil {
		return "", err
	}
	if _, err := tx.ExecContext(ctx, query+touch, args...); err != nil {
		return "", err
	}
	slot := Identity(row.Slot)
	err = tx.GetContext(ctx, &state, "SELECT state FROM "+s.names.scheduled+" WHERE slot = ?"+s.dialect.current(), slot)
	if err != nil || state != ScheduledCancelled {
		return state, err
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.scheduled+" SET state = 'waiting' WHERE slot = ?", slot)
	return ScheduledWaiting, err
}

// DueScheduled returns messages of a service's partitions that are due, those
// that were due first before others: at most limit, and no further one once their
// payloads exceed maxBytes. It locks nothing.
func (s *Store) DueScheduled(
	ctx context.Context, service string, partitions []int, limit, maxBytes int,
) (ids []int64, err error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	query, args, err := sqlx.In("SELECT id, coalesce(length(payload), 0) AS size FROM "+s.names.scheduled+
		" WHERE service = ? AND state = 'waiting' AND due_at <= "+s.dialect.now()+
		" AND partition_no IN (?) ORDER BY due_at, id LIMIT ?", service, partitions, limit)
	if err != nil {
		return nil, err
	}
	var due []struct {
		ID   int64 `db:"id"`
		Size int   `db:"size"`
	}
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &due, s.dialect.rebind(query), args...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: look for what is due: %w", err)
	}
	size := 0
	for _, row := range due {
		if size > maxBytes {
			break
		}
		size += row.Size
		ids = append(ids, row.ID)
	}
	return ids, nil
}

// ErrLeftScheduled says that a scheduled message is to be left as it is.
var ErrLeftScheduled = errors.New("scheduled message is left")

// MoveScheduled puts messages that are due into the outbox, in the order in which
// they were due, and returns how many: those of the partitions whose leases still
// have their owner and epoch. What somebody else has locked, because an action of
// its slot is about to be committed, is left for the next time.
//
// postpone is asked about the rows of slots, with the database's time: it returns
// the row of a later slot that takes its place, or nil. A row of which its error matches
// ErrLeftScheduled stays as it is.
func (s *Store) MoveScheduled(
	ctx context.Context, leases map[int]Lease, ids []int64,
	postpone func(row ScheduledRow, now time.Time) (*ScheduledRow, error),
) (moved int, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		moved = 0
		fenced, err := s.fence(ctx, tx, leases)
		if err != nil || len(fenced) == 0 {
			return err
		}
		now, err := s.Now(ctx)
		if err != nil {
			return err
		}
		rows, err := s.lockDue(ctx, tx, ids)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(row ScheduledRow) bool { return !fenced[row.Partition] })
		moved, err = s.moveScheduled(ctx, tx, rows, func(row ScheduledRow) (*ScheduledRow, error) { return postpone(row, now) })
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store: move what is due into the outbox: %w", err)
	}
	return moved, nil
}

// fence returns the partitions whose leases are still their owner's, and keeps
// them so until the transaction ends.
func (s *Store) fence(ctx context.Context, tx Tx, leases map[int]Lease) (map[int]bool, error) {
	fenced := map[int]bool{}
	if len(leases) == 0 {
		return fenced, nil
	}
	var names []string
	for _, lease := range leases {
		names = append(names, lease.Name)
	}
	query, args, err := sqlx.In("SELECT name, owner, epoch FROM "+s.names.leases+
		" WHERE name IN (?) ORDER BY name"+s.dialect.forShare(), names)
	if err != nil {
		return nil, err
	}
	var now []leaseRow
	if err := tx.SelectContext(ctx, &now, query, args...); err != nil {
		return nil, err
	}
	for number, lease := range leases {
		fenced[number] = slices.ContainsFunc(now, func(l leaseRow) bool {
			return l.Name == lease.Name && l.Owner == lease.Owner && l.Epoch == lease.Epoch
		})
	}
	return fenced, nil
}

func (s *Store) lockDue(ctx context.Context, tx Tx, ids []int64) ([]ScheduledRow, error) {
	query, args, err := sqlx.In(s.scheduledQuery(false)+" WHERE id IN (?) AND state = 'waiting' AND due_at <= "+s.dialect.now()+
		" ORDER BY due_at, id"+s.dialect.forUpdateSkipLocked(), ids)
	if err != nil {
		return nil, err
	}
	var rows []scheduledRow
	if err := tx.SelectContext(ctx, &rows, query, args...); err != nil {
		return nil, err
	}
	return scheduledRows(rows)
}

func (s *Store) moveScheduled(
	ctx context.Context, tx Tx, rows []ScheduledRow, postpone func(ScheduledRow) (*ScheduledRow, error),
) (moved int, err error) {
	var out, sequenced []OutboxRow
	var sent, gone []int64
	for _, row := range rows {
		if row.Slot != "" {
			later, err := postpone(row)
			if errors.Is(err, ErrLeftScheduled) {
				continue
			}
			if err != nil {
				return 0, err
			}
			if later != nil {
				if err := s.postpone(ctx, tx, row, *later); err != nil {
					return 0, err
				}
				continue
			}
			sent = append(sent, row.ID)
		} else {
			gone = append(gone, row.ID)
		}
		if row.Sequenced {
			sequenced = append(sequenced, row.OutboxRow)
		} else {
			out = append(out, row.OutboxRow)
		}
	}
	if len(out)+len(sequenced) == 0 {
		return 0, nil
	}
	if err := s.insertNumbered(ctx, tx, sequenced); err != nil {
		return 0, err
	}
	if err := s.InsertOutbox(ctx, tx, out); err != nil {
		return 0, err
	}
	if len(gone) > 0 {
		if _, err := s.execIn(ctx, tx, "DELETE FROM "+s.names.scheduled+" WHERE id IN (?)", gone); err != nil {
			return 0, err
		}
	}
	if len(sent) > 0 {
		if _, err := s.execIn(ctx, tx, "UPDATE "+s.names.scheduled+" SET state = 'sent' WHERE id IN (?)", sent); err != nil {
			return 0, err
		}
	}
	return len(out) + len(sequenced), nil
}

// postpone leaves a slot to a later one.
func (s *Store) postpone(ctx context.Context, tx Tx, row, later ScheduledRow) error {
	if _, err := s.touchSlot(ctx, tx, later); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.scheduled+" SET state = 'cancelled' WHERE id = ?", row.ID)
	return err
}

// CancelScheduled takes back what a service has scheduled under a message's id and
// is not sent yet, and returns how many messages that were. It waits while one is
// being sent.
func (s *Store) CancelScheduled(ctx context.Context, tx Tx, service, messageID string) (cancelled int64, err error) {
	const waiting = " WHERE message_id = ? AND service = ? AND state = 'waiting' AND slot IS "
	for _, statement := range []string{
		"DELETE FROM " + s.names.scheduled + waiting + "NULL",
		// Of a slot it is kept: another action may need it again.
		"UPDATE " + s.names.scheduled + " SET state = 'cancelled'" + waiting + "NOT NULL",
	} {
		res, err := tx.ExecContext(ctx, statement, messageID, service)
		if err != nil {
			return 0, fmt.Errorf("store: cancel message %q: %w", Identity(messageID), err)
		}
		n, err := res.RowsAffected()
		if err != nil {
			return 0, err
		}
		cancelled += n
	}
	return cancelled, nil
}

// PurgeScheduled removes a service's slots that were due longer than age ago and
// are sent or cancelled: at most limit. It returns how many.
func (s *Store) PurgeScheduled(ctx context.Context, service string, age time.Duration, limit int) (purged int64, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		purged = 0
		var ids []int64
		err := tx.SelectContext(ctx, &ids, "SELECT id FROM "+s.names.scheduled+
			" WHERE service = ? AND state IN ('sent', 'cancelled') AND due_at < "+s.dialect.nowPlus()+" LIMIT ?",
			service, -age.Microseconds(), min(limit, maxPurge))
		if err != nil || len(ids) == 0 {
			return err
		}
		res, err := s.execIn(ctx, tx, "DELETE FROM "+s.names.scheduled+" WHERE id IN (?) AND state <> 'waiting'", ids)
		if err != nil {
			return err
		}
		purged, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store: purge scheduled messages: %w", err)
	}
	return purged, nil
}
