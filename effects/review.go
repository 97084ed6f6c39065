package effects

import (
	"context"
	"errors"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Subject is by what the review of an effect that is unknown names it.
func (e *UnknownError) Subject() string { return store.EffectSubject(e.Scope, e.Key) }

// As gives Parking what the review is about.
func (e *UnknownError) As(target any) bool {
	conflict, ok := target.(**parking.ConflictError)
	if ok {
		*conflict = &parking.ConflictError{Subject: e.Subject()}
	}
	return ok
}

// decided ends the doubt about an effect as a person has said in the review of the
// message that is handled (parking.Desk.Accept). What was said counts for the call that
// it was said of: it is noted with the effect, and not used again.
func (c *Client) decided(ctx context.Context, known store.EffectRow) (bool, error) {
	said, by, _ := parking.DecisionFromContext(ctx)
	if known.Status != store.EffectUnknown || by == "" {
		return false, nil
	}
	row := parking.TicketFrom(ctx).Row()
	if row.Subject != store.Identity(store.EffectSubject(known.Scope, known.Key)) {
		return false, nil // it was said of another call of the message's handler
	}
	note := store.ReviewNote(row)
	var decision Decision
	switch said {
	case parking.CallAgain:
		decision = CallAgain(note)
	case parking.CallDone:
		decision = Happened(Response{}, note)
	case parking.NoDecision, parking.Accepted:
	}
	if decision.row.Status == "" || known.SettledNote == note {
		return false, nil
	}
	err := Settle(ctx, c.store, by, known.Scope, known.Key, decision)
	if err != nil && !errors.Is(err, ErrNotUnknown) { // somebody else was quicker
		return false, err
	}
	return true, nil
}

// passes reports whether a message is to go on without a call, since Dedupe won't
// handle it now: it knows the message, or puts it at the end of a line that is held. A
// kept message whose turn has come is known, and is called for.
func (c *Client) passes(ctx context.Context, consumer, id string) (bool, error) {
	ticket := parking.TicketFrom(ctx)
	if ticket == nil {
		return c.store.Remembers(ctx, consumer, id)
	}
	if ref, again := ticket.Reentry(); again { // it may have been read long ago
		open, err := c.store.LookAgain(ctx, ref)
		return err == nil && !open, err
	}
	_, known, held, err := c.store.Look(ctx, consumer, id, ticket.Line())
	return known || held, err
}
