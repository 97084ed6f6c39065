package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// Verdict is what became of a message at a consumer.
type Verdict string

// Final verdicts: nothing more will happen with the message.
const (
	Applied   Verdict = "applied"
	Duplicate Verdict = "duplicate"
	Stale     Verdict = "stale"
	Protected Verdict = "protected"
	Discarded Verdict = "discarded"
	Expired   Verdict = "expired"
)

// Open verdicts: the message is kept and will be decided later. Their rows are
// never purged.
const (
	Accepted Verdict = "accepted"
	Gap      Verdict = "gap"
	Parked   Verdict = "parked"
	Conflict Verdict = "conflict"
)

const openVerdicts = "('accepted', 'gap', 'parked', 'conflict')"

func (v Verdict) known() bool {
	switch v {
	case Accepted, Gap, Parked, Conflict, Applied, Duplicate, Stale, Protected, Discarded, Expired:
		return true
	}
	return false
}

// Open reports whether the message is still to be decided.
func (v Verdict) Open() bool {
	switch v {
	case Accepted, Gap, Parked, Conflict:
		return true
	case Applied, Duplicate, Stale, Protected, Discarded, Expired:
	}
	return false
}

// InboxRow is a consumer's memory of one message.
type InboxRow struct {
	// Consumer and MessageID tell it from others; they are stored as Identity says.
	Consumer  string
	MessageID string
	Verdict   Verdict
	// Reason says why, for people. It is cut at 2,000 bytes, and made text.
	Reason string
	// Fingerprint is a hash of the payload, of 32 bytes at most. Optional.
	Fingerprint []byte
	// ProcessedAt is set by the database, whose clock decides when it is purged.
	ProcessedAt time.Time
}

// SameContent reports whether the row was written for a payload with this
// fingerprint. A row without one, or no fingerprint to compare, is no proof of
// the contrary.
func (r InboxRow) SameContent(fingerprint []byte) bool {
	return r.Fingerprint == nil || fingerprint == nil || bytes.Equal(r.Fingerprint, fingerprint)
}

// InsertInbox records a message in the context's unit of work. When the consumer
// has the message already it returns that row, and inserted is false; while
// another transaction is about to record it, it waits for that one's outcome,
// bounded by Config.LockTimeout (the error then matches ErrLockTimeout).
func (s *Store) InsertInbox(ctx context.Context, row InboxRow) (existing InboxRow, inserted bool, err error) {
	u := s.UnitFromContext(ctx)
	if u == nil {
		return InboxRow{}, false, ErrNoUnit
	}
	if err := row.validate(); err != nil {
		return InboxRow{}, false, err
	}
	if err := u.openAttempt(ctx); err != nil {
		return InboxRow{}, false, err
	}
	row.Consumer, row.MessageID = Identity(row.Consumer), Identity(row.MessageID)
	// The row that stood in the way may be purged before it is read: then the
	// message is new again.
	for range 3 {
		inserted, err = s.insertWaiting(ctx, u, s.insertInbox, row.values())
		if inserted || err != nil {
			return InboxRow{}, inserted, err
		}
		existing, err = s.getInbox(ctx, u.Tx(), row.Consumer, row.MessageID)
		if !errors.Is(err, sql.ErrNoRows) {
			return existing, false, err
		}
	}
	return InboxRow{}, false, fmt.Errorf("store: inbox row of message %q comes and goes", row.MessageID)
}

// ExpireInbox makes the verdict of a row that the unit of work has inserted
// Expired, with its Reason, if a time has come by the database's clock.
func (s *Store) ExpireInbox(ctx context.Context, tx Tx, row InboxRow, expires time.Time) (expired bool, err error) {
	expired, err = s.Past(ctx, tx, expires)
	if err != nil || !expired {
		return false, err
	}
	row.Verdict = Expired
	return true, s.RuleInbox(ctx, tx, row)
}

// RuleInbox gives a row that the unit of work has inserted another Verdict and Reason.
func (s *Store) RuleInbox(ctx context.Context, tx Tx, row InboxRow) error {
	if err := row.validate(); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.inbox+" SET verdict = ?, reason = ? WHERE consumer = ? AND message_id = ?",
		string(row.Verdict), reasonValue(row.Reason), Identity(row.Consumer), Identity(row.MessageID))
	if err != nil {
		return fmt.Errorf("store: rule inbox row: %w", err)
	}
	return nil
}

// Past reports whether a time has come by the database's clock.
func (s *Store) Past(ctx context.Context, tx Tx, t time.Time) (bool, error) {
	var us int64
	if err := tx.GetContext(ctx, &us, "SELECT "+s.dialect.micros(s.dialect.now())); err != nil {
		return false, fmt.Errorf("store: read the database's clock: %w", err)
	}
	return !timeFromMicros(us).Before(t), nil
}

// errWaitedForCopy marks a lock timeout that must not be waited for once more:
// waiting copies would use up the pool.
var errWaitedForCopy = errors.New("another copy of the message is being handled")

