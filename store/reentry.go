package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrParkedChanged says that a person has changed a kept message since it was read.
var ErrParkedChanged = errors.New("parked message was changed meanwhile")

// LookAgain reports, ahead of Readmit, whether a kept message is to be handled as it was
// read, as far as that is committed: open is false when it is final by now. It locks
// nothing. Errors match ErrClaimLost, ErrLinePaused and ErrParkedChanged.
func (s *Store) LookAgain(ctx context.Context, ref HeldRef) (open bool, err error) {
	var read struct {
		Verdict sql.NullString `db:"verdict"`
		Status  sql.NullString `db:"status"`
		Edits   sql.NullInt64  `db:"edits"`
		Mine    int            `db:"mine"`
		Paused  int            `db:"paused"`
	}
	gate := "(SELECT count(*) FROM " + s.names.gates + " WHERE consumer = ? AND line = ? AND claimed_by = ? AND claim_epoch = ?"
	query := s.dialect.rebind("SELECT (SELECT verdict FROM " + s.names.inbox + " WHERE consumer = ? AND message_id = ?)" +
		" AS verdict, (SELECT status FROM " + s.names.parked + " WHERE id = ?) AS status, " +
		"(SELECT edits FROM " + s.names.parked + " WHERE id = ?) AS edits, " +
		gate + ") AS mine, " + gate + " AND paused) AS paused")
	args := []any{ref.Consumer, ref.InboxID, ref.ID, ref.ID}
	for range 2 {
		args = append(args, ref.Consumer, ref.Line, ref.Owner, ref.Epoch)
	}
	err = s.read(ctx, func(q sqlx.QueryerContext) error { return sqlx.GetContext(ctx, q, &read, query, args...) })
	switch known := ref.InboxID == "" || read.Verdict.Valid && Verdict(read.Verdict.String).Open(); {
	case err != nil:
		return false, fmt.Errorf("store: look at parked message %d again: %w", ref.ID, err)
	case !known, !ParkedStatus(read.Status.String).Open():
		return false, nil
	case read.Mine == 0:
		return false, ref.lost()
	case read.Paused > 0:
		return false, fmt.Errorf("%w: %q of %q", ErrLinePaused, ref.Line, ref.Consumer)
	case int(read.Edits.Int64) != ref.Edits:
		return false, fmt.Errorf("%w: message %d", ErrParkedChanged, ref.ID)
	}
	return true, nil
}

// Readmit begins, in the context's unit of work, to handle a kept message again: it
// locks the message's inbox row until the unit ends, and reports whether it is still
// open. Where it isn't there is nothing to handle, but FinishParked must follow all
// the same, or the message would be offered for ever.
//
// Errors match ErrClaimLost when the line isn't the owner's any more, ErrLinePaused
// when a person holds it, and ErrLockTimeout when another run of the same message, or
// a person, has the row for too long. None of them says anything of the message.
func (s *Store) Readmit(ctx context.Context, ref HeldRef) (open bool, err error) {
	u := s.UnitFromContext(ctx)
	if u == nil {
		return false, ErrNoUnit
	}
	if err := u.openAttempt(ctx); err != nil {
		return false, err
	}
	if ref.InboxID == "" { // nobody delivered it: only its line tells it from another run
		return true, nil
	}
	start := time.Now()
	if s.dialect == Postgres {
		open, err = s.lockIfOpen(ctx, u.Tx(), ref)
	}
	if err == nil && !open {
		open, err = s.lockAndLook(ctx, u.Tx(), ref)
	}
	u.waited(time.Since(start))
	if errors.Is(err, ErrLockTimeout) {
		return false, fmt.Errorf("%w: %w", errWaitedForCopy, err)
	}
	return open, err
}

// lockIfOpen is lockAndLook for the usual case. A statement that answers by its number
// of rows goes together with BEGIN where the driver can send both at once, which is a
// quarter of what a message of a long line costs.
func (s *Store) lockIfOpen(ctx context.Context, tx Tx, ref HeldRef) (open bool, err error) {
	query := "SELECT 1 FROM " + s.names.inbox + " WHERE consumer = ? AND message_id = ? AND verdict IN " + openVerdicts +
		" AND EXISTS (SELECT 1 FROM " + s.names.gates +
		" WHERE consumer = ? AND line = ? AND claimed_by = ? AND claim_epoch = ? AND NOT paused)" + s.dialect.forUpdate()
	result, err := tx.ExecContext(ctx, query, ref.Consumer, ref.InboxID, ref.Consumer, ref.Line, ref.Owner, ref.Epoch)
	if err != nil {
		return false, fmt.Errorf("store: readmit: %w", err)
	}
	n, err := result.RowsAffected()
	return n == 1, err
}

