package store

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
)

// server tells the database's process from others, cheaply.
func (d Dialect) server() string {
	if d == Postgres {
		return "CAST(pg_postmaster_start_time() AS text)"
	}
	return "''"
}

// epochOf is the epoch of numbers that were taken. Where the database's process is
// another one than before, it may be a copy of what the numbers come from: a backup that
// was restored, or a standby that took over and lacks the last of them.
func (s *Store) epochOf(ctx context.Context, tx Tx, row numberedRow) (int64, error) {
	if known := s.sequenceServer.Load(); row.Server == "" || known != nil && *known == row.Server {
		return row.Epoch, nil
	}
	identity, err := s.serverIdentity(ctx, tx)
	if err != nil {
		return 0, err
	}
	var before string
	err = tx.GetContext(ctx, &before, "SELECT value FROM "+s.names.meta+" WHERE name = 'sequence_server'"+s.dialect.forUpdate())
	switch {
	case err != nil:
		return 0, err
	case before == identity || identity == "":
		s.sequenceServer.Store(&row.Server)
		return row.Epoch, s.getEpoch(ctx, tx, &row.Epoch)
	}
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.meta+" SET value = ? WHERE name = 'sequence_server'", identity)
	if err == nil && before != "" {
		err = s.beginEpoch(ctx, tx)
	}
	return row.Epoch, cmp.Or(err, s.getEpoch(ctx, tx, &row.Epoch))
}

func (s *Store) getEpoch(ctx context.Context, tx Tx, epoch *int64) error {
	var text string
	err := tx.GetContext(ctx, &text, "SELECT value FROM "+s.names.meta+" WHERE name = 'sequence_epoch'"+s.dialect.current())
	if err == nil {
		*epoch, err = strconv.ParseInt(text, 10, 64)
	}
	return err
}

// beginEpoch takes the database's time, which is above what any epoch before was, also
// of those that a backup doesn't know.
func (s *Store) beginEpoch(ctx context.Context, tx Tx) error {
	var now int64
	if err := tx.GetContext(ctx, &now, "SELECT "+s.dialect.micros(s.dialect.now())); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.meta+" SET value = ? WHERE name = 'sequence_epoch'",
		strconv.FormatInt(now, 10))
	return err
}

// serverIdentity is Postgres' system identifier and timeline: a restored backup and a
// standby that took over have a timeline of their own. "" where the server doesn't say.
func (s *Store) serverIdentity(ctx context.Context, tx Tx) (identity string, err error) {
	var may bool
	err = tx.GetContext(ctx, &may, "SELECT has_function_privilege('pg_control_system()', 'EXECUTE') "+
		"AND has_function_privilege('pg_walfile_name(pg_lsn)', 'EXECUTE')")
	if err != nil || !may {
		return "", err
	}
	u := s.UnitFromContext(ctx)
	if u == nil {
		return "", ErrNoUnit
	}
	// Some servers that speak Postgres have no write-ahead log to ask about.
	asked := u.savepoint(ctx, func(ctx context.Context, tx Tx) error {
		return tx.GetContext(ctx, &identity, "SELECT system_identifier || '/' || "+
			"substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()")
	})
	if asked != nil {
		s.cfg.Logger.Info("The database doesn't say whether it was restored: after that, begin a new epoch of sequences",
			map[string]any{"cause": asked.Error()})
		return "", nil //nolint:nilerr // it is only asked
	}
	return identity, nil
}

// NewSequenceEpoch has an outbox's numbers count as new ones from now on, for a database
// that was restored to an earlier state and can't be told from the one before: consumers
// would take its next messages for those that they had. Whoever publishes must be
// stopped.
func (s *Store) NewSequenceEpoch(ctx context.Context, actor, note string) (epoch int64, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		var before int64
		if err := s.getEpoch(ctx, tx, &before); err != nil {
			return err
		}
		if err := s.beginEpoch(ctx, tx); err != nil {
			return err
		}
		if err := s.getEpoch(ctx, tx, &epoch); err != nil {
			return err
		}
		return s.InsertAudit(ctx, tx, AuditRow{
			Actor: actor, Action: "new-epoch", TargetKind: TargetSequences, Target: "epoch",
			Details: map[string]any{"before": before, "after": epoch}, Note: note,
		})
	})
	if err != nil {
		return 0, fmt.Errorf("store: begin a new epoch of sequences: %w", err)
	}
	return epoch, nil
}