func (r InboxRow) validate() error {
	if !r.Verdict.known() {
		return fmt.Errorf("store: unknown verdict %q", r.Verdict)
	}
	if len(r.Fingerprint) > maxFingerprint {
		return fmt.Errorf("%w: a fingerprint has at most %d bytes, not %d", ErrContent, maxFingerprint, len(r.Fingerprint))
	}
	return nil
}

const maxFingerprint = 32

// ReasonObserved is the reason of a row whose message was handled while Dedupe
// only observed.
const ReasonObserved = "observed"

// insertInboxSQL is made once: it is the one statement that every message needs.
func insertInboxSQL(d Dialect, inbox string) string {
	query := "INSERT INTO " + inbox + " (consumer, message_id, verdict, reason, fingerprint) VALUES (?, ?, ?, ?, ?)"
	if d != MySQL {
		query += " ON CONFLICT (consumer, message_id) DO NOTHING"
	}
	return d.rebind(query)
}

func (s *Store) tryInsertInbox(ctx context.Context, u *Unit, query string, values []any) (inserted bool, err error) {
	res, err := guarded{unit: u}.Exec(ctx, query, namedValues(values))
	// On MySQL not INSERT IGNORE, which hides other errors, and whose count
	// clientFoundRows changes: the duplicate is an error with a number.
	if s.dialect == MySQL && s.dialect.duplicateKey(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func (r InboxRow) values() []any {
	return []any{r.Consumer, r.MessageID, string(r.Verdict), reasonValue(r.Reason), nullBytes(r.Fingerprint)}
}

// getInbox reads what a consumer remembers of a message; sql.ErrNoRows when it
// remembers nothing. It takes identities as they are stored: what looks like a
// hash would be hashed again.
func (s *Store) getInbox(ctx context.Context, tx Tx, consumer, messageID string) (InboxRow, error) {
	var row inboxRow
	if err := tx.GetContext(ctx, &row, s.inboxQuery()+s.dialect.current(), consumer, messageID); err != nil {
		return InboxRow{}, err
	}
	return row.of(consumer, messageID), nil
}

func (s *Store) inboxQuery() string {
	return "SELECT verdict, reason, fingerprint, " + s.dialect.micros("processed_at") +
		" AS processed_at_us FROM " + s.names.inbox + " WHERE consumer = ? AND message_id = ?"
}

type inboxRow struct {
	Verdict     string         `db:"verdict"`
	Reason      sql.NullString `db:"reason"`
	Fingerprint []byte         `db:"fingerprint"`
	ProcessedAt int64          `db:"processed_at_us"`
}

func (r inboxRow) of(consumer, messageID string) InboxRow {
	return InboxRow{
		Consumer: consumer, MessageID: messageID, Verdict: Verdict(r.Verdict), Reason: r.Reason.String,
		Fingerprint: r.Fingerprint, ProcessedAt: timeFromMicros(r.ProcessedAt),
	}
}

// maxPurge keeps a batch's statement below the databases' limits on parameters
// (SQLite's 32,766 is the lowest), and its transaction short.
const maxPurge = 10_000

// PurgeInbox deletes up to limit final rows of a consumer that are older than
// the window by the database's clock, oldest first, in a transaction of its own,
// and returns how many. A limit above 10,000 counts as 10,000.
func (s *Store) PurgeInbox(ctx context.Context, consumer string, window time.Duration, limit int) (int64, error) {
	due := " consumer = ? AND processed_at < " + s.dialect.nowPlus() + " AND verdict NOT IN " + openVerdicts
	cut := -window.Microseconds()
	var ids []string
	var purged int64
	consumer = Identity(consumer)
	err := s.InTx(WithAbout(ctx, About{Consumer: consumer}), func(ctx context.Context, tx Tx) error {
		ids, purged = ids[:0], 0
		err := tx.SelectContext(ctx, &ids, "SELECT message_id FROM "+s.names.inbox+" WHERE"+due+
			" ORDER BY processed_at LIMIT ?", consumer, cut, min(limit, maxPurge))
		if err != nil || len(ids) == 0 {
			return err
		}
		// Said again: a row may have been written anew since it was read.
		res, err := s.execIn(ctx, tx, "DELETE FROM "+s.names.inbox+" WHERE"+due+" AND message_id IN (?)", consumer, cut, ids)
		if err != nil {
			return err
		}
		purged, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store: purge inbox of %q: %w", consumer, err)
	}
	return purged, nil
}

// InboxCount is how many messages of a consumer have a verdict.
type InboxCount struct {
	Consumer string  `db:"consumer" json:"consumer"`
	Verdict  Verdict `db:"verdict" json:"verdict"`
	Count    int64   `db:"n" json:"count"`
}

// CountInbox counts the inbox by consumer and verdict. It reads the whole table.
func (s *Store) CountInbox(ctx context.Context) ([]InboxCount, error) {
	var counts []InboxCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, "SELECT consumer, verdict, count(*) AS n FROM "+s.names.inbox+
			" GROUP BY consumer, verdict ORDER BY consumer, verdict")
	})
	if err != nil {
		return nil, fmt.Errorf("store: count inbox: %w", err)
	}
	return counts, nil
}