// lockAndLook locks a message's inbox row, and says why it isn't to be handled.
func (s *Store) lockAndLook(ctx context.Context, tx Tx, ref HeldRef) (open bool, err error) {
	var read struct {
		Verdict Verdict `db:"verdict"`
		Mine    int     `db:"mine"`
		Paused  int     `db:"paused"`
	}
	gate := "(SELECT count(*) FROM " + s.names.gates + " WHERE consumer = ? AND line = ? AND claimed_by = ? AND claim_epoch = ?"
	query := "SELECT verdict, " + gate + ") AS mine, " + gate + " AND paused) AS paused FROM " + s.names.inbox +
		" WHERE consumer = ? AND message_id = ?" + s.dialect.forUpdate()
	claim := []any{ref.Consumer, ref.Line, ref.Owner, ref.Epoch}
	err = tx.GetContext(ctx, &read, query, append(append(claim, claim...), ref.Consumer, ref.InboxID)...)
	switch {
	case errors.Is(err, sql.ErrNoRows): // forgotten: it was final
		return false, nil
	case err != nil:
		return false, fmt.Errorf("store: readmit: %w", err)
	case read.Mine == 0:
		return false, ref.lost()
	case read.Paused > 0:
		return false, fmt.Errorf("%w: %q of %q", ErrLinePaused, ref.Line, ref.Consumer)
	}
	return read.Verdict.Open(), nil
}

// FinishParked ends a kept message in the unit of work that has handled it, as its
// last statement: it makes sure that the claim is still its owner's, and keeps it so
// until the commit, gives the inbox row its verdict, and takes the message out of its
// line. One that has never failed is removed; its inbox row tells of it. attempts is
// how often it was run.
//
// Errors match ErrClaimLost when somebody else has the line by now, and
// ErrParkedChanged when a person has edited the message since it was read: then the
// unit must be rolled back.
func (s *Store) FinishParked(
	ctx context.Context, tx Tx, ref HeldRef, verdict Verdict, reason string, failedBefore bool, attempts int,
) error {
	if verdict.Open() || !verdict.known() {
		return fmt.Errorf("store: %q doesn't finish a message", verdict)
	}
	if s.dialect == Postgres && ref.InboxID != "" && !failedBefore {
		return s.finishWaiting(ctx, tx, ref, verdict, reason)
	}
	var g gateRow
	err := tx.GetContext(ctx, &g, s.gateQuery()+" WHERE consumer = ? AND line = ?"+s.dialect.forShare(), ref.Consumer, ref.Line)
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && (g.ClaimedBy != ref.Owner || g.ClaimEpoch != ref.Epoch):
		return ref.lost()
	case err != nil:
		return fmt.Errorf("store: look at the claim of line %q: %w", ref.Line, err)
	}
	if ref.InboxID != "" {
		err := s.decideInbox(ctx, tx, InboxRow{Consumer: ref.Consumer, MessageID: ref.InboxID, Verdict: verdict, Reason: reason})
		if err != nil {
			return err
		}
	}
	closed, err := s.closeParked(ctx, tx, ref, verdict, failedBefore, attempts)
	if err != nil {
		return err
	}
	if !closed {
		return s.stillOpen(ctx, tx, ref.ID)
	}
	if !failedBefore || ref.InboxID == "" {
		return nil
	}
	return s.logStored(ctx, tx, VerdictLogRow{
		Consumer: ref.Consumer, MessageID: ref.InboxID, Verdict: verdict,
		Reason: joinReason(reason, fmt.Sprintf("at attempt %d, after it was parked", attempts)),
	})
}

