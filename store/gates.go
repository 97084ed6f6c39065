package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// Line is what must stay in order at a consumer: the messages of a key, or a
// message without one by itself. While one of its messages is parked the line is
// held: it has a gate, and what comes for it waits.
type Line struct {
	// Consumer and Line tell it from others; they are stored as Identity says.
	Consumer, Line string
	// Key is what people call it; "" where a message has none.
	Key string
}

// KeyLine is the line of a key's messages.
func KeyLine(consumer, key string) Line {
	return Line{Consumer: consumer, Line: "key/" + Identity(key), Key: key}
}

// NamedKeyLine is KeyLine for a key that people name: in the form in which it is shown
// to them, if it is stored in another one.
func NamedKeyLine(consumer, key string) Line {
	return Line{Consumer: consumer, Line: "key/" + storedIdentity(key), Key: key}
}

// MessageLine is the line of one message without a key. Where it is held nothing
// else has to wait.
func MessageLine(consumer, inboxID string) Line {
	return Line{Consumer: consumer, Line: "message/" + inboxID}
}

// identity is the line as the tables know it.
func (l Line) identity() Line { return Line{Identity(l.Consumer), Identity(l.Line), Identity(l.Key)} }

// stored is identity for a line that people name, or that was read.
func (l Line) stored() Line {
	return Line{storedIdentity(l.Consumer), storedIdentity(l.Line), storedIdentity(l.Key)}
}

// Errors of lines, to be matched with errors.Is.
var (
	// ErrNotHeld says that a line has no gate: none of its messages is kept.
	ErrNotHeld = errors.New("line is not held")
	// ErrLinePaused says that a person holds the line.
	ErrLinePaused = errors.New("line is paused")
	// ErrClaimLost says that somebody else works the line by now, or nobody does.
	ErrClaimLost = errors.New("claim of the line is lost")
)

// Gate is the state of a line that is held.
type Gate struct {
	// Consumer, Line and Key are in the form in which they are stored.
	Consumer, Line, Key string
	// Paused: a person holds it, and nothing of it is handled.
	Paused bool
	// Due: it is or will be claimed, in DueIn by the database's clock; otherwise it
	// waits for a person. Of a claimed line DueIn is until the claim is over.
	Due   bool
	DueIn time.Duration
	// ClaimedBy is who works it now, "" for nobody.
	ClaimedBy  string
	ClaimEpoch int64
	// Stalls is how many claims in a row have ended without their owner's word, and
	// with the same first message.
	Stalls int
	// Kept and Gone count the messages that were put into the line and that have left
	// it since it is held. Gone may lag behind a little.
	Kept, Gone int64
	// HeldFor is since when it is held, by the database's clock.
	HeldFor time.Duration
}

// Waiting is how many messages the line has, or a few less.
func (g Gate) Waiting() int64 { return max(g.Kept-g.Gone, 0) }

type gateRow struct {
	Consumer   string         `db:"consumer"`
	Line       string         `db:"line"`
	Key        sql.NullString `db:"message_key"`
	Paused     bool           `db:"paused"`
	DueMicros  sql.NullInt64  `db:"due_us"`
	ClaimedBy  string         `db:"claimed_by"`
	ClaimEpoch int64          `db:"claim_epoch"`
	ClaimHead  sql.NullInt64  `db:"claim_head"`
	Stalls     int            `db:"stalls"`
	Kept       int64          `db:"kept"`
	Gone       int64          `db:"gone"`
	HeldMicros int64          `db:"held_us"`
}

func (r gateRow) gate() Gate {
	return Gate{
		Consumer: r.Consumer, Line: r.Line, Key: r.Key.String, Paused: r.Paused,
		Due: r.DueMicros.Valid, DueIn: time.Duration(r.DueMicros.Int64) * time.Microsecond,
		ClaimedBy: r.ClaimedBy, ClaimEpoch: r.ClaimEpoch, Stalls: r.Stalls, Kept: r.Kept, Gone: r.Gone,
		HeldFor: time.Duration(r.HeldMicros) * time.Microsecond,
	}
}

func (s *Store) gateQuery() string {
	now := s.dialect.micros(s.dialect.now())
	return "SELECT consumer, line, message_key, paused, " + s.dialect.micros("due_at") + " - " + now +
		" AS due_us, claimed_by, claim_epoch, claim_head, stalls, kept, gone, " + now + " - " +
		s.dialect.micros("held_since") + " AS held_us FROM " + s.names.gates
}

