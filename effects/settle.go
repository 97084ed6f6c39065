package effects

import (
	"context"
	"errors"
	"fmt"

	"github.com/headrace-go/headrace/store"
)

// Decision is what a person has found out about an effect: Happened, CallAgain or
// GiveUp.
type Decision struct{ row store.EffectRow }

// Happened says that the effect has taken place, with this response as far as it
// is known.
func Happened(response Response, note string) Decision {
	return Decision{store.EffectRow{
		Status: store.EffectDone, Code: response.Code, Meta: response.Meta, Response: response.Body,
		Truncated: response.Truncated, SettledNote: note,
	}}
}

// CallAgain says that nothing has happened, and that the next Do is to call.
func CallAgain(note string) Decision {
	return Decision{store.EffectRow{Status: store.EffectRetry, SettledNote: note}}
}

// GiveUp says that nothing has happened, and that it is to stay so: every repeat is
// refused with this reason.
func GiveUp(reason string) Decision {
	return Decision{store.EffectRow{Status: store.EffectRefused, LastError: reason, SettledNote: reason}}
}

// ErrNotUnknown says that an effect needs no decision.
var ErrNotUnknown = errors.New("only an unknown effect can be settled")

// Settle ends the doubt about an effect whose status is unknown. Who says so is
// stored with the note. Errors match ErrNotUnknown where it isn't in doubt, and
// sql.ErrNoRows where there is no such effect.
func Settle(ctx context.Context, st *store.Store, actor, scope, key string, decision Decision) error {
	row := decision.row
	if actor == "" || row.Status == "" {
		return errors.New("effects: Settle needs an actor and a decision (Happened, CallAgain or GiveUp)")
	}
	row.Scope, row.Key, row.SettledBy = scope, key, actor
	was, err := st.SettleEffect(ctx, row)
	if err != nil {
		return err
	}
	if was != store.EffectUnknown {
		return fmt.Errorf("effects: %w: %q in scope %q is %q", ErrNotUnknown, key, scope, was)
	}
	return nil
}
