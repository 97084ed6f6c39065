package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jmoiron/sqlx"
)

// RenameConsumer moves all that a consumer remembers, its verdict log, and what is
// parked with the lines that it holds to another name, under which nothing may be
// remembered yet. It works in batches, in which a line stays whole; cut off, it goes
// on when it is run again with the same names, and until then the two can't be
// changed otherwise. It returns how many rows were moved this time.
//
// Errors match ErrUnknownConsumer, ErrConsumerTaken, ErrConsumerLive,
// ErrConsumerChanging or ErrNoActor. Names may be given as they are stored.
func (s *Store) RenameConsumer(ctx context.Context, from, to string, change ConsumerChange) (moved int64, err error) {
	if from == "" || to == "" {
		return 0, errors.New("store: rename consumer: both names are needed")
	}
	from, to = storedIdentity(from), storedIdentity(to)
	if from == to {
		return 0, fmt.Errorf("store: rename consumer: it is called %q already", from)
	}
	err = s.operate(ctx, change, []string{from, to}, func(op *operation) error {
		defer func() { moved = op.changed }()
		if err := s.beginRename(ctx, op, from, to); err != nil {
			return err
		}
		// Lines come first, each with all that is in it: cut off between the two, none
		// may be without its gate, and no open message without its inbox row: whoever finds
		// none takes the message for one that was decided and forgotten. And last again,
		// as a person may have paused a key meanwhile.
		for _, rename := range []func(context.Context, Tx, string, string, int) (int64, error){
			s.renameLines, s.renameInbox, s.renameParked, s.renameVersions, s.renamePositions, s.renameLog, s.renameLines,
		} {
			err := op.batches(ctx, func(ctx context.Context, tx Tx) (int64, error) {
				return rename(ctx, tx, from, to, op.change.BatchSize)
			})
			if err != nil {
				return err
			}
		}
		return s.InTx(ctx, func(ctx context.Context, tx Tx) error {
			if _, err := tx.ExecContext(ctx, "DELETE FROM "+s.names.meta+" WHERE name = ?", journalName(from)); err != nil {
				return err
			}
			return op.audit(ctx, tx, "rename", map[string]any{"to": to, "moved": op.changed, "state": "finished"})
		})
	})
	if err != nil {
		return moved, fmt.Errorf("store: rename consumer %q to %q: %w", from, to, err)
	}
	return moved, nil
}

// journal is a rename that was begun. It stands in the table meta until it is done.
type journal struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Actor string `json:"actor"`
}

const journalPrefix = "rename/"

func journalName(from string) string { return journalPrefix + leasedConsumer(from) }

// beginRename writes the journal, unless this very rename was begun before.
func (s *Store) beginRename(ctx context.Context, op *operation, from, to string) error {
	begun, err := s.unfinished(ctx, from, to)
	if err != nil {
		return err
	}
	if begun != nil {
		if begun.From == from && begun.To == to {
			return nil
		}
		return begun.err()
	}
	if err := s.known(ctx, from); err != nil {
		return err
	}
	if err := s.known(ctx, to); err == nil {
		return fmt.Errorf("%w: messages are remembered as %q, and it could not be told which are whose", ErrConsumerTaken, to)
	} else if !errors.Is(err, ErrUnknownConsumer) {
		return err
	}
	if err := s.noLines(ctx, to); err != nil {
		return err
	}
	text, err := json.Marshal(journal{From: from, To: to, Actor: plainText(op.change.Actor, maxActor)})
	if err != nil {
		return err
	}
	return s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO "+s.names.meta+" (name, value) VALUES (?, ?)", journalName(from), string(text))
		if err != nil {
			return err
		}
		return op.audit(ctx, tx, "rename", map[string]any{"to": to, "state": "begun"})
	})
}

