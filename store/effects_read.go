package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// Effect returns an effect with its contents, by its name as it is or as it is stored.
// Errors match sql.ErrNoRows where there is none.
func (s *Store) Effect(ctx context.Context, scope, key string) (EffectRow, error) {
	var read effectRow
	query := s.dialect.rebind(s.effectQuery())
	err := s.withConn(ctx, func(conn *sqlx.Conn) (err error) {
		for _, name := range effectNames(scope, key) {
			err = conn.GetContext(ctx, &read, query, name.scope, name.key)
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		return err
	})
	if err != nil {
		return EffectRow{}, fmt.Errorf("store: read effect %q: %w", Identity(key), err)
	}
	row, err := read.of(scope, key)
	if err != nil {
		return EffectRow{}, err
	}
	if err := s.openEffect(ctx, &row, read); err != nil {
		return EffectRow{}, err
	}
	return row, nil
}

type effectName struct{ scope, key string }

// effectNames are what an effect that somebody names may be stored as: people also name it
// as it was shown to them.
func effectNames(scope, key string) []effectName {
	return slices.Compact([]effectName{{Identity(scope), Identity(key)}, {storedIdentity(scope), storedIdentity(key)}})
}

const effectSubject = "effect:"

// EffectSubject is by what the review of an effect names it.
func EffectSubject(scope, key string) string { return effectSubject + scope + "/" + key }

// EffectOfSubject returns the effect that a review is about, as it was read; ok is false
// when it is about something else, or the effect's name is so long that it is stored as
// a hash.
func EffectOfSubject(subject string) (scope, key string, ok bool) {
	name, ok := strings.CutPrefix(subject, effectSubject)
	if !ok {
		return "", "", false
	}
	return strings.Cut(name, "/") // a scope has no slash
}

// ReviewNote is what an effect that was settled in a message's review has as its note.
func ReviewNote(row ParkedRow) string {
	return fmt.Sprintf("review of parked message %d after %d attempts", row.ID, row.Attempts)
}

// Remembers reports whether a consumer has a message in its inbox, whatever the
// verdict. It asks outside of any unit of work.
func (s *Store) Remembers(ctx context.Context, consumer, messageID string) (bool, error) {
	err := s.withConn(ctx, func(conn *sqlx.Conn) error {
		_, err := s.lookInbox(ctx, conn, Identity(consumer), Identity(messageID))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: look for message %q of %q: %w", Identity(messageID), consumer, err)
	}
	return true, nil
}

// lockEffect reads an effect by its identities, as they are stored.
func (s *Store) lockEffect(ctx context.Context, tx Tx, scope, key string) (row effectRow, err error) {
	err = tx.GetContext(ctx, &row, s.effectQuery()+s.dialect.forUpdate(), scope, key)
	return row, err
}

func (s *Store) effectQuery() string {
	return "SELECT " + s.effectColumns() + " FROM " + s.names.effects + " WHERE scope = ? AND effect_key = ?"
}

func (s *Store) effectColumns() string {
	now, micros := s.dialect.micros(s.dialect.now()), s.dialect.micros
	return "provider, request_hash, request, sealed, response, response_sealed, response_code, response_meta, " +
		"truncated, status, class, in_doubt, attempts, last_error, owner, epoch, consumer, message_id, " +
		"settled_by, settled_note, " +
		micros("claimed_until") + " - " + now + " AS claim_left_us, " +
		now + " - " + micros("first_called_at") + " AS since_first_us, " + now + " - " + micros("last_called_at") +
		" AS since_last_us, " + micros("created_at") + " AS created_us, " + micros("updated_at") + " AS updated_us, " +
		micros("finished_at") + " AS finished_us"
}

type effectRow struct {
	Provider       string         `db:"provider"`
	RequestHash    []byte         `db:"request_hash"`
	Request        []byte         `db:"request"`
	Sealed         string         `db:"sealed"`
	Response       []byte         `db:"response"`
	ResponseSealed string         `db:"response_sealed"`
	Code           int            `db:"response_code"`
	Meta           sql.NullString `db:"response_meta"`
	Truncated      bool           `db:"truncated"`
	Status         string         `db:"status"`
	Class          string         `db:"class"`
	InDoubt        bool           `db:"in_doubt"`
	Attempts       int            `db:"attempts"`
	LastError      sql.NullString `db:"last_error"`
	Owner          string         `db:"owner"`
	Epoch          int64          `db:"epoch"`
	Consumer       sql.NullString `db:"consumer"`
	MessageID      sql.NullString `db:"message_id"`
	SettledBy      sql.NullString `db:"settled_by"`
	SettledNote    sql.NullString `db:"settled_note"`
	ClaimLeft      int64          `db:"claim_left_us"`
	SinceFirst     int64          `db:"since_first_us"`
	SinceLast      int64          `db:"since_last_us"`
	Created        int64          `db:"created_us"`
	Updated        int64          `db:"updated_us"`
	Finished       sql.NullInt64  `db:"finished_us"`
}

// of returns the row without its contents.
func (r effectRow) of(scope, key string) (EffectRow, error) {
	row := EffectRow{
		Scope: scope, Key: key, Provider: r.Provider, RequestHash: r.RequestHash, Code: r.Code, Truncated: r.Truncated,
		Status: EffectStatus(r.Status), Class: r.Class, InDoubt: r.InDoubt, Attempts: r.Attempts, LastError: r.LastError.String,
		Owner: r.Owner, Epoch: r.Epoch, ClaimLeft: time.Duration(r.ClaimLeft) * time.Microsecond,
		SinceFirst: time.Duration(r.SinceFirst) * time.Microsecond, SinceLast: time.Duration(r.SinceLast) * time.Microsecond,
		Consumer: r.Consumer.String, MessageID: r.MessageID.String,
		SettledBy: r.SettledBy.String, SettledNote: r.SettledNote.String,
		CreatedAt: timeFromMicros(r.Created), UpdatedAt: timeFromMicros(r.Updated),
	}
	if r.Finished.Valid {
		row.FinishedAt = timeFromMicros(r.Finished.Int64)
	}
	if r.Meta.Valid {
		if err := json.Unmarshal([]byte(r.Meta.String), &row.Meta); err != nil {
			return EffectRow{}, fmt.Errorf("store: metadata of effect %q: %w", Identity(key), err)
		}
	}
	return row, nil
}

func (s *Store) openEffect(ctx context.Context, row *EffectRow, read effectRow) (err error) {
	if row.Request, err = s.unseal(ctx, read.Sealed, read.Request); err != nil {
		return err
	}
	row.Response, err = s.unseal(ctx, read.ResponseSealed, read.Response)
	return err
}