// finishWaiting is FinishParked of a message that has never failed, in one statement: a
// long line is mostly such messages. The others change rows only if the claim is found,
// and so behind its lock; a row that was changed since the statement's snapshot is
// looked at as it is by then.
func (s *Store) finishWaiting(ctx context.Context, tx Tx, ref HeldRef, verdict Verdict, reason string) error {
	query := "WITH claim AS (SELECT 1 FROM " + s.names.gates +
		" WHERE consumer = ? AND line = ? AND claimed_by = ? AND claim_epoch = ?" + s.dialect.forShare() + "), " +
		"decided AS (UPDATE " + s.names.inbox + " SET verdict = ?, reason = ?, processed_at = " + s.dialect.now() +
		" WHERE consumer = ? AND message_id = ? AND verdict IN " + openVerdicts + " AND EXISTS (SELECT 1 FROM claim)), " +
		"closed AS (DELETE FROM " + s.names.parked + " WHERE id = ? AND status IN ('waiting', 'gap') AND edits = ?" +
		" AND EXISTS (SELECT 1 FROM claim) RETURNING id) " +
		"SELECT (SELECT count(*) FROM claim) AS mine, (SELECT count(*) FROM closed) AS closed"
	var found struct {
		Mine   int `db:"mine"`
		Closed int `db:"closed"`
	}
	err := tx.GetContext(ctx, &found, query, ref.Consumer, ref.Line, ref.Owner, ref.Epoch,
		string(verdict), reasonValue(reason), ref.Consumer, ref.InboxID, ref.ID, ref.Edits)
	switch {
	case err != nil:
		return fmt.Errorf("store: finish parked message %d: %w", ref.ID, err)
	case found.Mine == 0:
		return ref.lost()
	case found.Closed == 0:
		return s.stillOpen(ctx, tx, ref.ID)
	}
	return nil
}

func joinReason(reason, more string) string {
	if reason == "" {
		return more
	}
	return reason + "; " + more
}

// closeParked takes a message out of its line, if it is as it was read.
func (s *Store) closeParked(
	ctx context.Context, tx Tx, ref HeldRef, verdict Verdict, failedBefore bool, attempts int,
) (closed bool, err error) {
	query, args := "DELETE FROM "+s.names.parked+" WHERE id = ? AND status IN ('waiting', 'gap')", []any(nil)
	if failedBefore {
		status := StatusDone
		switch verdict { //nolint:exhaustive // all others are done
		case Expired:
			status = StatusExpired
		case Discarded:
			status = StatusDiscarded
		}
		now := s.dialect.now()
		query = "UPDATE " + s.names.parked + " SET status = ?, line = NULL, due_at = NULL, finished_at = " + now +
			", updated_at = " + now + ", attempts = CASE WHEN attempts > ? THEN attempts ELSE ? END WHERE id = ? AND status IN " +
			openStatuses
		args = []any{string(status), attempts, attempts}
	}
	res, err := tx.ExecContext(ctx, query+" AND edits = ?", append(args, ref.ID, ref.Edits)...)
	if err != nil {
		return false, fmt.Errorf("store: finish parked message %d: %w", ref.ID, err)
	}
	n, err := res.RowsAffected() // status changes: clientFoundRows makes no difference
	return n == 1, err
}

// stillOpen refuses to finish a message that a person has changed since it was read.
// One that is final already may be finished again.
func (s *Store) stillOpen(ctx context.Context, tx Tx, id int64) error {
	var status ParkedStatus
	err := tx.GetContext(ctx, &status, "SELECT status FROM "+s.names.parked+" WHERE id = ?", id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil && status.Open() {
		err = fmt.Errorf("%w: message %d", ErrParkedChanged, id)
	}
	return err
}

// Failure is what is to become of a kept message that has failed again.
type Failure struct {
	// Status is StatusDelayed, StatusGap, StatusParked or StatusReview.
	Status ParkedStatus
	// DueIn is when a delayed one, or one behind a gap, is tried again.
	DueIn time.Duration
	// Gap says that something before the message is missing: it isn't the message that has
	// failed, and no attempt is counted.
	Gap *GapRef
	// Class, Reason, Chain and what groups it, as in ParkedRow.
	Class, Reason                     string
	ErrorType, ErrorGroup, ErrorTitle string
	Chain                             []ErrorLink
	// Attempt is added to the history.
	Attempt AttemptRecord
	// Subject and Diff are a review's.
	Subject string
	Diff    []byte
	// Before runs between the inbox row and the gate, as Park's. Optional.
	Before func(ctx context.Context, tx Tx) error
}

// FailParked records, in a transaction of its own, that a kept message has failed
// again, and gives the claim back. Errors match ErrClaimLost when somebody else has
// the line by now, and ErrParkedChanged when a person has edited or released the message
// since it was read, whose word is newer than the run that has failed: then nothing is
// recorded, and the claim stays. A message that is final by now stays so.
func (s *Store) FailParked(ctx context.Context, ref HeldRef, f Failure) error {
	if !f.Status.timed() && !f.Status.forPerson() {
		return fmt.Errorf("store: a message that has failed doesn't become %q", f.Status)
	}
	diff, err := s.seal(ctx, f.Diff)
	if err != nil {
		return err
	}
	left, putBack := ref.takeLeft()
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		open, err := s.lockOpen(ctx, tx, ref.Consumer, ref.InboxID)
		if err != nil {
			return err
		}
		if open && f.Before != nil {
			if err := f.Before(ctx, tx); err != nil {
				return err
			}
		}
		g, err := s.lockClaim(ctx, tx, ref.Claim)
		if err != nil {
			return err
		}
		if open {
			err = s.recordFailure(ctx, tx, ref, f, diff)
		} else { // handled elsewhere: it must not be offered for ever
			_, err = s.closeParked(ctx, tx, ref, Applied, true, 0)
		}
		if err != nil {
			return err
		}
		g.Gone += left
		_, err = s.settle(ctx, tx, g)
		return err
	})
	if err != nil {
		putBack()
		return fmt.Errorf("store: record the failure of parked message %d: %w", ref.ID, err)
	}
	return nil
}

