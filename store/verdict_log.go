package store

import (
	"context"
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
	Reason    string
	// Observed says that the verdict had no effect.
	Observed bool
}

// LogVerdict appends to the verdict log in the context's unit of work.
func (s *Store) LogVerdict(ctx context.Context, tx Tx, row VerdictLogRow) error {
	if !row.Verdict.known() {
		return fmt.Errorf("store: unknown verdict %q", row.Verdict)
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO "+s.names.verdictLog+
		" (consumer, message_id, verdict, reason, observed) VALUES (?, ?, ?, ?, ?)",
		Identity(row.Consumer), Identity(row.MessageID), string(row.Verdict),
		nullString(plainText(row.Reason, maxReason)), row.Observed)
	if err != nil {
		return fmt.Errorf("store: log verdict: %w", err)
	}
	return nil
}

// CountVerdictLog counts the log of a consumer by verdict.
func (s *Store) CountVerdictLog(ctx context.Context, consumer string) (map[Verdict]int64, error) {
	var counts []InboxCount
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, s.dialect.rebind("SELECT consumer, verdict, count(*) AS n FROM "+
			s.names.verdictLog+" WHERE consumer = ? GROUP BY consumer, verdict"), Identity(consumer))
	})
	if err != nil {
		return nil, fmt.Errorf("store: count verdict log: %w", err)
	}
	byVerdict := map[Verdict]int64{}
	for _, c := range counts {
		byVerdict[c.Verdict] = c.Count
	}
	return byVerdict, nil
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
