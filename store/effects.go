package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// EffectStatus is what is known of a call to the outside world.
type EffectStatus string

// The statuses. Rows that are calling, retry or unknown are open, and never purged.
const (
	// EffectCalling: the call was meant to be made; while the claim lasts, by its owner.
	EffectCalling EffectStatus = "calling"
	// EffectRetry: surely nothing has happened, and it may be called again.
	EffectRetry EffectStatus = "retry"
	// EffectDone and EffectRefused are the provider's last words.
	EffectDone    EffectStatus = "done"
	EffectRefused EffectStatus = "refused"
	// EffectUnknown waits for a person who finds out what happened.
	EffectUnknown EffectStatus = "unknown"
)

// MaxEffectContent is the longest request or response that an effect keeps, in
// bytes.
const MaxEffectContent = 1 << 20

// EffectRow is one call to the outside world. Times are the database's.
type EffectRow struct {
	// Scope and Key tell it from others; stored as Identity says.
	Scope, Key string
	Provider   string
	// RequestHash is of 32 bytes at most.
	RequestHash       []byte
	Request, Response []byte
	Code              int
	Meta              map[string]string
	// Truncated says that the response was longer than what is kept of it.
	Truncated bool

	Status EffectStatus
	Class  string
	// InDoubt says that an earlier call may have taken effect.
	InDoubt   bool
	Attempts  int
	LastError string

	// Owner and Epoch are the claim's, which grows at each change of hands.
	Owner string
	Epoch int64
	// ClaimLeft is what is left of the claim; negative when it is over.
	ClaimLeft time.Duration
	// SinceFirst is the time since the first call that may have taken effect was
	// meant to be made, SinceLast since the last.
	SinceFirst, SinceLast time.Duration

	// Consumer and MessageID say for whom it was called. Optional.
	Consumer, MessageID string
	// SettledBy is the person who said what had happened, and SettledNote why.
	SettledBy, SettledNote           string
	CreatedAt, UpdatedAt, FinishedAt time.Time
}

// EffectMove is what is to be done with an effect that is there already.
type EffectMove int

// The moves.
const (
	// EffectLeave leaves it as it is.
	EffectLeave EffectMove = iota
	// EffectCall claims it for a call, and counts that.
	EffectCall
	// EffectLook claims it to ask what happened; EffectCalls counts a call then.
	EffectLook
	// EffectDoubt makes it unknown.
	EffectDoubt
)

// ClaimEffect writes an effect that is about to be called, claimed by row.Owner for
// ttl, in a transaction of its own. If the effect is there already, decide gets its
// row, locked and without contents, and says what to do. The row is returned as it
// was before the move that is returned (empty for a new effect, which is to be
// called); its contents only where it was left.
//
// Errors match ErrContent where the request is too long.
func (s *Store) ClaimEffect(
	ctx context.Context, row EffectRow, ttl time.Duration, decide func(known EffectRow) EffectMove,
) (before EffectRow, move EffectMove, err error) {
	if len(row.Request) > MaxEffectContent {
		return EffectRow{}, 0, fmt.Errorf("%w: the request of an effect has at most %d bytes, not %d",
			ErrContent, MaxEffectContent, len(row.Request))
	}
	request, err := s.seal(ctx, row.Request)
	if err != nil {
		return EffectRow{}, 0, err
	}
	var read effectRow
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) (err error) {
		before, move = EffectRow{}, EffectCall
		read, err = s.lockEffect(ctx, tx, Identity(row.Scope), Identity(row.Key))
		if errors.Is(err, sql.ErrNoRows) {
			inserted, insertErr := s.insertEffect(ctx, tx, row, request, ttl)
			if inserted || insertErr != nil {
				return insertErr // nothing was there before
			}
			read, err = s.lockEffect(ctx, tx, Identity(row.Scope), Identity(row.Key))
		}
		if err != nil {
			return err
		}
		if before, err = read.of(row.Scope, row.Key); err != nil {
			return err
		}
		move = decide(before)
		return s.moveEffect(ctx, tx, row, before, move, ttl)
	})
	if err != nil {
		return EffectRow{}, 0, fmt.Errorf("store: claim effect %q: %w", Identity(row.Key), err)
	}
	if move == EffectLeave {
		err = s.openEffect(ctx, &before, read)
	}
	return before, move, err
}

