package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
)

// TargetEntity is the TargetKind of what was forgotten; Target is a hash.
const TargetEntity = "entity"

// Forgetting says of what entity everything readable is removed.
type Forgetting struct {
	// Key is the entity: the key of its messages, the subject of its slots, or the key
	// of its effects. Required.
	Key string
	// MessageIDs are further messages that were about it, by their ids: what of them
	// has no key is found by nothing else. Optional.
	MessageIDs []string
	// DiscardOpen discards what is parked of it, in review and lined up, and takes back
	// what is scheduled. Otherwise that stays, and is counted in Forgotten.Left.
	DiscardOpen bool
	// Actor does it, for the audit. Required.
	Actor string
	// Note is for the audit. Optional.
	Note string
	// BatchSize is how many rows one transaction changes. Default 500, at most 10,000.
	BatchSize int
}

// Forgotten is what was removed and what was left, in rows.
type Forgotten struct {
	// Parked messages and Scheduled ones were deleted, Effects had their contents
	// removed, Reasons of verdicts too, and entries of the Audit their notes and names.
	Parked, Scheduled, Effects, Reasons, Audit int64
	// Discarded were open before, and are among Parked.
	Discarded int64
	// Left is open, and still readable.
	Left ForgetLeft
}

// ForgetLeft counts what is open of an entity.
type ForgetLeft struct {
	// Parked messages wait, and Scheduled ones; what is in the Outbox is being sent, and
	// the outcome of Effects isn't known. Slots were sent less than a day ago.
	Parked, Scheduled, Outbox, Effects, Slots int64
	// Paused lines are held by a person.
	Paused int64
}

// Any reports whether anything is left.
func (l ForgetLeft) Any() bool { return l != ForgetLeft{} }

// Forget removes everything readable that Headrace's tables hold of an entity: its
// messages and the errors they met, the contents of its calls, and its name where
// that isn't needed. What remains protects: that its messages were handled (ids
// without content), and that its calls were made (keys and hashes without content).
// It knows nothing of the broker's topics and of the user's own tables.
//
// It works in batches; cut off, run it again. What is open stays unless
// Forgetting.DiscardOpen says otherwise, and so does what arrives meanwhile: run it
// again when Forgotten.Left is empty or no more messages come. Errors match
// ErrNoActor.
func (s *Store) Forget(ctx context.Context, f Forgetting) (forgotten Forgotten, err error) {
	if f.Key == "" {
		return Forgotten{}, errors.New("store: forget: the entity's key is needed")
	}
	if plainText(f.Actor, maxActor) == "" {
		return Forgotten{}, fmt.Errorf("store: forget: %w", ErrNoActor)
	}
	if f.BatchSize <= 0 {
		f.BatchSize = 500
	}
	f.BatchSize = min(f.BatchSize, maxPurge)
	run := forgetting{Forgetting: f, store: s, done: &forgotten, messages: map[string]map[string]bool{}}
	for _, id := range f.MessageIDs {
		run.about("", storedIdentity(id))
	}
	for _, step := range []func(context.Context) error{
		run.collect, run.discard, run.parked, run.scheduled, run.effects, run.reasons, run.audit, run.left, run.sign,
	} {
		if err := step(ctx); err != nil {
			return forgotten, fmt.Errorf("store: forget: %w", err)
		}
	}
	return forgotten, nil
}

// forgetting is a Forget while it goes on.
type forgetting struct {
	Forgetting

	store *Store
	done  *Forgotten
	// messages are the ids that were about the entity, by consumer; "" for any.
	messages map[string]map[string]bool
}

func (f *forgetting) about(consumer, id string) {
	if id == "" {
		return
	}
	if f.messages[consumer] == nil {
		f.messages[consumer] = map[string]bool{}
	}
	f.messages[consumer][id] = true
}

// ids are the messages by id, whoever got them.
func (f *forgetting) ids() []string {
	all := map[string]bool{}
	for _, ids := range f.messages {
		maps.Copy(all, ids)
	}
	return slices.Sorted(maps.Keys(all))
}

// conditions are those on a table whose columns have the entity's name, and then those
// on the messages' ids for rows that don't have it.
func (f *forgetting) conditions(named []string, message string) (all []condition) {
	names := slices.Compact([]string{f.Key, storedIdentity(f.Key)})
	var has, lacks condition
	for _, column := range named {
		has.sql, has.args = append(has.sql, column+" IN (?)"), append(has.args, names)
		lacks.sql, lacks.args = append(lacks.sql, "COALESCE("+column+", '') NOT IN (?)"), append(lacks.args, names)
	}
	all = append(all, condition{sql: []string{"(" + strings.Join(has.sql, " OR ") + ")"}, args: has.args})
	if message == "" {
		return all
	}
	for chunk := range slices.Chunk(f.ids(), maxPurge) {
		all = append(all, condition{
			sql: append(slices.Clone(lacks.sql), message+" IN (?)"), args: append(slices.Clone(lacks.args), chunk),
		})
	}
	return all
}

type condition struct {
	sql  []string
	args []any
}

func (c condition) where(and string) string {
	return " WHERE " + and + " AND " + strings.Join(c.sql, " AND ")
}

// parkedNames are columns that have the entity's name.
func parkedNames() []string { return []string{"message_key", "subject"} }

func scheduledNames() []string { return []string{"message_key", "slot_subject"} }