// GateOf returns a line's gate. Errors match ErrNotHeld when it has none. The line
// may be given as it was read.
func (s *Store) GateOf(ctx context.Context, line Line) (Gate, error) {
	line = line.stored()
	var row gateRow
	err := s.read(ctx, func(q sqlx.QueryerContext) error {
		query := s.dialect.rebind(s.gateQuery() + " WHERE consumer = ? AND line = ?")
		return sqlx.GetContext(ctx, q, &row, query, line.Consumer, line.Line)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Gate{}, fmt.Errorf("store: %w: %q of %q", ErrNotHeld, line.Line, line.Consumer)
	}
	if err != nil {
		return Gate{}, fmt.Errorf("store: read gate: %w", err)
	}
	return row.gate(), nil
}

// read runs a query in the context's unit of work, or outside of any.
func (s *Store) read(ctx context.Context, f func(q sqlx.QueryerContext) error) error {
	if u := s.UnitFromContext(ctx); u != nil {
		return f(unitQueryer{u})
	}
	return s.withConn(ctx, func(conn *sqlx.Conn) error { return f(conn) })
}

// lockGate locks a line's gate until the transaction ends; sql.ErrNoRows when it
// has none. It takes the line as it is stored.
func (s *Store) lockGate(ctx context.Context, tx Tx, line Line) (gateRow, error) {
	var row gateRow
	query := s.gateQuery() + " WHERE consumer = ? AND line = ?" + s.dialect.forUpdate()
	err := tx.GetContext(ctx, &row, query, line.Consumer, line.Line)
	return row, err
}

// hold locks a line's gate until the transaction ends, and makes it where there is
// none. It is looked for first: on MySQL an insert that meets a row leaves a shared
// lock on it, and two that want more of it then are a deadlock. The line is taken as
// it is stored.
func (s *Store) hold(ctx context.Context, tx Tx, line Line) (row gateRow, made bool, err error) {
	for range 3 {
		row, err := s.lockGate(ctx, tx, line)
		if !errors.Is(err, sql.ErrNoRows) {
			return row, false, err
		}
		query := "INSERT INTO " + s.names.gates + " (consumer, line, message_key) VALUES (?, ?, ?)"
		if s.dialect != MySQL {
			query += " ON CONFLICT (consumer, line) DO NOTHING"
		}
		res, err := tx.ExecContext(ctx, query, line.Consumer, line.Line, nullString(line.Key))
		if s.dialect == MySQL && s.dialect.duplicateKey(err) {
			continue
		}
		if err != nil {
			return gateRow{}, false, err
		}
		if n, err := res.RowsAffected(); err != nil || n == 1 {
			return gateRow{Consumer: line.Consumer, Line: line.Line, Key: sql.NullString{String: line.Key}}, true, err
		}
	}
	return gateRow{}, false, fmt.Errorf("the gate of line %q comes and goes", line.Line)
}

// Admission is what Admit has decided.
type Admission int

// What may become of a message that arrives.
const (
	// Admitted: it is new and its line is free: handle it.
	Admitted Admission = iota + 1
	// Known: the consumer has it already.
	Known
	// Held: it is new and its line is held. Its inbox row is Accepted and the line's
	// gate is locked until the unit of work ends: LineUp must follow.
	Held
)

// admitInboxSQL is insertInboxSQL for a line that isn't held. It is the one
// statement that every message needs where Parking is in the stack.
func admitInboxSQL(d Dialect, inbox, gates string) string {
	query := "INSERT INTO " + inbox + " (consumer, message_id, verdict, reason, fingerprint) SELECT "
	free := " WHERE NOT EXISTS (SELECT 1 FROM " + gates + " WHERE consumer = ? AND line = ?)"
	switch d {
	case MySQL:
		query += "?, ?, ?, ?, ? FROM DUAL" + free
	case SQLite:
		query += "?, ?, ?, ?, ?" + free + " ON CONFLICT (consumer, message_id) DO NOTHING"
	case Postgres: // takes parameters for text unless it is told
		query += "CAST(? AS text), CAST(? AS text), CAST(? AS text), CAST(? AS text), CAST(? AS bytea)" + free +
			" ON CONFLICT (consumer, message_id) DO NOTHING"
	}
	return d.rebind(query)
}

// Admit is InsertInbox for a message of a line: it records the message as it is
// given when the line is free, and as Accepted when it is held. For a free line and
// a new message it sends the one statement that InsertInbox sends, and locks
// nothing more.
func (s *Store) Admit(ctx context.Context, row InboxRow, line Line) (Admission, InboxRow, error) {
	u := s.UnitFromContext(ctx)
	if u == nil {
		return 0, InboxRow{}, ErrNoUnit
	}
	if err := row.validate(); err != nil {
		return 0, InboxRow{}, err
	}
	if err := u.openAttempt(ctx); err != nil {
		return 0, InboxRow{}, err
	}
	row.Consumer, row.MessageID = Identity(row.Consumer), Identity(row.MessageID)
	line = line.identity()
	// The row that stood in the way may be purged before it is read: then the
	// message is new again.
	for range 3 {
		inserted, err := s.insertWaiting(ctx, u, s.admitInbox, append(row.values(), line.Consumer, line.Line))
		if err != nil {
			return 0, InboxRow{}, err
		}
		if inserted {
			return Admitted, InboxRow{}, nil
		}
		// No verdict, but the sign to look.
		existing, err := s.getInbox(ctx, u.Tx(), row.Consumer, row.MessageID)
		if err == nil {
			return Known, existing, nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return 0, InboxRow{}, err
		}
		admission, err := s.admitHeld(ctx, u, row, line)
		if admission != 0 || err != nil {
			return admission, InboxRow{}, err
		}
	}
	return 0, InboxRow{}, fmt.Errorf("store: inbox row of message %q comes and goes", row.MessageID)
}

// admitHeld records a message whose line was held a moment ago. The gate is looked
// at behind the inbox row, and under its lock: it may be gone by then.
func (s *Store) admitHeld(ctx context.Context, u *Unit, row InboxRow, line Line) (Admission, error) {
	kept := row
	kept.Verdict, kept.Reason = Accepted, "waits behind others of its line"
	inserted, err := s.insertWaiting(ctx, u, s.insertInbox, kept.values())
	if err != nil || !inserted {
		return 0, err
	}
	_, err = s.lockGate(ctx, u.Tx(), line)
	if !errors.Is(err, sql.ErrNoRows) {
		if err != nil {
			return 0, fmt.Errorf("store: lock gate: %w", err)
		}
		return Held, nil
	}
	return Admitted, s.decideInbox(ctx, u.Tx(), row)
}

// decideInbox gives an open row its verdict and reason.
func (s *Store) decideInbox(ctx context.Context, tx Tx, row InboxRow) error {
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.inbox+" SET verdict = ?, reason = ?, processed_at = "+s.dialect.now()+
		" WHERE consumer = ? AND message_id = ? AND verdict IN "+openVerdicts,
		string(row.Verdict), reasonValue(row.Reason), row.Consumer, row.MessageID)
	if err != nil {
		return fmt.Errorf("store: decide inbox row: %w", err)
	}
	return nil
}

