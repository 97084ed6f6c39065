package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jmoiron/sqlx"
)

// OutboxBetween reads where the rows of a partition go whose ids are above one
// and at most another: id, destination, topic and key, the newest first and at
// most limit.
func (s *Store) OutboxBetween(
	ctx context.Context, partition Partition, above, upTo int64, limit int,
) ([]OutboxRow, error) {
	query := s.dialect.rebind("SELECT id, destination, topic, message_key FROM " + s.names.outbox +
		" WHERE service = ? AND partition_no = ? AND id > ? AND id <= ? ORDER BY id DESC LIMIT ?")
	var read []OutboxRow
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		rows, err := conn.QueryContext(ctx, query, partition.Service, partition.Number, above, upTo, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			row, key := OutboxRow{Service: partition.Service, Partition: partition.Number}, sql.NullString{}
			if err := rows.Scan(&row.ID, &row.Destination, &row.Topic, &key); err != nil {
				return err
			}
			row.Key = key.String
			read = append(read, row)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("store: read outbox: %w", err)
	}
	return read, nil
}

// OutboxWrites are transactions which are under way, or the rows that they have
// written, and that may yet bring rows to light which reading has passed.
type OutboxWrites struct {
	// ids are those of transactions on Postgres and those of rows on MySQL.
	ids []int64
	// uncounted: they are too many to be asked about one by one.
	uncounted bool
}

// trackedWrites bounds how many rows are asked about by their ids.
const trackedWrites = 1000

// OpenOutboxWrites returns what may yet bring rows of a partition to light whose
// ids are at most upTo. Rows that are not among them can be read from now on.
//
// On Postgres these are all transactions under way, wherever they write: the ones
// that have written here can't be told from the others. On MySQL they are the rows
// that are written and not committed, which it shows to those who ask for dirty
// reads. An id that was given and belongs to nothing yet is seen by neither: upTo
// must be an id that was read some seconds ago. SQLite has one writer, so none.
func (s *Store) OpenOutboxWrites(ctx context.Context, partition Partition, upTo int64) (open OutboxWrites, err error) {
	switch s.dialect {
	case Postgres:
		// A snapshot lists what is older than the newest transaction that has
		// ended. So this one takes an id and ends, and all before it are listed.
		if _, err = s.autocommit(ctx, "SELECT txid_current()"); err == nil {
			open.ids, err = s.openTransactions(ctx)
		}
	case MySQL:
		open, err = s.dirtyRows(ctx, partition, upTo)
	case SQLite:
	}
	if err != nil {
		return OutboxWrites{}, fmt.Errorf("store: look for open writes to the outbox: %w", err)
	}
	return open, nil
}

// EndedOutboxWrites reports whether any of the writes has ended, so that its rows
// may be there to read, and returns those that have not.
func (s *Store) EndedOutboxWrites(
	ctx context.Context, partition Partition, open OutboxWrites,
) (left OutboxWrites, ended bool, err error) {
	if open.uncounted {
		return open, true, nil
	}
	if len(open.ids) == 0 {
		return open, false, nil
	}
	if s.dialect == Postgres {
		var running []int64
		if running, err = s.openTransactions(ctx); err == nil {
			left.ids = common(open.ids, running, true)
		}
	} else {
		var seen []int64
		if seen, err = s.seenRows(ctx, partition, open.ids); err == nil {
			left.ids = common(open.ids, seen, false)
		}
	}
	if err != nil {
		return open, false, fmt.Errorf("store: ask for open writes to the outbox: %w", err)
	}
	return left, len(left.ids) < len(open.ids), nil
}

// common returns the ids that are in others, or those that are not.
func common(ids, others []int64, in bool) (kept []int64) {
	there := make(map[int64]bool, len(others))
	for _, id := range others {
		there[id] = true
	}
	for _, id := range ids {
		if there[id] == in {
			kept = append(kept, id)
		}
	}
	return kept
}

// openTransactions lists the transactions that have an id and are under way,
// prepared ones included. The function's newer name is unknown to Postgres 12.
func (s *Store) openTransactions(ctx context.Context) (ids []int64, err error) {
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &ids, "SELECT txid_snapshot_xip(txid_current_snapshot())")
	})
	return ids, err
}

// dirtyRows returns the rows that only a dirty read sees.
func (s *Store) dirtyRows(ctx context.Context, partition Partition, upTo int64) (open OutboxWrites, err error) {
	query := "SELECT id FROM " + s.names.outbox + " WHERE service = ? AND partition_no = ? AND id <= ? ORDER BY id"
	err = s.withConn(ctx, func(conn *sqlx.Conn) (err error) {
		tx, err := conn.BeginTxx(ctx, &sql.TxOptions{Isolation: sql.LevelReadUncommitted, ReadOnly: true})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, tx.Rollback()) }()
		return tx.SelectContext(ctx, &open.ids, query, partition.Service, partition.Number, upTo)
	})
	if err != nil {
		return OutboxWrites{}, err
	}
	var committed []int64 // asked afterwards: what was committed between is no longer open
	err = s.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, &committed, query, partition.Service, partition.Number, upTo)
	})
	open.ids = slices.Clip(common(open.ids, committed, false))
	if len(open.ids) > trackedWrites {
		open = OutboxWrites{uncounted: true}
	}
	return open, err
}

// seenRows returns those of the rows that are committed. Rows that were rolled
// back are never seen.
func (s *Store) seenRows(ctx context.Context, partition Partition, ids []int64) (seen []int64, err error) {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = strconv.FormatInt(id, 10)
	}
	query := "SELECT id FROM " + s.names.outbox + " WHERE service = " + s.dialect.literal(partition.Service) +
		" AND partition_no = " + strconv.Itoa(partition.Number) + " AND id IN (" + strings.Join(list, ",") + ")"
	err = s.withConn(ctx, func(conn *sqlx.Conn) error { return conn.SelectContext(ctx, &seen, query) })
	return seen, err
}