// collect looks for the ids of the entity's messages: other tables know them by
// nothing else.
func (f *forgetting) collect(ctx context.Context) error {
	for _, c := range f.conditions(parkedNames(), "message_id") {
		var rows []struct {
			Consumer  string         `db:"consumer"`
			InboxID   sql.NullString `db:"inbox_id"`
			MessageID string         `db:"message_id"`
		}
		err := f.read(ctx, &rows, "SELECT consumer, inbox_id, message_id FROM "+f.store.names.parked+c.where("1 = 1"), c.args...)
		if err != nil {
			return err
		}
		for _, row := range rows {
			f.about(row.Consumer, row.InboxID.String)
			f.about("", row.MessageID)
		}
	}
	return nil
}

func (f *forgetting) read(ctx context.Context, into any, query string, args ...any) error {
	query, args, err := sqlx.In(query, args...)
	if err != nil {
		return err
	}
	return f.store.withConn(ctx, func(conn *sqlx.Conn) error {
		return conn.SelectContext(ctx, into, f.store.dialect.rebind(query), args...)
	})
}

// discard has open messages end as a person would end them.
func (f *forgetting) discard(ctx context.Context) error {
	if !f.DiscardOpen {
		return nil
	}
	var ids []int64
	for _, c := range f.conditions(parkedNames(), "message_id") {
		var found []int64
		query := "SELECT id FROM " + f.store.names.parked + c.where("status IN "+openStatuses)
		if err := f.read(ctx, &found, query, c.args...); err != nil {
			return err
		}
		ids = append(ids, found...)
	}
	slices.Sort(ids)
	slices.Reverse(ids) // from a line's end: none is handled meanwhile because it is the next
	for _, id := range ids {
		err := f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
			_, err := f.store.DiscardParked(ctx, tx, id, f.Actor, "its entity is forgotten", nil)
			return err
		})
		switch {
		case err == nil:
			f.done.Discarded++
		case !errors.Is(err, ErrNotParked) && !errors.Is(err, ErrStatus): // it was handled meanwhile
			return err
		}
	}
	return f.eachBatch(ctx, f.store.names.scheduled, "state = 'waiting'", scheduledNames(),
		"message_id", "DELETE FROM "+f.store.names.scheduled+" WHERE state = 'waiting' AND id IN (?)", &f.done.Scheduled)
}

// eachBatch runs a statement for the matching rows' ids in batches. and is a further
// condition.
func (f *forgetting) eachBatch(
	ctx context.Context, table, and string, named []string, message, statement string, count *int64, before ...any,
) error {
	for _, c := range f.conditions(named, message) {
		var ids []int64
		if err := f.read(ctx, &ids, "SELECT id FROM "+table+c.where(and)+" ORDER BY id", c.args...); err != nil {
			return err
		}
		for chunk := range slices.Chunk(ids, f.BatchSize) {
			n, err := f.batch(ctx, statement, append(slices.Clone(before), chunk)...)
			if err != nil {
				return err
			}
			*count += n
		}
	}
	return nil
}

func (f *forgetting) batch(ctx context.Context, statement string, args ...any) (n int64, err error) {
	err = f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
		res, err := f.store.execIn(ctx, tx, statement, args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}

func (f *forgetting) parked(ctx context.Context) error {
	const final = "status NOT IN " + openStatuses
	return f.eachBatch(ctx, f.store.names.parked, final, parkedNames(), "message_id",
		"DELETE FROM "+f.store.names.parked+" WHERE "+final+" AND id IN (?)", &f.done.Parked)
}

// oldSlot is when a slot may be forgotten without being sent again: the forwarder
// keeps it as long.
func (f *forgetting) oldSlot() string { return "due_at < " + f.store.dialect.nowPlus() }

const slotMicros = int64(-24 * 60 * 60 * 1_000_000)

func (f *forgetting) scheduled(ctx context.Context) error {
	return f.eachBatch(ctx, f.store.names.scheduled, "state <> 'waiting'", scheduledNames(),
		"message_id", "DELETE FROM "+f.store.names.scheduled+" WHERE state <> 'waiting' AND "+f.oldSlot()+" AND id IN (?)",
		&f.done.Scheduled, slotMicros)
}

// forgottenCodec names content that was removed. No codec may be called so.
const forgottenCodec = "forgotten"

// effects keeps the rows: a call whose row is gone would be made again.
func (f *forgetting) effects(ctx context.Context) error {
	type effectKey struct {
		Scope string `db:"scope"`
		Key   string `db:"effect_key"`
	}
	var keys []effectKey
	const final = "status IN ('done', 'refused') AND sealed <> '" + forgottenCodec + "'"
	for _, c := range f.conditions([]string{"effect_key"}, "message_id") {
		var found []effectKey
		err := f.read(ctx, &found, "SELECT scope, effect_key FROM "+f.store.names.effects+c.where(final), c.args...)
		if err != nil {
			return err
		}
		keys = append(keys, found...)
	}
	for chunk := range slices.Chunk(keys, f.BatchSize) {
		err := f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
			for _, key := range chunk {
				_, err := tx.ExecContext(ctx, "UPDATE "+f.store.names.effects+" SET request = NULL, response = NULL, "+
					"response_meta = NULL, last_error = NULL, settled_note = NULL, sealed = ?, response_sealed = ? "+
					"WHERE scope = ? AND effect_key = ? AND "+final, forgottenCodec, forgottenCodec, key.Scope, key.Key)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		f.done.Effects += int64(len(chunk))
	}
	return nil
}