func (s *Store) insertEffect(
	ctx context.Context, tx Tx, row EffectRow, request []byte, ttl time.Duration,
) (inserted bool, err error) {
	now := s.dialect.now()
	query := "INSERT INTO " + s.names.effects + " (scope, effect_key, provider, request_hash, request, sealed, status, class, " +
		"attempts, owner, epoch, claimed_until, first_called_at, last_called_at, consumer, message_id) " +
		"VALUES (?, ?, ?, ?, ?, ?, 'calling', '', 1, ?, 1, " + s.dialect.nowPlus() + ", " + now + ", " + now + ", ?, ?)"
	if s.dialect != MySQL {
		query += " ON CONFLICT (scope, effect_key) DO NOTHING"
	}
	res, err := tx.ExecContext(ctx, query, Identity(row.Scope), Identity(row.Key), Identity(row.Provider), row.RequestHash,
		nullBytes(request), s.codecName(), row.Owner, ttl.Microseconds(), identityOrNull(row.Consumer),
		identityOrNull(row.MessageID))
	if s.dialect == MySQL {
		if s.dialect.duplicateKey(err) {
			return false, nil
		}
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

func identityOrNull(v string) any {
	if v == "" {
		return nil
	}
	return Identity(v)
}

func (s *Store) moveEffect(ctx context.Context, tx Tx, row, before EffectRow, move EffectMove, ttl time.Duration) error {
	now := s.dialect.now()
	where := " WHERE scope = ? AND effect_key = ?"
	claim := "owner = ?, epoch = epoch + 1, claimed_until = " + s.dialect.nowPlus() + ", status = 'calling', updated_at = " + now
	args := []any{row.Owner, ttl.Microseconds()}
	switch move {
	case EffectLeave:
		return nil
	case EffectDoubt:
		claim, args = "status = 'unknown', in_doubt = ?, epoch = epoch + 1, updated_at = "+now, []any{true}
	case EffectLook:
		claim, args = claim+", in_doubt = ?", append(args, true)
	case EffectCall:
		doubt := before.Status == EffectCalling
		claim, args = claim+", in_doubt = ?, attempts = attempts + 1, last_called_at = "+now, append(args, doubt)
		if !doubt { // no call before this one can have taken effect
			claim += ", first_called_at = " + now
		}
	}
	_, err := tx.ExecContext(ctx, "UPDATE "+s.names.effects+" SET "+claim+where,
		append(args, Identity(row.Scope), Identity(row.Key))...)
	return err
}

// EffectCalls says that the owner of a claim has found that nothing has happened
// yet, and is about to call. ok is false when the claim has changed hands.
func (s *Store) EffectCalls(ctx context.Context, claim EffectRow, ttl time.Duration) (ok bool, err error) {
	now := s.dialect.now()
	return s.ownEffect(ctx, claim, "in_doubt = ?, attempts = attempts + 1, first_called_at = "+now+", last_called_at = "+now+
		", claimed_until = "+s.dialect.nowPlus()+", updated_at = "+now, false, ttl.Microseconds())
}

// FinishEffect writes what came of a call, if the claim is still its owner's: row's
// Status, Class, InDoubt, LastError and response. A status that is open gives the
// claim back. Responses longer than MaxEffectContent are cut.
func (s *Store) FinishEffect(ctx context.Context, row EffectRow) (ok bool, err error) {
	response, meta, err := s.effectResponse(ctx, &row)
	if err != nil {
		return false, err
	}
	now := s.dialect.now()
	set := "status = ?, class = ?, in_doubt = ?, last_error = ?, response = ?, response_sealed = ?, response_code = ?, " +
		"response_meta = ?, truncated = ?, claimed_until = " + now + ", updated_at = " + now
	if row.Status == EffectDone || row.Status == EffectRefused {
		set += ", finished_at = " + now
	}
	return s.ownEffect(ctx, row, set, string(row.Status), row.Class, row.InDoubt, nullString(plainText(row.LastError, maxError)),
		nullBytes(response), s.codecName(), row.Code, meta, row.Truncated)
}

func (s *Store) effectResponse(ctx context.Context, row *EffectRow) (sealed []byte, meta any, err error) {
	if len(row.Response) > MaxEffectContent {
		row.Response, row.Truncated = row.Response[:MaxEffectContent], true
	}
	if sealed, err = s.seal(ctx, row.Response); err != nil {
		return nil, nil, err
	}
	if len(row.Meta) == 0 {
		return sealed, nil, nil
	}
	text, err := json.Marshal(row.Meta)
	if err != nil {
		return nil, nil, fmt.Errorf("store: metadata of a response: %w", err)
	}
	return sealed, string(text), nil
}

// ownEffect changes an effect whose claim is the row's. The claim is read and
// locked first: a count of changed rows says little on MySQL.
func (s *Store) ownEffect(ctx context.Context, claim EffectRow, set string, args ...any) (ok bool, err error) {
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		ok = false
		read, err := s.lockEffect(ctx, tx, Identity(claim.Scope), Identity(claim.Key))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil || read.Owner != claim.Owner || read.Epoch != claim.Epoch || read.Status != string(EffectCalling) {
			return err
		}
		ok = true
		_, err = tx.ExecContext(ctx, "UPDATE "+s.names.effects+" SET "+set+" WHERE scope = ? AND effect_key = ?",
			append(append([]any{}, args...), Identity(claim.Scope), Identity(claim.Key))...)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store: write effect %q: %w", Identity(claim.Key), err)
	}
	return ok, nil
}

// SettleEffect writes what a person has found out about an effect, which is named as it is
// or as it is stored: row's Status (EffectDone, EffectRefused or EffectRetry), response,
// LastError, SettledBy and SettledNote. It returns the status that the effect had: unless
// that was EffectUnknown, nothing was changed. It is audited. Errors match sql.ErrNoRows
// where there is no such effect, and ErrNoActor where nobody signs it.
func (s *Store) SettleEffect(ctx context.Context, row EffectRow) (was EffectStatus, err error) {
	response, meta, err := s.effectResponse(ctx, &row)
	if err != nil {
		return "", err
	}
	now := s.dialect.now()
	set := "status = ?, class = '', in_doubt = ?, last_error = COALESCE(?, last_error), response = ?, response_sealed = ?, " +
		"response_code = ?, response_meta = ?, truncated = ?, settled_by = ?, settled_note = ?, epoch = epoch + 1, " +
		"updated_at = " + now
	if row.Status != EffectRetry {
		set += ", finished_at = " + now
	}
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		var name effectName
		var read effectRow
		var err error
		for _, name = range effectNames(row.Scope, row.Key) {
			read, err = s.lockEffect(ctx, tx, name.scope, name.key)
			if !errors.Is(err, sql.ErrNoRows) {
				break
			}
		}
		if err != nil {
			return err
		}
		if was = EffectStatus(read.Status); was != EffectUnknown {
			return nil
		}
		_, err = tx.ExecContext(ctx, "UPDATE "+s.names.effects+" SET "+set+" WHERE scope = ? AND effect_key = ?",
			string(row.Status), false, nullString(plainText(row.LastError, maxError)), nullBytes(response), s.codecName(),
			row.Code, meta, row.Truncated, Identity(row.SettledBy), nullString(plainText(row.SettledNote, maxReason)),
			name.scope, name.key)
		if err != nil {
			return err
		}
		return s.InsertAudit(ctx, tx, AuditRow{
			Actor: row.SettledBy, Action: "settle", TargetKind: TargetEffect, Target: name.scope + "/" + name.key,
			Subject: name.key, Note: row.SettledNote, Details: map[string]any{"as": string(row.Status)},
		})
	})
	if err != nil {
		return "", fmt.Errorf("store: settle effect %q: %w", Identity(row.Key), err)
	}
	return was, nil
}

// PurgeEffects deletes up to limit finished effects that are older than the window
// by the database's clock, oldest first, in a transaction of its own, and returns
// how many. A limit above 10,000 counts as 10,000.
func (s *Store) PurgeEffects(ctx context.Context, window time.Duration, limit int) (purged int64, err error) {
	due := " finished_at < " + s.dialect.nowPlus() + " AND status IN ('done', 'refused')"
	cut := -window.Microseconds()
	err = s.InTx(ctx, func(ctx context.Context, tx Tx) error {
		purged = 0
		var rows []struct {
			Scope string `db:"scope"`
			Key   string `db:"effect_key"`
		}
		err := tx.SelectContext(ctx, &rows, "SELECT scope, effect_key FROM "+s.names.effects+" WHERE"+due+
			" ORDER BY finished_at LIMIT ?", cut, min(limit, maxPurge))
		if err != nil {
			return err
		}
		for _, row := range rows {
			_, err := tx.ExecContext(ctx, "DELETE FROM "+s.names.effects+" WHERE scope = ? AND effect_key = ? AND"+due,
				row.Scope, row.Key, cut)
			if err != nil {
				return err
			}
			purged++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("store: purge effects: %w", err)
	}
	return purged, nil
}
