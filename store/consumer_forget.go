package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// ResetConsumer forgets every final message of a consumer, so that each is handled
// again if it is delivered again. The verdict log stays. It works in batches; cut
// off, it goes on when it is run again. It returns how many were forgotten.
//
// Errors match ErrUnknownConsumer, ErrOpenMessages, ErrConsumerLive,
// ErrConsumerChanging or ErrNoActor. The name may be given as it is stored.
func (s *Store) ResetConsumer(ctx context.Context, name string, change ConsumerChange) (int64, error) {
	forgotten, err := s.forget(ctx, name, change, func() (scope, error) {
		counts, err := s.CountConsumer(ctx, name, time.Time{}, time.Time{})
		if err != nil {
			return scope{}, err
		}
		for _, c := range counts {
			if c.Verdict.Open() {
				return scope{}, fmt.Errorf("%w: %d are %q; release or discard them first", ErrOpenMessages, c.Count, c.Verdict)
			}
		}
		return scope{action: "reset"}, nil
	})
	if err != nil {
		return forgotten, fmt.Errorf("store: reset consumer: %w", err)
	}
	return forgotten, nil
}

// Replay says which messages are to be handled again.
type Replay struct {
	// From and To bound when they were decided, by the database's clock: From is in
	// it, To is not. From is required; To is now by default.
	From, To time.Time
	// Beyond allows a From that is older than what is remembered: messages of before
	// that were forgotten already, and are handled again by themselves.
	Beyond bool
}

// ReplayConsumer forgets the final messages of a consumer that were decided in a
// range of time, so that each is handled again if it is delivered again; open ones
// stay. It works in batches, the youngest first; cut off, it goes on when it is run
// again. It returns how many were forgotten.
//
// Errors match ErrBadRange, ErrForgotten, ErrUnknownConsumer, ErrConsumerLive,
// ErrConsumerChanging or ErrNoActor. The name may be given as it is stored.
func (s *Store) ReplayConsumer(ctx context.Context, name string, r Replay, change ConsumerChange) (int64, error) {
	forgotten, err := s.forget(ctx, name, change, func() (scope, error) {
		checked, err := s.CheckReplay(ctx, name, r)
		return scope{action: "replay", from: checked.From, to: checked.To}, err
	})
	if err != nil {
		return forgotten, fmt.Errorf("store: replay consumer: %w", err)
	}
	return forgotten, nil
}

// CheckReplay returns the range with To filled in, or what is wrong with it.
func (s *Store) CheckReplay(ctx context.Context, name string, r Replay) (Replay, error) {
	name = storedIdentity(name)
	if err := s.known(ctx, name); err != nil {
		return r, err
	}
	var now, since time.Time
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		var us int64
		err := conn.GetContext(ctx, &us, "SELECT "+s.dialect.micros(s.dialect.now()))
		if err != nil {
			return err
		}
		now = timeFromMicros(us)
		since, err = s.remembersSince(ctx, conn, name)
		return err
	})
	if err != nil {
		return r, err
	}
	if r.To.IsZero() {
		r.To = now
	}
	const layout = time.RFC3339
	switch {
	case r.From.IsZero():
		return r, fmt.Errorf("%w: it has no beginning", ErrBadRange)
	case r.From.After(now), r.To.After(now):
		return r, fmt.Errorf("%w: it is %s by the database's clock", ErrBadRange, now.Format(layout))
	case !r.From.Before(r.To):
		return r, fmt.Errorf("%w: it ends at %s, before it begins", ErrBadRange, r.To.UTC().Format(layout))
	case r.Beyond:
		return r, nil
	case since.IsZero():
		return r, fmt.Errorf("%w: %q remembers no message", ErrForgotten, name)
	case r.From.Before(since):
		return r, fmt.Errorf("%w: %q remembers messages since %s; what came before is handled again whenever it comes",
			ErrForgotten, name, since.Format(time.RFC3339Nano))
	}
	return r, nil
}

