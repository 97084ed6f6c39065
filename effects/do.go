package effects

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/headrace-go/headrace/internal/limits"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Do makes a call once, and returns the stored response to every repeat. Scope and
// key name the effect: "charge" and the order's number. The same key with another
// request is refused (ErrKeyReused).
//
// A call that was begun isn't cut off by ctx, since it would be unknown then whether
// it has taken effect; Provider.Timeout bounds it.
//
// Errors: ErrInUnit, ErrExpired, ErrKeyReused, ErrInProgress, ErrLimited, ErrBreakerOpen,
// ErrAmbiguous, *UnknownError, *RefusedError, those that call marks with NotDone,
// store.ErrContent where the request is too long, and the database's.
func (c *Client) Do(ctx context.Context, scope, key string, request []byte, call Call) (Response, error) {
	if store.CurrentUnit(ctx) != nil {
		return Response{}, ErrInUnit
	}
	if scope == "" || key == "" || strings.Contains(scope, "/") {
		return Response{}, fmt.Errorf("effects: an effect needs a scope without slash and a key, not %q and %q", scope, key)
	}
	if late(ctx) {
		if _, err := c.store.Effect(ctx, scope, key); errors.Is(err, sql.ErrNoRows) {
			return Response{}, fmt.Errorf("effects: %w: %q in scope %q", ErrExpired, key, scope)
		}
	}
	began := time.Now()
	hash, about := sha256.Sum256(request), store.AboutFromContext(ctx)
	intent := store.EffectRow{
		Scope: scope, Key: key, Provider: c.cfg.Provider.Name, RequestHash: hash[:], Request: request, Owner: c.owner,
		Consumer: about.Consumer, MessageID: about.MessageID,
	}
	before, move, err := c.store.ClaimEffect(ctx, intent, c.cfg.ClaimTTL, func(known store.EffectRow) store.EffectMove {
		return c.move(intent, known)
	})
	if err != nil {
		return Response{}, err
	}
	if move == store.EffectLeave && same(intent, before) {
		if settled, err := c.decided(ctx, before); err != nil {
			return Response{}, err
		} else if settled {
			return c.Do(ctx, scope, key, request, call)
		}
	}
	if move == store.EffectLeave || move == store.EffectDoubt {
		return c.answer(intent, before, move)
	}
	step.Reach(ctx, step.EffectIntent)
	claim := intent
	claim.Epoch, claim.InDoubt = before.Epoch+1, before.Status == store.EffectCalling
	a := attempt{client: c, claim: claim, began: began, call: call, since: before.SinceLast}
	if move == store.EffectLook {
		return a.look(ctx)
	}
	return a.run(ctx)
}

// move says what to do with an effect that is there already.
func (c *Client) move(intent, known store.EffectRow) store.EffectMove {
	if !same(intent, known) {
		return store.EffectLeave
	}
	p := c.cfg.Provider
	switch {
	case known.Status == store.EffectRetry:
		return store.EffectCall
	case known.Status != store.EffectCalling || known.ClaimLeft > 0:
		return store.EffectLeave
	case p.Conditional, p.Keys && (p.KeysFor == 0 || known.SinceFirst+c.cfg.ClaimTTL < p.KeysFor):
		return store.EffectCall
	case p.Lookup != nil:
		return store.EffectLook
	}
	return store.EffectDoubt
}

func same(intent, known store.EffectRow) bool {
	return known.Provider == store.Identity(intent.Provider) && string(known.RequestHash) == string(intent.RequestHash)
}

