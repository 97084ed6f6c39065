package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// ParkedFilter picks kept messages; what is empty picks all. Names may be given as
// they are or as they are stored.
type ParkedFilter struct {
	Origin ParkedOrigin
	// Consumer has the messages; of those from the outbox it is the service.
	Consumer, Key, MessageID string
	// Status is any of these. Default: all that are open but for those that have only
	// lined up.
	Status []ParkedStatus
	Class  string
	// Group is an ErrorGroup, or at least MinGroup digits of its beginning.
	Group string
	// Since leaves out what was parked before.
	Since time.Time
	// IDs leaves out all others.
	IDs []int64
}

// MinGroup is how many digits of a group are enough to name it.
const MinGroup = 8

// ErrFilter says that a ParkedFilter can't be meant so.
var ErrFilter = errors.New("wrong filter")

func (s *Store) parkedWhere(f ParkedFilter) (where string, args []any, err error) {
	var conditions []string
	and := func(condition string, values ...any) {
		conditions, args = append(conditions, condition), append(args, values...)
	}
	status := f.Status
	if len(status) == 0 {
		status = []ParkedStatus{StatusDelayed, StatusGap, StatusReleased, StatusParked, StatusReview}
	}
	names := make([]any, len(status))
	for i, one := range status {
		if !one.Open() && one != StatusDone && one != StatusDiscarded && one != StatusExpired {
			return "", nil, fmt.Errorf("%w: unknown status %q", ErrFilter, one)
		}
		names[i] = string(one)
	}
	and("status IN (?"+questionMarks(len(names)-1)+")", names...)
	if f.Origin != "" {
		and("origin = ?", string(f.Origin))
	}
	for _, name := range []struct{ column, value string }{
		{"consumer", f.Consumer}, {"message_key", f.Key}, {"message_id", f.MessageID},
	} {
		if name.value != "" {
			and(name.column+" = ?", storedIdentity(name.value))
		}
	}
	if f.Class != "" {
		and("class = ?", f.Class)
	}
	if f.Group != "" {
		group := strings.ToLower(f.Group)
		if len(group) < MinGroup || len(group) > maxGroup || strings.Trim(group, "0123456789abcdef") != "" {
			return "", nil, fmt.Errorf("%w: a group is %d to %d hexadecimal digits, not %q",
				ErrFilter, MinGroup, maxGroup, Identity(f.Group))
		}
		and("error_group >= ? AND error_group < ?", group, group+"g") // behind all that begin with it
	}
	if !f.Since.IsZero() {
		and(s.dialect.micros("parked_at")+" >= ?", f.Since.UnixMicro())
	}
	if len(f.IDs) > 0 {
		ids := make([]any, len(f.IDs))
		for i, id := range f.IDs {
			ids[i] = id
		}
		and("id IN (?"+questionMarks(len(ids)-1)+")", ids...)
	}
	return " WHERE " + strings.Join(conditions, " AND "), args, nil
}

// ListParked lists kept messages in the order in which they were kept: at most limit,
// behind the one with the id after. Contents, chains and histories are left out, and
// MessageID is in the form in which it is stored. Errors match ErrFilter.
func (s *Store) ListParked(ctx context.Context, f ParkedFilter, after int64, limit int) ([]ParkedRow, error) {
	return s.listParked(ctx, f, after, limit, "")
}

// ListReviews is ListParked for what waits for a decision, with Diff.
func (s *Store) ListReviews(ctx context.Context, f ParkedFilter, after int64, limit int) ([]ParkedRow, error) {
	f.Status = []ParkedStatus{StatusReview}
	return s.listParked(ctx, f, after, limit, "diff, sealed, ")
}

