package parking

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/store"
)

// ErrNoCall is of a call's response for a review that isn't about one.
var ErrNoCall = errors.New("its review isn't about a call whose outcome nobody knows")

// Reviews lists what waits for a decision, as List does, with what differs (ShownOf).
func (d *Desk) Reviews(ctx context.Context, f store.ParkedFilter, after int64, limit int) ([]Item, error) {
	rows, err := d.st.ListReviews(ctx, f, after, limit)
	if err != nil {
		return nil, err
	}
	return d.items(ctx, rows)
}

// Accept has a message in review handled, with a decision that its handler can read
// (DecisionFromContext): Accepted, or of an effect CallAgain or CallDone.
//
// Errors match ErrNotInReview, ErrInHand, store.ErrNotParked, and store.ErrStatus.
func (d *Desk) Accept(ctx context.Context, id int64, decision Decision) error {
	switch decision {
	case Accepted, CallAgain, CallDone:
	case NoDecision:
		decision = Accepted
	default:
		return fmt.Errorf("parking: unknown decision %q", decision)
	}
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := d.accept(ctx, tx, id, decision, nil)
		return err
	})
	return explain(id, err)
}

// CallResponse is what a provider has answered, as far as a person has found out.
type CallResponse struct {
	Code int
	Body []byte
}

// AcceptDone is Accept with CallDone, for a person who knows what the provider has
// answered: the effect is settled with it in the same transaction, and the handler gets
// it as if the answer had come.
//
// Errors match ErrNoCall when the review is about something else, or about an effect
// that is settled already or has a name too long to be found from here (effects.Settle
// has none); ErrNotInReview, ErrInHand, store.ErrNotParked, store.ErrStatus; and
// store.ErrContent when the answer is longer than store.MaxEffectContent.
func (d *Desk) AcceptDone(ctx context.Context, id int64, response CallResponse) error {
	if len(response.Body) > store.MaxEffectContent {
		return fmt.Errorf("parking: %w: the response of an effect has at most %d bytes, not %d",
			store.ErrContent, store.MaxEffectContent, len(response.Body))
	}
	if row, err := d.st.ParkedByID(ctx, id); err != nil {
		return explain(id, err)
	} else if scope, key, ok := store.EffectOfSubject(row.Subject); ok {
		// What was sealed by a codec that this program hasn't isn't answered in the clear.
		if _, err := d.st.Effect(ctx, scope, key); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("parking: message %d: %w", id, err)
		}
	}
	err := d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		row, err := d.accept(ctx, tx, id, CallDone, func(row store.ParkedRow) error {
			if _, _, ok := store.EffectOfSubject(row.Subject); !ok {
				return ErrNoCall
			}
			return nil
		})
		if err != nil {
			return err
		}
		scope, key, _ := store.EffectOfSubject(row.Subject)
		was, err := d.st.SettleEffect(ctx, store.EffectRow{
			Scope: scope, Key: key, Status: store.EffectDone, Code: response.Code, Response: response.Body,
			SettledBy: d.cfg.Actor, SettledNote: store.ReviewNote(row),
		})
		if errors.Is(err, sql.ErrNoRows) || err == nil && was != store.EffectUnknown {
			err = ErrNoCall
		}
		return err
	})
	return explain(id, err)
}

// accept releases a message in review. check may refuse it; it may be nil.
func (d *Desk) accept(
	ctx context.Context, tx store.Tx, id int64, decision Decision, check func(row store.ParkedRow) error,
) (store.ParkedRow, error) {
	row, err := d.st.ReleaseParked(ctx, tx, id, store.Release{
		By: d.cfg.Actor, Decision: string(decision), Check: func(row store.ParkedRow) error {
			if row.Status != store.StatusReview {
				return ErrNotInReview
			}
			if check == nil {
				return nil
			}
			return check(row)
		},
	})
	if err != nil {
		return row, err
	}
	return row, d.sign(ctx, tx, row, actionAccept, "", map[string]any{
		"before": row.Status, "after": store.StatusReleased, "decision": decision, "subject": row.Subject,
	})
}

// Reject is Discard for a message in review. Errors match ErrNotInReview too.
func (d *Desk) Reject(ctx context.Context, id int64, reason string) error {
	return d.discard(ctx, id, actionReject, reason)
}