// answer is what is said of an effect that isn't called.
func (c *Client) answer(intent, known store.EffectRow, move store.EffectMove) (Response, error) {
	switch {
	case !same(intent, known):
		return Response{}, parking.AsPermanent(fmt.Errorf("effects: %w: %q in scope %q", ErrKeyReused, intent.Key, intent.Scope))
	case known.Status == store.EffectDone:
		return Response{Code: known.Code, Meta: known.Meta, Body: known.Response, Truncated: known.Truncated, Repeated: true}, nil
	case known.Status == store.EffectRefused:
		return Response{}, &RefusedError{known.Scope, known.Key, parking.Class(known.Class), known.LastError}
	case known.Status == store.EffectUnknown || move == store.EffectDoubt:
		return Response{}, &UnknownError{known.Scope, known.Key, known.SinceLast, known.LastError}
	}
	err := fmt.Errorf("effects: %w: %q in scope %q", ErrInProgress, intent.Key, intent.Scope)
	return Response{}, parking.After(err, known.ClaimLeft)
}

// attempt is one claim of an effect.
type attempt struct {
	client *Client
	claim  store.EffectRow
	began  time.Time
	// since is how long ago the call before was meant to be made.
	since time.Duration
	call  Call
}

// look asks the provider what became of the call before.
func (a *attempt) look(ctx context.Context) (Response, error) {
	p := a.client.cfg.Provider
	var found bool
	response, err := a.within(ctx, func(ctx context.Context) (r Response, err error) {
		r, found, err = p.Lookup(ctx, sentKey(a.claim), a.claim.Request)
		return r, err
	})
	switch early := p.Settle - a.since; {
	case err != nil:
		return a.open(ctx, fmt.Errorf("effects: ask %s what became of the call: %w", p.Name, err))
	case found:
		return a.finish(ctx, response, nil)
	case early > 0:
		return a.open(ctx, parking.After(fmt.Errorf("effects: %w: %s doesn't know it yet", ErrInProgress, p.Name), early))
	}
	a.claim.InDoubt = false
	a.began = time.Now() // before the claim is renewed: this process may be stopped behind that
	ok, err := a.client.store.EffectCalls(ctx, a.claim, a.client.cfg.ClaimTTL)
	if err != nil {
		return Response{}, err
	}
	if !ok {
		return a.lost(ctx)
	}
	step.Reach(ctx, step.EffectIntent)
	return a.run(ctx)
}

// run makes the call, unless it isn't allowed to.
func (a *attempt) run(ctx context.Context) (Response, error) {
	c := a.client
	if err := a.mayCall(); err != nil {
		return a.finish(ctx, Response{}, NotDone(err))
	}
	response, err := a.within(ctx, func(ctx context.Context) (Response, error) {
		return a.call(ctx, sentKey(a.claim), a.claim.Request)
	})
	step.Reach(ctx, step.EffectCalled)
	if c.breaker != nil {
		if err == nil || kindOf(err) == refused {
			c.breaker.RecordSuccess()
		} else {
			c.breaker.RecordFailure()
		}
	}
	return a.finish(ctx, response, err)
}

func (a *attempt) mayCall() error {
	c, p := a.client, a.client.cfg.Provider
	switch {
	case time.Since(a.began) > c.cfg.ClaimTTL-p.Timeout: // this process was asleep
		return parking.AsTransient(fmt.Errorf("effects: %w: its claim is over", ErrInProgress))
	case c.limiter != nil && !c.limiter.TryAcquirePermit():
		return parking.After(fmt.Errorf("effects: %s: %w", p.Name, ErrLimited), p.Limit.Every())
	case c.breaker != nil && !c.breaker.TryAcquirePermit():
		return parking.After(fmt.Errorf("effects: %s: %w", p.Name, ErrBreakerOpen), c.breaker.RemainingDelay())
	}
	return nil
}

// within runs f in bounded time, even if it doesn't return.
func (a *attempt) within(ctx context.Context, f func(ctx context.Context) (Response, error)) (Response, error) {
	return limits.Within(context.WithoutCancel(ctx), a.client.cfg.Provider.Timeout, "effects: the call", f)
}

// open gives the claim back and leaves the effect in doubt.
func (a *attempt) open(ctx context.Context, err error) (Response, error) {
	row := a.claim
	row.Status, row.InDoubt, row.LastError = store.EffectCalling, true, err.Error()
	if _, failed := a.record(ctx, row); failed != nil {
		err = errors.Join(err, failed)
	}
	return Response{}, asTransient(err)
}

