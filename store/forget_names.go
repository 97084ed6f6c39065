package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
)

// reasons removes what errors have said of the messages. The verdicts stay.
func (f *forgetting) reasons(ctx context.Context) error {
	consumers, err := f.store.Consumers(ctx)
	if err != nil {
		return err
	}
	for _, consumer := range consumers {
		ids := maps.Clone(f.messages[""])
		if ids == nil {
			ids = map[string]bool{}
		}
		maps.Copy(ids, f.messages[consumer])
		for chunk := range slices.Chunk(slices.Sorted(maps.Keys(ids)), f.BatchSize) {
			err := f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
				for _, table := range []string{
					f.store.names.inbox + " SET reason = NULL WHERE verdict NOT IN " + openVerdicts,
					f.store.names.verdictLog + " SET reason = NULL WHERE 1 = 1",
				} {
					res, err := f.store.execIn(ctx, tx, "UPDATE "+table+
						" AND reason IS NOT NULL AND consumer = ? AND message_id IN (?)", consumer, chunk)
					if err != nil {
						return err
					}
					n, err := res.RowsAffected()
					if err != nil {
						return err
					}
					f.done.Reasons += n
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// hashed is the entity for those who know its name and want to find it.
func (f *forgetting) hashed() string {
	if _, ok := cutHashed(f.Key); ok {
		return storedIdentity(f.Key)
	}
	sum := sha256.Sum256([]byte(f.Key))
	return hashedPrefix + hex.EncodeToString(sum[:])
}

// audit keeps who did what and when.
func (f *forgetting) audit(ctx context.Context) error {
	update := "UPDATE " + f.store.names.audit + " SET target = CASE WHEN target_kind IN ('" + TargetKey + "', '" + TargetEffect +
		"') THEN ? ELSE target END, note = NULL, details = ?, subject = ? WHERE id = ?"
	for _, c := range f.conditions([]string{"subject"}, "") {
		var rows []struct {
			ID      int64  `db:"id"`
			Details string `db:"details"`
		}
		err := f.read(ctx, &rows, "SELECT id, details FROM "+f.store.names.audit+c.where("1 = 1")+" ORDER BY id", c.args...)
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(rows, f.BatchSize) {
			err := f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
				for _, row := range chunk {
					_, err := tx.ExecContext(ctx, update, f.hashed(), withoutNames(row.Details), f.hashed(), row.ID)
					if err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			f.done.Audit += int64(len(chunk))
		}
	}
	return nil
}

// withoutNames leaves out of a change's details what it was about.
func withoutNames(details string) string {
	var all map[string]any
	if err := json.Unmarshal([]byte(details), &all); err != nil {
		return "{}"
	}
	delete(all, "subject")
	text, err := json.Marshal(all)
	if err != nil {
		return "{}"
	}
	return string(text)
}

// left counts what is still open.
func (f *forgetting) left(ctx context.Context) error {
	left, s := &f.done.Left, f.store
	for _, count := range []struct {
		into       *int64
		table, and string
		named      []string
		message    string
	}{
		{into: &left.Parked, table: s.names.parked, and: "1 = 1", named: parkedNames(), message: "message_id"},
		{
			into: &left.Scheduled, table: s.names.scheduled, and: "state = 'waiting'",
			named: scheduledNames(), message: "message_id",
		},
		{
			into: &left.Slots, table: s.names.scheduled, and: "state <> 'waiting'",
			named: scheduledNames(), message: "message_id",
		},
		{into: &left.Paused, table: s.names.gates, and: "paused", named: []string{"message_key"}},
		{into: &left.Outbox, table: s.names.outbox, and: "1 = 1", named: []string{"message_key"}, message: "message_id"},
		{
			into: &left.Effects, table: s.names.effects, and: "status NOT IN ('done', 'refused')",
			named: []string{"effect_key"}, message: "message_id",
		},
	} {
		for _, c := range f.conditions(count.named, count.message) {
			var n []int64
			if err := f.read(ctx, &n, "SELECT count(*) FROM "+count.table+c.where(count.and), c.args...); err != nil {
				return err
			}
			*count.into += n[0]
		}
	}
	return nil
}

// sign writes into the audit who has done it, and of whom by a hash.
func (f *forgetting) sign(ctx context.Context) error {
	done := f.done
	return f.store.InTx(ctx, func(ctx context.Context, tx Tx) error {
		return f.store.InsertAudit(ctx, tx, AuditRow{
			Actor: f.Actor, Action: "forget", TargetKind: TargetEntity, Target: f.hashed(), Note: f.Note,
			Details: map[string]any{
				"parked": done.Parked, "discarded": done.Discarded, "scheduled": done.Scheduled, "effects": done.Effects,
				"reasons": done.Reasons, "audit": done.Audit, "left": done.Left.Any(),
			},
		})
	})
}