// insertWaiting inserts an inbox row. What it waits for is another copy of the
// message.
func (s *Store) insertWaiting(ctx context.Context, u *Unit, query string, values []any) (inserted bool, err error) {
	start := time.Now()
	inserted, err = s.tryInsertInbox(ctx, u, query, values)
	u.waited(time.Since(start))
	if errors.Is(err, ErrLockTimeout) {
		return false, fmt.Errorf("%w: %w", errWaitedForCopy, err)
	}
	return inserted, err
}

// Look reports what a consumer knows of a message, and whether the message's line
// is held, as far as that is committed. It locks nothing.
func (s *Store) Look(ctx context.Context, consumer, messageID string, line Line) (verdict Verdict, known, held bool, err error) {
	line = line.identity()
	var row struct {
		Verdict sql.NullString `db:"verdict"`
		Held    int            `db:"held"`
	}
	query := s.dialect.rebind("SELECT (SELECT verdict FROM " + s.names.inbox + " WHERE consumer = ? AND message_id = ?)" +
		" AS verdict, (SELECT count(*) FROM " + s.names.gates + " WHERE consumer = ? AND line = ?) AS held")
	err = s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.GetContext(ctx, q, &row, query, Identity(consumer), Identity(messageID), line.Consumer, line.Line)
	})
	if err != nil {
		return "", false, false, fmt.Errorf("store: look for message %q: %w", Identity(messageID), err)
	}
	return Verdict(row.Verdict.String), row.Verdict.Valid, row.Held > 0, nil
}

// headRow is the first open message of a line.
type headRow struct {
	ID     int64         `db:"id"`
	Status ParkedStatus  `db:"status"`
	Due    sql.NullInt64 `db:"due_us"`
}

// headOf returns nil for an empty line. Its gate must be locked.
func (s *Store) headOf(ctx context.Context, tx Tx, consumer, line string) (*headRow, error) {
	var head headRow
	query := "SELECT id, status, " + s.dialect.micros("due_at") + " - " + s.dialect.micros(s.dialect.now()) + " AS due_us FROM " +
		s.names.parked + " WHERE consumer = ? AND line = ? ORDER BY id LIMIT 1" + s.dialect.current()
	err := tx.GetContext(ctx, &head, query, consumer, line)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none
	}
	return &head, err
}

// settle writes when a locked line is to be worked next, by its first message, and
// gives the claim back if there is one. A line that is empty is opened: nobody can
// be lining up, who would have its gate locked.
func (s *Store) settle(ctx context.Context, tx Tx, g gateRow) (opened bool, err error) {
	head, err := s.headOf(ctx, tx, g.Consumer, g.Line)
	if err != nil {
		return false, err
	}
	if head == nil && !g.Paused {
		_, err := tx.ExecContext(ctx, "DELETE FROM "+s.names.gates+" WHERE consumer = ? AND line = ?", g.Consumer, g.Line)
		return err == nil, err
	}
	due, args := "NULL", []any(nil)
	switch {
	case g.Paused || head.Status.forPerson():
	case head.Status.timed():
		due, args = "(SELECT due_at FROM "+s.names.parked+" WHERE id = ?)", []any{head.ID}
	default:
		due = s.dialect.now()
	}
	epoch := ""
	if g.ClaimedBy != "" {
		epoch = ", claimed_by = '', claim_epoch = claim_epoch + 1"
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.gates+" SET due_at = "+due+", gone = ?"+epoch+
		" WHERE consumer = ? AND line = ?", append(args, g.Gone, g.Consumer, g.Line)...)
	if err != nil || due == "NULL" {
		return false, err
	}
	return false, s.afterCommitOf(ctx, tx, func() { s.wakeLines(g.Consumer) })
}
