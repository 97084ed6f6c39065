package effects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/headrace-go/headrace/internal/remark"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Reconcile makes a change to a state that others change too, at an API that takes a
// change only on the version it is based on (If-Match, and 409 or 412 else). When
// somebody else was quicker it reads the current state. If nothing critical differs
// from what the user saw, the change is made on that; else a person must judge.
//
// S is the state. For a person's word to count it must come back from JSON as it was.
type Reconcile[S any] struct {
	// Subject is what is changed, as people call it: "recommendation 4711". Required.
	Subject string
	// Version says which version a state is, for people. Default: nothing is said of it.
	Version func(state S) string
	// Load reads the current state. Required.
	Load func(ctx context.Context) (S, error)
	// Push makes the change on the version of base, by Client.Do of a provider that is
	// Conditional, with a key that has that version in it: on another version it is
	// another request. An error whose class is parking.Conflict says that base isn't
	// current, every other ends Do. Required.
	Push func(ctx context.Context, base S) error
	// Done says that a state is what Push would make of it: an earlier Push got through,
	// though its answer didn't, or somebody else wanted the same. Required.
	Done func(current S) bool
	// Critical lists what has changed between two states that the user has to know
	// before the change is made; nothing if it may be made all the same. Required.
	Critical func(seen, current S) []parking.Change
	// Tries is how often Do pushes. Default 3.
	Tries int
	// Backoff is the pause before the second push, doubled for each further one, and
	// varied by half. Default 50 ms.
	Backoff time.Duration
}

// Reconciled says how a change was made.
type Reconciled[S any] struct {
	// Base is the state on which it was made, or which had it already (Already).
	Base    S
	Already bool
	// Tries is how often it was pushed.
	Tries int
}

// ErrMoving says that a state has changed under every push, though in nothing
// critical. It is transient.
var ErrMoving = errors.New("it changes all the time")

// errBehind says that a push was based on a state that isn't current.
var errBehind = errors.New("the state has changed meanwhile")

// Do makes the change that a user has decided on when they saw a state. In a stage
// (Client.Stage) the message's verdict says how it was made.
//
// When something critical has changed it returns a *parking.ConflictError with both
// states and what differs, which Parking puts into review; ParkingConfig.OnConflict
// takes back the user's action in the same transaction. A person who accepts the
// review has seen what is current: the change is made unless something critical has
// changed since then. Other errors are ErrMoving, and those of Load and Push.
func (r Reconcile[S]) Do(ctx context.Context, seen S) (Reconciled[S], error) {
	if err := r.validate(); err != nil {
		return Reconciled[S]{}, err
	}
	if accepted, ok := r.accepted(ctx); ok {
		seen = accepted
	}
	done := Reconciled[S]{Base: seen}
	policy := retrypolicy.NewBuilder[any]().
		HandleErrors(errBehind).
		WithMaxAttempts(r.tries()).
		WithBackoff(r.backoff(), r.backoff()<<min(r.tries(), maxDoublings)).
		WithJitterFactor(jitter).
		ReturnLastFailure().
		Build()
	err := failsafe.With(policy).WithContext(ctx).Run(func() error { return r.try(ctx, seen, &done) })
	if errors.Is(err, errBehind) {
		err = parking.AsTransient(fmt.Errorf("effects: %s: %w: pushed %d times: %w", r.Subject, ErrMoving, done.Tries, err))
	}
	if err != nil {
		return done, err
	}
	remark.Leave(ctx, r.tell(seen, done))
	return done, nil
}

const (
	maxDoublings = 10
	jitter       = 0.5
)

// try pushes once. Its error matches errBehind where nothing critical has changed.
func (r Reconcile[S]) try(ctx context.Context, seen S, done *Reconciled[S]) error {
	done.Tries++
	refusal := r.Push(ctx, done.Base)
	if refusal == nil {
		return nil
	}
	if errors.Is(refusal, ErrUnknown) || parking.Classify(refusal) != parking.Conflict {
		return refusal
	}
	current, err := r.Load(ctx)
	if err != nil {
		return fmt.Errorf("effects: read the current state of %s: %w", r.Subject, err)
	}
	done.Base = current
	if r.Done(current) {
		done.Already = true
		return nil
	}
	if diff := r.Critical(seen, current); len(diff) > 0 {
		return &parking.ConflictError{Subject: r.Subject, Seen: seen, Current: current, Diff: diff, Err: refusal}
	}
	return fmt.Errorf("%w: %w", errBehind, refusal)
}

// accepted is the state that a person saw who has accepted the change in review.
func (r Reconcile[S]) accepted(ctx context.Context) (state S, ok bool) {
	decision, _, reviewed := parking.DecisionFromContext(ctx)
	if decision != parking.Accepted || parking.TicketFrom(ctx).Row().Subject != store.Identity(r.Subject) {
		return state, false
	}
	shown := struct {
		Current *S `json:"current"`
	}{}
	if err := json.Unmarshal(reviewed, &shown); err != nil || shown.Current == nil {
		return state, false // it is reviewed again
	}
	return *shown.Current, true
}

// tell says how the change was made, for the verdict; nothing if all was as seen.
func (r Reconcile[S]) tell(seen S, done Reconciled[S]) string {
	version := func(state S) string {
		if r.Version == nil {
			return ""
		}
		return " " + r.Version(state)
	}
	switch {
	case done.Already:
		return fmt.Sprintf("%s was as wanted already, in version%s", r.Subject, version(done.Base))
	case done.Tries > 1:
		return fmt.Sprintf("%s was changed at try %d, on version%s instead of%s", r.Subject, done.Tries,
			version(done.Base), version(seen))
	}
	return ""
}

func (r Reconcile[S]) validate() error {
	switch {
	case r.Subject == "":
		return errors.New("effects: Reconcile.Subject is empty: people need to know what a conflict is about")
	case r.Load == nil, r.Push == nil, r.Done == nil, r.Critical == nil:
		return errors.New("effects: Reconcile needs Load, Push, Done and Critical")
	case r.Tries < 0, r.Backoff < 0:
		return errors.New("effects: Reconcile.Tries and Backoff must not be negative")
	}
	return nil
}

func (r Reconcile[S]) tries() int {
	if r.Tries == 0 {
		return 3
	}
	return r.Tries
}

func (r Reconcile[S]) backoff() time.Duration {
	if r.Backoff == 0 {
		return 50 * time.Millisecond
	}
	return r.Backoff
}
