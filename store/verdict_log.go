package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// VerdictLogRow is one verdict on a repeated delivery, or one that was only
// observed.
type VerdictLogRow struct {
	Consumer  string
	MessageID string
	Verdict   Verdict
	// Reason says why, for people. It is cut at 2,000 bytes, and made text.
	Reason string
	// Observed says that the verdict had no effect.
	Observed bool
}

// LogVerdict appends to the verdict log in the context's unit of work.
func (s *Store) LogVerdict(ctx context.Context, tx Tx, row VerdictLogRow) error {
	row.Consumer, row.MessageID = Identity(row.Consumer), Identity(row.MessageID)
	return s.logStored(ctx, tx, row)
}

// logStored is LogVerdict for names as they are stored.
func (s *Store) logStored(ctx context.Context, tx Tx, row VerdictLogRow) error {
	if !row.Verdict.known() {
		return fmt.Errorf("store: unknown verdict %q", row.Verdict)
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO "+s.names.verdictLog+
		" (consumer, message_id, verdict, reason, observed) VALUES (?, ?, ?, ?, ?)",
		row.Consumer, row.MessageID, string(row.Verdict),
		reasonValue(row.Reason), row.Observed)
	if err != nil {
		return fmt.Errorf("store: log verdict: %w", err)
	}
	return nil
}

// LogVerdictOnce is LogVerdict, unless the log holds such an entry of the message
// already, with the same reason: for what may come again and again.
func (s *Store) LogVerdictOnce(ctx context.Context, tx Tx, row VerdictLogRow) error {
	var one int
	err := tx.GetContext(ctx, &one, "SELECT 1 FROM "+s.names.verdictLog+
		" WHERE consumer = ? AND message_id = ? AND verdict = ? AND reason = ? AND observed = ? LIMIT 1",
		Identity(row.Consumer), Identity(row.MessageID), string(row.Verdict), reasonValue(row.Reason), row.Observed)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return s.LogVerdict(ctx, tx, row)
	}
	return fmt.Errorf("store: look into the verdict log: %w", err)
}

// VerdictLogCount is one line of CountVerdictLog.
type VerdictLogCount struct {
	Consumer string  `db:"consumer" json:"consumer"`
	Verdict  Verdict `db:"verdict"  json:"verdict"`
	// Observed: the verdicts had no effect.
	Observed bool  `db:"observed" json:"observed"`
	Count    int64 `db:"n"        json:"count"`
}

// CountVerdictLog counts the log by consumer and verdict, those that were only
// observed by themselves. It reads the whole table.
func (s *Store) CountVerdictLog(ctx context.Context) ([]VerdictLogCount, error) {
	var counts []VerdictLogCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, "SELECT consumer, verdict, observed, count(*) AS n FROM "+s.names.verdictLog+
			" GROUP BY consumer, verdict, observed ORDER BY consumer, verdict, observed")
	})
	if err != nil {
		return nil, fmt.Errorf("store: count verdict log: %w", err)
	}
	return counts, nil
}

// PurgeVerdictLog deletes up to limit entries of a consumer that are older than
// the window and returns how many.
func (s *Store) PurgeVerdictLog(ctx context.Context, consumer string, window time.Duration, limit int) (int64, error) {
	var purged int64
	consumer = Identity(consumer)
	err := s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		purged = 0
		var ids []int64
		err := tx.SelectContext(ctx, &ids, "SELECT id FROM "+s.names.verdictLog+" WHERE consumer = ? AND created_at < "+
			s.dialect.nowPlus()+" ORDER BY created_at LIMIT ?", consumer, -window.Microseconds(), min(limit, maxPurge))
		if err != nil || len(ids) == 0 {
			return err
		}
		res, err := s.execIn(ctx, tx, "DELETE FROM "+s.names.verdictLog+" WHERE id IN (?)", ids)
		if err != nil {
			return err
		}
		purged, err = res.RowsAffected()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("store: purge verdict log of %q: %w", consumer, err)
	}
	return purged, nil
}
