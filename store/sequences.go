package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// InsertSequenced is InsertOutbox for rows of which each that has a key is to get the
// next number of that key, within its service, destination and topic. They are numbered
// and written just before the commit of their unit of work, those of all such calls
// together: their keys are locked in one order, and only for the commit's time. In a
// transaction that somebody else began that is when the outermost InTx returns.
//
// A number that was given is given again when the transaction is rolled back: a key's
// messages have no gap. Errors match ErrContent, as those of InsertOutbox do.
func (s *Store) InsertSequenced(ctx context.Context, tx Tx, rows []OutboxRow) error {
	for _, row := range rows {
		metadata, err := encodeMetadata(row)
		if err == nil {
			err = s.fits(ctx, tx, row.Key, row.Payload, metadata)
		}
		if err != nil {
			return fmt.Errorf("store: write to outbox: %w", err)
		}
	}
	u := s.UnitFromContext(ctx)
	if handle, ok := tx.(txHandle); ok {
		u = handle.unit
	}
	if u == nil {
		return fmt.Errorf("store: write to outbox: %w", ErrNoUnit)
	}
	u.countWrite(nil) // a rollback of what was begun beside it would take it along
	rows = slices.Clone(rows)
	return BeforeCommit(u.Context(ctx), func(context.Context, Tx) error {
		u.gather(rows)
		return nil
	})
}

// gather has rows numbered behind all hooks: a savepoint that was rolled back has taken
// its own along.
func (u *Unit) gather(rows []OutboxRow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unnumbered = append(u.unnumbered, rows...)
}

// number numbers and writes what was gathered, and reports whether there was anything.
func (u *Unit) number(ctx context.Context) (numbered bool, err error) {
	u.mu.Lock()
	rows := u.unnumbered
	u.unnumbered = nil
	u.mu.Unlock()
	return len(rows) > 0, u.store.insertNumbered(u.Context(ctx), u.Tx(), rows)
}

// insertNumbered gives the rows of keys their numbers, and writes all.
func (s *Store) insertNumbered(ctx context.Context, tx Tx, rows []OutboxRow) error {
	if len(rows) == 0 {
		return nil
	}
	given, err := s.takeNumbers(ctx, tx, rows)
	if err != nil {
		return fmt.Errorf("store: number messages: %w", err)
	}
	for i, row := range rows {
		if row.Key == "" {
			continue
		}
		at := sequenceOf(row)
		next := given.next[at]
		given.next[at]++
		msg := message.Message{Metadata: maps.Clone(row.Metadata)}
		msgmeta.SetNumber(&msg, msgmeta.Number{Producer: at.Stream, Key: row.Key, Epoch: given.epoch, Sequence: next})
		rows[i].Sequence, rows[i].Metadata = next, msg.Metadata
	}
	return s.InsertOutbox(ctx, tx, rows)
}

// sequence is what is numbered on its own.
type sequence struct {
	Stream string `db:"stream"`
	Key    string `db:"message_key"`
}

func (q sequence) compare(other sequence) int {
	return cmp.Or(strings.Compare(q.Stream, other.Stream), strings.Compare(q.Key, other.Key))
}

func sequenceOf(row OutboxRow) sequence {
	parts := []string{row.Service, row.Destination, row.Topic}
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return sequence{Stream: Identity(strings.Join(parts, "/")), Key: Identity(row.Key)}
}

// numbers are those that were taken: the first of each sequence.
type numbers struct {
	next  map[sequence]int64
	epoch int64
}

type numberedRow struct {
	sequence

	Last   int64  `db:"last_number"`
	Epoch  int64  `db:"epoch"`
	Server string `db:"server"`
}

// maxSequences bounds the sequences of one statement.
const maxSequences = 200

func (s *Store) takeNumbers(ctx context.Context, tx Tx, rows []OutboxRow) (numbers, error) {
	wanted := map[sequence]int64{}
	for _, row := range rows {
		if row.Key != "" {
			wanted[sequenceOf(row)]++
		}
	}
	taken := numbers{next: make(map[sequence]int64, len(wanted))}
	sorted := slices.SortedFunc(maps.Keys(wanted), sequence.compare)
	for chunk := range slices.Chunk(sorted, maxSequences) {
		found, err := s.advanceSequences(ctx, tx, chunk, wanted)
		if err != nil {
			return numbers{}, err
		}
		if len(found) != len(chunk) {
			return numbers{}, fmt.Errorf("%d of %d keys have got their numbers", len(found), len(chunk))
		}
		for _, row := range found {
			taken.next[row.sequence] = row.Last - wanted[row.sequence] + 1
		}
		if taken.epoch, err = s.epochOf(ctx, tx, found[0]); err != nil {
			return numbers{}, err
		}
	}
	return taken, nil
}

// advanceSequences locks sequences in their order, and keeps them so until the commit.
func (s *Store) advanceSequences(
	ctx context.Context, tx Tx, sorted []sequence, wanted map[sequence]int64,
) (found []numberedRow, err error) {
	insert := make([]any, 0, 3*len(sorted))
	for _, at := range sorted {
		insert = append(insert, at.Stream, at.Key, wanted[at])
	}
	query := "INSERT INTO " + s.names.sequences + " AS known (stream, message_key, last_number) VALUES " +
		strings.Repeat(", (?, ?, ?)", len(sorted))[2:]
	columns := "stream, message_key, last_number, (SELECT value FROM " + s.names.meta +
		" WHERE name = 'sequence_epoch') AS epoch, " + s.dialect.server() + " AS server"
	if s.dialect != MySQL {
		query += " ON CONFLICT (stream, message_key) DO UPDATE SET last_number = known.last_number + EXCLUDED.last_number " +
			"RETURNING "
		err = tx.SelectContext(ctx, &found, query+columns, insert...)
		return found, err
	}
	query = strings.Replace(query, " AS known", "", 1) +
		" ON DUPLICATE KEY UPDATE last_number = last_number + VALUES(last_number)"
	if _, err := tx.ExecContext(ctx, query, insert...); err != nil {
		return nil, err
	}
	var args []any
	for _, at := range sorted {
		args = append(args, at.Stream, at.Key)
	}
	err = tx.SelectContext(ctx, &found, "SELECT "+columns+" FROM "+s.names.sequences+" WHERE "+
		strings.Repeat(" OR (stream = ? AND message_key = ?)", len(sorted))[4:]+s.dialect.current(), args...)
	return found, err
}