// unfinished returns a rename that was begun and touches one of the names, or nil.
func (s *Store) unfinished(ctx context.Context, names ...string) (found *journal, err error) {
	var values []string
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &values,
			s.dialect.rebind("SELECT value FROM "+s.names.meta+" WHERE name LIKE ?"), journalPrefix+"%")
	})
	if err != nil {
		return nil, err
	}
	for _, value := range values {
		var j journal
		if err := json.Unmarshal([]byte(value), &j); err != nil {
			return nil, fmt.Errorf("the journal of a rename in table %s can't be read: %w", s.names.meta, err)
		}
		for _, name := range names {
			if j.From == name || j.To == name {
				return &j, nil
			}
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

func (j journal) err() error {
	return fmt.Errorf("%w: %q was begun to be renamed to %q by %q; run that rename again to its end first",
		ErrConsumerChanging, j.From, j.To, j.Actor)
}

func (s *Store) renameInbox(ctx context.Context, tx Tx, from, to string, limit int) (int64, error) {
	var ids []string
	err := tx.SelectContext(ctx, &ids, "SELECT message_id FROM "+s.names.inbox+" WHERE consumer = ? ORDER BY message_id LIMIT ?",
		from, limit)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	// A message that is known under the new name too was handled there by a process
	// that nobody saw: the old row has nothing to add, unless it is open.
	query, args, err := sqlx.In("SELECT message_id FROM "+s.names.inbox+" WHERE consumer = ? AND message_id IN (?)", to, ids)
	if err != nil {
		return 0, err
	}
	var both []string
	if err := tx.SelectContext(ctx, &both, query, args...); err != nil {
		return 0, err
	}
	if len(both) > 0 {
		_, err := s.execIn(ctx, tx, "DELETE FROM "+s.names.inbox+" WHERE consumer = ? AND verdict NOT IN "+openVerdicts+
			" AND message_id IN (?)", from, both)
		if err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), s.moveInbox(ctx, tx, from, to, ids)
}

func (s *Store) moveInbox(ctx context.Context, tx Tx, from, to string, ids []string) error {
	_, err := s.execIn(ctx, tx, "UPDATE "+s.names.inbox+" SET consumer = ? WHERE consumer = ? AND message_id IN (?)",
		to, from, ids)
	if s.dialect.duplicateKey(err) {
		return fmt.Errorf("%w: a message that is open as %q is known as %q as well: %w", ErrOpenMessages, from, to, err)
	}
	return err
}

// renameLines moves lines that are held, with their messages and the inbox rows of
// those: as many as have limit messages, but at least one.
func (s *Store) renameLines(ctx context.Context, tx Tx, from, to string, limit int) (moved int64, err error) {
	var gates []struct {
		Line    string `db:"line"`
		Waiting int    `db:"waiting"`
	}
	err = tx.SelectContext(ctx, &gates, "SELECT line, kept - gone AS waiting FROM "+s.names.gates+
		" WHERE consumer = ? ORDER BY line LIMIT ?", from, limit)
	if err != nil || len(gates) == 0 {
		return 0, err
	}
	var lines []string
	for size := 0; len(lines) < len(gates) && size < limit; {
		gate := gates[len(lines)]
		lines, size = append(lines, gate.Line), size+1+gate.Waiting
	}
	query, args, err := sqlx.In("SELECT id, inbox_id FROM "+s.names.parked+" WHERE consumer = ? AND line IN (?)", from, lines)
	if err != nil {
		return 0, err
	}
	var rows []struct {
		ID      int64          `db:"id"`
		InboxID sql.NullString `db:"inbox_id"`
	}
	if err := tx.SelectContext(ctx, &rows, query, args...); err != nil {
		return 0, err
	}
	// Locked in the order in which everybody does: inbox, gates, parked messages.
	ids, inboxIDs := make([]int64, len(rows)), make([]string, len(rows))
	for i, row := range rows {
		ids[i], inboxIDs[i] = row.ID, row.InboxID.String
	}
	slices.Sort(inboxIDs)
	for chunk := range slices.Chunk(inboxIDs, maxPurge) {
		if err := s.moveInbox(ctx, tx, from, to, chunk); err != nil {
			return 0, err
		}
	}
	// A claim is its former owner's, whatever the consumer is called: it ends here.
	_, err = s.execIn(ctx, tx, "UPDATE "+s.names.gates+" SET consumer = ?, claimed_by = '', claim_epoch = claim_epoch + 1 "+
		"WHERE consumer = ? AND line IN (?)", to, from, lines)
	if s.dialect.duplicateKey(err) {
		return 0, fmt.Errorf("%w: a line that is held as %q is held as %q as well: %w", ErrConsumerTaken, from, to, err)
	}
	if err != nil {
		return 0, err
	}
	for chunk := range slices.Chunk(ids, maxPurge) {
		if _, err := s.execIn(ctx, tx, "UPDATE "+s.names.parked+" SET consumer = ? WHERE id IN (?)", to, chunk); err != nil {
			return 0, err
		}
	}
	return int64(len(lines) + len(rows)), nil
}

// noLines refuses a name under which lines are held or messages were parked.
func (s *Store) noLines(ctx context.Context, consumer string) error {
	return s.withConn(ctx, func(conn *sqlx.Conn) error {
		for _, from := range []string{
			s.names.gates + " WHERE consumer = ?", s.names.parked + " WHERE consumer = ? AND origin <> 'outbox'",
		} {
			var one int
			err := conn.GetContext(ctx, &one, s.dialect.rebind("SELECT 1 FROM "+from+" LIMIT 1"), consumer)
			if err == nil {
				return fmt.Errorf("%w: messages were parked as %q, and it could not be told which are whose",
					ErrConsumerTaken, consumer)
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		return nil
	})
}

// renameParked leaves the outbox's alone, which are a service's.
func (s *Store) renameParked(ctx context.Context, tx Tx, from, to string, limit int) (int64, error) {
	var ids []int64
	err := tx.SelectContext(ctx, &ids, "SELECT id FROM "+s.names.parked+" WHERE consumer = ? AND origin <> 'outbox' LIMIT ?",
		from, limit)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = s.execIn(ctx, tx, "UPDATE "+s.names.parked+" SET consumer = ? WHERE id IN (?)", to, ids)
	return int64(len(ids)), err
}

func (s *Store) renameLog(ctx context.Context, tx Tx, from, to string, limit int) (int64, error) {
	var ids []int64
	err := tx.SelectContext(ctx, &ids, "SELECT id FROM "+s.names.verdictLog+" WHERE consumer = ? LIMIT ?", from, limit)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	_, err = s.execIn(ctx, tx, "UPDATE "+s.names.verdictLog+" SET consumer = ? WHERE id IN (?)", to, ids)
	return int64(len(ids)), err
}
