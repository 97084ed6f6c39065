package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"

	"github.com/headrace-go/headrace/msgmeta"
)

type positionRow struct {
	Consumer string `db:"consumer"`
	Stream   string `db:"stream"`
	Key      string `db:"message_key"`
	Epoch    int64  `db:"epoch"`
	Base     int64  `db:"base"`
	Mark     int64  `db:"mark"`
	Ahead    []byte `db:"ahead"`
	Waiting  bool   `db:"waiting"`
	Updated  int64  `db:"updated_us"`
}

func (r positionRow) position() Position {
	p := Position{
		Place: Place{r.Consumer, r.Stream, r.Key, r.Epoch}, Base: r.Base, Mark: r.Mark, Waiting: r.Waiting,
		UpdatedAt: timeFromMicros(r.Updated),
	}
	p.ahead.SetBytes(r.Ahead)
	return p
}

const wherePlace = " WHERE consumer = ? AND stream = ? AND message_key = ? AND epoch = ?"

func (p Place) args() []any {
	p = p.identity()
	return []any{p.Consumer, p.Stream, p.Key, p.Epoch}
}

func (s *Store) positionQuery() string {
	return "SELECT consumer, stream, message_key, epoch, base, mark, ahead, waiting, " + s.dialect.micros("updated_at") +
		" AS updated_us FROM " + s.names.positions
}

// Advance says that the number behind a position's mark is done, in the usual case: it
// reports whether there was a position with just that mark, with nothing ahead, and
// nobody waiting. It is locked then until the unit of work ends.
func (s *Store) Advance(ctx context.Context, tx Tx, at Place, n int64) (advanced bool, err error) {
	count, err := affected(tx.ExecContext(ctx, "UPDATE "+s.names.positions+" SET mark = ?, updated_at = "+s.dialect.now()+
		wherePlace+" AND mark = ? AND ahead IS NULL AND NOT waiting", append(append([]any{n}, at.args()...), n-1)...))
	if err != nil {
		return false, fmt.Errorf("store: advance position: %w", err)
	}
	return count == 1, nil // the mark changes: clientFoundRows makes no difference
}

// LockPosition locks a position until the unit of work ends, and makes it where there is
// none (Position.Fresh).
func (s *Store) LockPosition(ctx context.Context, tx Tx, at Place) (Position, error) {
	p, known, err := s.lockPosition(ctx, tx, at)
	if err == nil && !known {
		if err = s.makePosition(ctx, tx, at); err == nil {
			p, known, err = s.lockPosition(ctx, tx, at)
		}
		if err == nil && !known {
			err = errors.New("it comes and goes")
		}
	}
	if err != nil {
		return Position{}, fmt.Errorf("store: lock position: %w", err)
	}
	return p, nil
}

func (s *Store) lockPosition(ctx context.Context, tx Tx, at Place) (p Position, known bool, err error) {
	var row positionRow
	err = tx.GetContext(ctx, &row, s.positionQuery()+wherePlace+s.dialect.forUpdate(), at.args()...)
	if errors.Is(err, sql.ErrNoRows) {
		return Position{}, false, nil
	}
	return row.position(), err == nil, err
}

// makePosition waits for whoever else is making it.
func (s *Store) makePosition(ctx context.Context, tx Tx, at Place) error {
	query := "INSERT INTO " + s.names.positions + " (consumer, stream, message_key, epoch, base, mark) " +
		"VALUES (?, ?, ?, ?, -1, -1)"
	if s.dialect != MySQL {
		query += " ON CONFLICT (consumer, stream, message_key, epoch) DO NOTHING"
	}
	_, err := tx.ExecContext(ctx, query, at.args()...)
	if s.dialect == MySQL && s.dialect.duplicateKey(err) {
		return nil
	}
	return err
}

// MarkBefore is the mark of a place in the last epoch before it that the consumer knows.
func (s *Store) MarkBefore(ctx context.Context, tx Tx, at Place) (mark int64, known bool, err error) {
	at = at.identity()
	err = tx.GetContext(ctx, &mark, "SELECT mark FROM "+s.names.positions+" WHERE consumer = ? AND stream = ? "+
		"AND message_key = ? AND epoch < ? AND mark >= 0 ORDER BY epoch DESC LIMIT 1", at.Consumer, at.Stream, at.Key, at.Epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("store: read position: %w", err)
	}
	return mark, true, nil
}

// PutPosition writes a position that LockPosition has given, and wakes kept messages that
// wait for no other one before them now.
func (s *Store) PutPosition(ctx context.Context, tx Tx, p Position) error {
	if p.Waiting {
		var err error
		if p.Waiting, err = s.wakeKept(ctx, tx, p); err != nil {
			return err
		}
	}
	return s.KeepWaiting(ctx, tx, p)
}