// asTransient keeps an error's own time to wait.
func asTransient(err error) error {
	if _, ok := parking.RetryAfter(err); ok {
		return err
	}
	return parking.AsTransient(err)
}

// finish writes down what came of the call.
func (a *attempt) finish(ctx context.Context, response Response, err error) (Response, error) {
	row, result := a.outcome(response, err)
	ok, failed := a.record(ctx, row)
	step.Reach(ctx, step.EffectRecorded)
	switch {
	case failed != nil: // what came of the call will be found out by the next
		err := fmt.Errorf("effects: %w: its outcome couldn't be written: %w", ErrAmbiguous, failed)
		return Response{}, parking.AsTransient(err)
	case !ok:
		return a.lost(ctx)
	case result != nil:
		return Response{}, result
	}
	return response, nil
}

// outcome is the row and the error for what a call has returned. While it is in
// doubt whether an earlier call took effect, a refusal says nothing of that one, and
// is left to a person; but that a version isn't current any more is true whoever has
// changed it.
func (a *attempt) outcome(response Response, err error) (store.EffectRow, error) {
	row, p := a.claim, a.client.cfg.Provider
	if err == nil {
		row.Status, row.InDoubt = store.EffectDone, false
		row.Code, row.Meta, row.Response, row.Truncated = response.Code, response.Meta, response.Body, response.Truncated
		return row, nil
	}
	row.LastError = err.Error()
	unknown := &UnknownError{row.Scope, row.Key, time.Since(a.began), row.LastError}
	class := parking.Classify(err)
	switch kind := kindOf(err); {
	case kind == refused && (!row.InDoubt || p.Conditional && class == parking.Conflict):
		if class != parking.Conflict {
			class = parking.Permanent
		}
		row.Status, row.Class = store.EffectRefused, string(class)
		return row, &RefusedError{row.Scope, row.Key, class, row.LastError}
	case kind == refused:
		row.Status = store.EffectUnknown
		return row, unknown
	case kind == notDone:
		row.Status, row.Class = store.EffectRetry, string(class)
		if row.InDoubt {
			row.Status = store.EffectCalling
		}
		return row, asTransient(err)
	case p.Keys || p.Conditional || p.Lookup != nil:
		row.Status, row.InDoubt, row.Class = store.EffectCalling, true, string(class)
		return row, asTransient(fmt.Errorf("effects: %w: %w", ErrAmbiguous, err))
	}
	row.Status, row.InDoubt = store.EffectUnknown, true
	return row, unknown
}

// record writes the row while the claim lasts, whatever happens to the message's
// context. ok is false when the claim has changed hands.
func (a *attempt) record(ctx context.Context, row store.EffectRow) (ok bool, err error) {
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), a.began.Add(a.client.cfg.ClaimTTL))
	defer cancel()
	const first, longest = 20 * time.Millisecond, 2 * time.Second
	policy := retrypolicy.NewBuilder[bool]().WithMaxRetries(-1).WithBackoff(first, longest).Build()
	ok, err = failsafe.With(policy).WithContext(ctx).Get(func() (bool, error) { return a.client.store.FinishEffect(ctx, row) })
	if err != nil {
		return false, fmt.Errorf("effects: write the outcome of a call: %w", err)
	}
	return ok, nil
}

// lost is what is said when another instance has taken the effect.
func (a *attempt) lost(ctx context.Context) (Response, error) {
	known, err := a.client.store.Effect(context.WithoutCancel(ctx), a.claim.Scope, a.claim.Key)
	if err != nil {
		return Response{}, err
	}
	return a.client.answer(a.claim, known, store.EffectLeave)
}

// sentKey is the idempotency key: the same for every call of an effect, and fit for
// a header.
func sentKey(row store.EffectRow) string {
	key := row.Scope + "/" + row.Key
	plain := len(key) <= store.MaxIdentity
	for i := range len(key) {
		plain = plain && key[i] > ' ' && key[i] < 0x7f
	}
	if plain {
		return key
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}