// CountConsumer counts what a consumer remembers by verdict, of what was decided in
// a range of time where one is given. It reads all of that.
func (s *Store) CountConsumer(ctx context.Context, name string, from, to time.Time) ([]InboxCount, error) {
	var counts []InboxCount
	where, args := scope{from: from, to: to}.where(s.dialect, storedIdentity(name))
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &counts, s.dialect.rebind("SELECT consumer, verdict, count(*) AS n FROM "+s.names.inbox+
			where+" GROUP BY consumer, verdict ORDER BY verdict"), args...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: count what %q remembers: %w", storedIdentity(name), err)
	}
	return counts, nil
}

// scope is which messages are forgotten: all, or those of a range.
type scope struct {
	action   string
	from, to time.Time
}

func (sc scope) where(d Dialect, consumer string) (where string, args []any) {
	where, args = " WHERE consumer = ?", []any{consumer}
	if !sc.from.IsZero() {
		where, args = where+" AND processed_at >= "+d.fromMicros(), append(args, sc.from.UnixMicro())
	}
	if !sc.to.IsZero() {
		where, args = where+" AND processed_at < "+d.fromMicros(), append(args, sc.to.UnixMicro())
	}
	return where, args
}

func (sc scope) details() map[string]any {
	details := map[string]any{}
	if !sc.to.IsZero() {
		details["from"], details["to"] = sc.from.UTC().Format(time.RFC3339Nano), sc.to.UTC().Format(time.RFC3339Nano)
	}
	return details
}

// forget deletes the final rows of a scope, which plan chooses when the consumer is
// known and nobody else is at it.
func (s *Store) forget(
	ctx context.Context, name string, change ConsumerChange, plan func() (scope, error),
) (forgotten int64, err error) {
	if name == "" {
		return 0, errors.New("the consumer's name is needed")
	}
	name = storedIdentity(name)
	err = s.operate(ctx, change, []string{name}, func(op *operation) error {
		defer func() { forgotten = op.changed }()
		if begun, err := s.unfinished(ctx, name); err != nil || begun != nil {
			if err == nil {
				err = begun.err()
			}
			return err
		}
		if err := s.known(ctx, name); err != nil {
			return err
		}
		sc, err := plan()
		if err != nil {
			return err
		}
		if err := op.forgetPositions(ctx, name); err != nil {
			return err
		}
		err = op.batches(ctx, func(ctx context.Context, tx Tx) (int64, error) {
			if op.changed == 0 { // with the first batch, or its second try
				details := sc.details()
				details["state"] = "begun"
				if err := op.audit(ctx, tx, sc.action, details); err != nil {
					return 0, err
				}
			}
			return s.forgetBatch(ctx, tx, name, sc, op.change.BatchSize)
		})
		if err != nil {
			return err
		}
		return s.InTx(ctx, func(ctx context.Context, tx Tx) error {
			details := sc.details()
			details["state"], details["forgotten"] = "finished", op.changed
			return op.audit(ctx, tx, sc.action, details)
		})
	})
	return forgotten, err
}

// forgetBatch takes the youngest: cut off, the range's beginning is still
// remembered, and the same replay isn't refused.
func (s *Store) forgetBatch(ctx context.Context, tx Tx, name string, sc scope, limit int) (int64, error) {
	where, args := sc.where(s.dialect, name)
	where += " AND verdict NOT IN " + openVerdicts
	var ids []string
	err := tx.SelectContext(ctx, &ids, "SELECT message_id FROM "+s.names.inbox+where+" ORDER BY processed_at DESC LIMIT ?",
		append(args[:len(args):len(args)], limit)...)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = s.execIn(ctx, tx, "DELETE FROM "+s.names.inbox+where+" AND message_id IN (?)",
		append(args[:len(args):len(args)], ids)...)
	return int64(len(ids)), err
}