func (s *Store) listParked(ctx context.Context, f ParkedFilter, after int64, limit int, more string) ([]ParkedRow, error) {
	where, args, err := s.parkedWhere(f)
	if err != nil {
		return nil, fmt.Errorf("store: list parked messages: %w", err)
	}
	d := s.dialect
	query := "SELECT " + more +
		"id, origin, consumer, line, inbox_id, message_id, message_key, topic, destination, TRUE AS no_payload, " +
		"'{}' AS metadata, edits, status, class, reason, error_type, error_group, error_title, '[]' AS chain, '[]' AS history, " +
		"attempts, tries, " + d.micros("due_at") + " - " + d.micros(d.now()) + " AS due_us, subject, decision, decided_by, " +
		"outbox_service, outbox_partition, outbox_row, " + d.micros("parked_at") + " AS parked_us, " +
		d.micros("updated_at") + " AS updated_us, " + d.micros("finished_at") + " AS finished_us FROM " + s.names.parked +
		where + " AND id > ? ORDER BY id LIMIT ?"
	var read []parkedRow
	err = s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.SelectContext(ctx, q, &read, d.rebind(query), append(args, after, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: list parked messages: %w", err)
	}
	rows := make([]ParkedRow, len(read))
	for i, r := range read {
		r.Edits = 0 // there is no content to open
		if rows[i], err = s.parkedOf(ctx, r); err != nil {
			return nil, fmt.Errorf("store: list parked message %d: %w", r.ID, err)
		}
		rows[i].Edits = read[i].Edits
	}
	return rows, nil
}

// ParkedMark is a kept message's id, and when it last changed.
type ParkedMark struct {
	ID        int64
	UpdatedAt time.Time
}

// MarkParked is ListParked for the marks alone.
func (s *Store) MarkParked(ctx context.Context, f ParkedFilter, after int64, limit int) ([]ParkedMark, error) {
	var read []struct {
		ID        int64 `db:"id"`
		UpdatedAt int64 `db:"updated_us"`
	}
	where, args, err := s.parkedWhere(f)
	if err == nil {
		query := s.dialect.rebind("SELECT id, " + s.dialect.micros("updated_at") + " AS updated_us FROM " + s.names.parked +
			where + " AND id > ? ORDER BY id LIMIT ?")
		err = s.read(ctx, func(q sqlx.QueryerContext) error {
			return sqlx.SelectContext(ctx, q, &read, query, append(args, after, limit)...)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("store: list parked messages: %w", err)
	}
	marks := make([]ParkedMark, len(read))
	for i, r := range read {
		marks[i] = ParkedMark{r.ID, timeFromMicros(r.UpdatedAt)}
	}
	return marks, nil
}

// ParkedGroup are kept messages of one consumer that have failed in the same way.
type ParkedGroup struct {
	Consumer string
	// Group, Class, Type and Title are those of ParkedRow.
	Group, Class, Type, Title string
	Count                     int64
	// Oldest and Newest are when they were parked.
	Oldest, Newest time.Time
	// Example is one of them, the oldest.
	Example int64
}

type groupRow struct {
	Consumer string `db:"consumer"`
	Group    string `db:"error_group"`
	Class    string `db:"class"`
	Type     string `db:"error_type"`
	Title    string `db:"error_title"`
	Count    int64  `db:"n"`
	Oldest   int64  `db:"oldest_us"`
	Newest   int64  `db:"newest_us"`
	Example  int64  `db:"example"`
}

// GroupParked counts kept messages by how they have failed, the largest groups first,
// at most limit. Errors match ErrFilter.
func (s *Store) GroupParked(ctx context.Context, f ParkedFilter, limit int) ([]ParkedGroup, error) {
	where, args, err := s.parkedWhere(f)
	if err != nil {
		return nil, fmt.Errorf("store: group parked messages: %w", err)
	}
	query := "SELECT consumer, error_group, class, min(error_type) AS error_type, min(error_title) AS error_title, " +
		"count(*) AS n, " + s.dialect.micros("min(parked_at)") + " AS oldest_us, " + s.dialect.micros("max(parked_at)") +
		" AS newest_us, min(id) AS example FROM " + s.names.parked + where +
		" GROUP BY consumer, error_group, class ORDER BY count(*) DESC, consumer, error_group, class LIMIT ?"
	var read []groupRow
	err = s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.SelectContext(ctx, q, &read, s.dialect.rebind(query), append(args, limit)...)
	})
	if err != nil {
		return nil, fmt.Errorf("store: group parked messages: %w", err)
	}
	groups := make([]ParkedGroup, len(read))
	for i, r := range read {
		groups[i] = ParkedGroup{
			Consumer: r.Consumer, Group: r.Group, Class: r.Class, Type: r.Type, Title: r.Title, Count: r.Count,
			Oldest: timeFromMicros(r.Oldest), Newest: timeFromMicros(r.Newest), Example: r.Example,
		}
	}
	return groups, nil
}

// Queue is where a kept message stands in its line.
type Queue struct {
	// Ahead and Behind count the open messages before it and after it, to most at most.
	Ahead, Behind int
}

// QueuesOf returns where kept messages stand in their lines, in the messages' order,
// and counts to most on either side. What has no line has nothing around it.
func (s *Store) QueuesOf(ctx context.Context, rows []ParkedRow, most int) ([]Queue, error) {
	queues := make([]Queue, len(rows))
	const atOnce = 100 // SQLite takes 500 parts of a UNION
	for start := 0; start < len(rows); start += atOnce {
		if err := s.queuesOf(ctx, rows[start:min(start+atOnce, len(rows))], queues[start:], most); err != nil {
			return nil, fmt.Errorf("store: look at the lines of parked messages: %w", err)
		}
	}
	return queues, nil
}

func (s *Store) queuesOf(ctx context.Context, rows []ParkedRow, queues []Queue, most int) error {
	var parts []string
	var args []any
	for i, row := range rows {
		if row.Line == "" {
			continue
		}
		for side, compare := range []string{"<", ">"} {
			parts = append(parts, fmt.Sprintf("SELECT %d AS i, %d AS side, count(*) AS n FROM (SELECT 1 FROM %s "+
				"WHERE consumer = ? AND line = ? AND id %s ? LIMIT ?) AS part_%d", i, side, s.names.parked, compare, len(parts)))
			args = append(args, row.Consumer, row.Line, row.ID, most)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	var counts []struct {
		I    int `db:"i"`
		Side int `db:"side"`
		N    int `db:"n"`
	}
	err := s.read(ctx, func(q sqlx.QueryerContext) error {
		return sqlx.SelectContext(ctx, q, &counts, s.dialect.rebind(strings.Join(parts, " UNION ALL ")), args...)
	})
	for _, count := range counts {
		if count.Side == 0 {
			queues[count.I].Ahead = count.N
		} else {
			queues[count.I].Behind = count.N
		}
	}
	return err
}

// LastAudit returns the last change of a target with an action, in the transaction
// and with what others have committed by now; ok is false when there is none.
func (s *Store) LastAudit(ctx context.Context, tx Tx, kind, target, action string) (row AuditRow, ok bool, err error) {
	var read auditRow
	err = tx.GetContext(ctx, &read, s.auditQuery()+" WHERE target_kind = ? AND target = ? AND action = ? ORDER BY id DESC "+
		"LIMIT 1"+s.dialect.current(),
		kind, storedIdentity(target), action)
	if errors.Is(err, sql.ErrNoRows) {
		return AuditRow{}, false, nil
	}
	if err != nil {
		return AuditRow{}, false, fmt.Errorf("store: read the audit of %q: %w", Identity(target), err)
	}
	return read.change(), true, nil
}