// lockOpen locks a message's inbox row and reports whether it is open. It takes names
// as they are stored. A message without an inbox row is.
func (s *Store) lockOpen(ctx context.Context, tx Tx, consumer, inboxID string) (open bool, err error) {
	if inboxID == "" {
		return true, nil
	}
	var verdict string
	err = tx.GetContext(ctx, &verdict, "SELECT verdict FROM "+s.names.inbox+" WHERE consumer = ? AND message_id = ?"+
		s.dialect.forUpdate(), consumer, inboxID)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return Verdict(verdict).Open(), err
}

func (s *Store) recordFailure(ctx context.Context, tx Tx, ref HeldRef, f Failure, diff []byte) error {
	rows, err := s.readParked(ctx, " WHERE id = ?", ref.ID)
	if err != nil || len(rows) == 0 || !rows[0].Status.Open() {
		return err
	}
	row := rows[0]
	released := row.Status == StatusReleased && ref.Status != "" && ref.Status != StatusReleased
	if released || row.Edits != ref.Edits {
		return fmt.Errorf("%w: message %d", ErrParkedChanged, ref.ID)
	}
	tries := 0
	if f.Gap == nil {
		tries = 1
		row.Attempts++
		f.Attempt.Attempt = row.Attempts
		row.History = append(row.History, f.Attempt)
	}
	row.Class, row.Reason, row.Chain = f.Class, f.Reason, f.Chain
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = f.ErrorType, f.ErrorGroup, f.ErrorTitle
	values, err := failureValues(row)
	if err != nil {
		return err
	}
	set := "status = ?, attempts = ?, tries = tries + ?, gap_place = ?, gap_sequence = ?, class = ?, reason = ?, " +
		"error_type = ?, error_group = ?, error_title = ?, chain = ?, history = ?, updated_at = " + s.dialect.now()
	args := append(append([]any{string(f.Status), row.Attempts, tries}, f.Gap.values()...), values...)
	if f.Status.timed() {
		set, args = set+", due_at = "+s.dialect.nowPlus(), append(args, f.DueIn.Microseconds())
	} else {
		set += ", due_at = NULL"
	}
	if f.Status == StatusReview {
		set += ", subject = ?, diff = ?, decision = ''"
		args = append(args, nullString(Identity(f.Subject)), nullBytes(diff))
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET "+set+" WHERE id = ?", append(args, ref.ID)...)
	if err != nil || ref.InboxID == "" {
		return err
	}
	decided := InboxRow{Consumer: ref.Consumer, MessageID: ref.InboxID, Verdict: f.Status.verdict(), Reason: f.Reason}
	if err := s.decideInbox(ctx, tx, decided); err != nil || f.Status.timed() {
		return err
	}
	return s.logStored(ctx, tx, VerdictLogRow{
		Consumer: ref.Consumer, MessageID: ref.InboxID, Verdict: decided.Verdict, Reason: f.Reason,
	})
}
