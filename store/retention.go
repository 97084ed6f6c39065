package store

import (
	"context"
	"fmt"
	"time"
)

// PurgeParked deletes up to limit messages that were parked and became final longer
// than the window ago by the database's clock, oldest first, in a transaction of its
// own, and returns how many. Those that are open stay, however old they are. A limit
// above 10,000 counts as 10,000.
func (s *Store) PurgeParked(ctx context.Context, window time.Duration, limit int) (int64, error) {
	purged, err := s.purgeByID(ctx, s.names.parked, "finished_at", " AND status NOT IN "+openStatuses, window, limit)
	if err != nil {
		return 0, fmt.Errorf("store: purge parked messages: %w", err)
	}
	return purged, nil
}

// PurgeAudit deletes up to limit entries of the audit that are older than the window
// by the database's clock, oldest first, in a transaction of its own, and returns how
// many. A limit above 10,000 counts as 10,000.
func (s *Store) PurgeAudit(ctx context.Context, window time.Duration, limit int) (int64, error) {
	purged, err := s.purgeByID(ctx, s.names.audit, "at", "", window, limit)
	if err != nil {
		return 0, fmt.Errorf("store: purge the audit: %w", err)
	}
	return purged, nil
}

func (s *Store) purgeByID(
	ctx context.Context, table, column, and string, window time.Duration, limit int,
) (purged int64, err error) {
	due, cut := " "+column+" < "+s.dialect.nowPlus()+and, -window.Microseconds()
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		purged = 0
		var ids []int64
		err := tx.SelectContext(ctx, &ids, "SELECT id FROM "+table+" WHERE"+due+" ORDER BY "+column+" LIMIT ?",
			cut, min(limit, maxPurge))
		if err != nil || len(ids) == 0 {
			return err
		}
		// Said again: a row may have changed since it was read.
		res, err := s.execIn(ctx, tx, "DELETE FROM "+table+" WHERE"+due+" AND id IN (?)", cut, ids)
		if err != nil {
			return err
		}
		purged, err = res.RowsAffected()
		return err
	})
	return purged, err
}