// KeepWaiting is PutPosition that wakes nothing.
func (s *Store) KeepWaiting(ctx context.Context, tx Tx, p Position) error {
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.positions+" SET base = ?, mark = ?, ahead = ?, waiting = ?, updated_at = "+
		s.dialect.now()+wherePlace, append([]any{p.Base, p.Mark, nullBytes(p.bitmap()), p.Waiting}, p.args()...)...)
	if err != nil {
		return fmt.Errorf("store: write position: %w", err)
	}
	return nil
}

func (p *Position) bitmap() []byte {
	if p.ahead.Sign() == 0 {
		return nil
	}
	return p.ahead.Bytes()
}

// PassNumber says that a message with a number, which a consumer had, is final without
// its Sequence: what is behind it waits for it no more. A message without a number, and a
// consumer that has had none of its key, change nothing, unless the message is only there to
// say so.
func (s *Store) PassNumber(ctx context.Context, tx Tx, consumer string, metadata map[string]string) error {
	n, ok, err := msgmeta.GetNumber(&message.Message{Metadata: metadata})
	if err != nil || !ok {
		return nil //nolint:nilerr // Sequence refuses it
	}
	at := Place{consumer, n.Producer, n.Key, n.Epoch}
	p, known, err := s.lockPosition(ctx, tx, at)
	if err == nil && !known && metadata[msgmeta.Skip] != "" {
		p, err = s.LockPosition(ctx, tx, at)
		known = true
		p.Start(n.Sequence - 1)
	}
	if err != nil {
		return fmt.Errorf("store: lock position: %w", err)
	}
	if !known || p.Has(n.Sequence) || n.Sequence > p.Mark+MaxAhead {
		return nil
	}
	p.Add(n.Sequence)
	return s.PutPosition(ctx, tx, p)
}

// MaxAhead is how far above a position's mark a number can be remembered.
const MaxAhead = 65_536

// wakeKept has kept messages handled whose turn has come, and reports whether others
// wait on.
func (s *Store) wakeKept(ctx context.Context, tx Tx, p Position) (waiting bool, err error) {
	var kept []struct {
		ID       int64  `db:"id"`
		Line     string `db:"line"`
		Sequence int64  `db:"gap_sequence"`
	}
	place := p.identity()
	err = tx.SelectContext(ctx, &kept, "SELECT id, line, gap_sequence FROM "+s.names.parked+
		" WHERE consumer = ? AND gap_place = ? AND line IS NOT NULL AND status IN ('gap', 'parked') "+
		"ORDER BY gap_sequence, id LIMIT ?"+s.dialect.current(), place.Consumer, p.name(), maxWoken)
	if err != nil {
		return false, fmt.Errorf("store: look for what waits: %w", err)
	}
	for _, row := range kept {
		if row.Sequence > p.Mark+1 && !p.Has(row.Sequence) {
			break
		}
		if err := s.wakeGap(ctx, tx, place.Consumer, row.Line, row.ID); err != nil {
			return false, fmt.Errorf("store: wake parked message %d: %w", row.ID, err)
		}
	}
	return len(kept) > 0, nil // what was woken wakes the next one
}

// maxWoken bounds how many messages one transaction wakes.
const maxWoken = 100

func (s *Store) wakeGap(ctx context.Context, tx Tx, consumer, line string, id int64) error {
	now := s.dialect.now()
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.parked+" SET status = 'gap', due_at = "+now+" WHERE id = ?", id)
	if err != nil {
		return err
	}
	// Who has a claim of it looks again before it puts it back.
	_, err = tx.ExecContext(ctx, "UPDATE "+s.names.gates+" SET due_at = "+now+
		" WHERE consumer = ? AND line = ? AND claimed_by = '' AND NOT paused", consumer, line)
	if err != nil {
		return err
	}
	return s.afterCommitOf(ctx, tx, func() { s.wakeLines(consumer) })
}

// name is a place as kept messages know it.
func (p Place) name() string {
	p = p.identity()
	return Identity(fmt.Sprintf("%d/%d/%s/%s", p.Epoch, len(p.Stream), p.Stream, p.Key))
}

// Positions lists what a consumer has had of a key's streams, or with "" for the key of
// all: at most limit. Both names may be given as they are stored.
func (s *Store) Positions(ctx context.Context, consumer, key string, limit int) ([]Position, error) {
	query, args := s.positionQuery()+" WHERE consumer = ?", []any{storedIdentity(consumer)}
	if key != "" {
		query, args = query+" AND message_key = ?", append(args, storedIdentity(key))
	}
	query = s.dialect.rebind(query + " ORDER BY stream, message_key, epoch LIMIT ?")
	var rows []positionRow
	err := s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.SelectContext(ctx, q, &rows, query, append(args, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: list positions: %w", err)
	}
	positions := make([]Position, len(rows))
	for i, row := range rows {
		positions[i] = row.position()
	}
	return positions, nil
}
