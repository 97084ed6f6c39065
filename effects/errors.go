package effects

import (
	"errors"
	"fmt"
	"time"

	"github.com/headrace-go/headrace/parking"
)

// Errors that are matched with errors.Is.
var (
	// ErrInUnit says that Do was called within a unit of work.
	ErrInUnit = errors.New("effects: a call can't be rolled back with a unit of work: " +
		"make it in Client.Stage in front of Dedupe; what a unit has decided is called in the stage " +
		"of a message that it sends to yourself by the outbox")
	// ErrKeyReused says that the key belongs to another request or provider. It is
	// permanent.
	ErrKeyReused = errors.New("the effect's key was used for another request")
	// ErrInProgress says that another call of the same effect is in hand, or that it
	// is too early to ask what became of it. It is transient.
	ErrInProgress = errors.New("the effect is being called")
	// ErrExpired says that a message's time to live was over before its call was begun.
	// A stage's function returns it as it is: the message goes on to Dedupe, which
	// records that it is expired.
	ErrExpired = errors.New("the message is of no use any more")
	// ErrUnknown matches UnknownError.
	ErrUnknown = errors.New("nobody knows whether the effect has happened")
	// ErrRefused matches RefusedError.
	ErrRefused = errors.New("the provider has refused the effect")
	// ErrLimited says that Provider.Limit is used up. It is transient.
	ErrLimited = errors.New("too many calls to the provider")
	// ErrBreakerOpen says that too many calls have failed lately. It is transient.
	ErrBreakerOpen = errors.New("the provider fails, and is left alone for a while")
	// ErrAmbiguous says that a call has failed in a way that leaves open whether it
	// took effect, and that what it did will be found out by the next Do. It is
	// transient.
	ErrAmbiguous = errors.New("the call may or may not have taken effect")
)

// UnknownError is an effect of which nobody knows whether it has happened. It
// isn't called again until a person has said what is right: see Settle. It matches
// ErrUnknown, and its class is parking.Conflict.
type UnknownError struct {
	Scope, Key string
	// For is how long ago the last call was meant to be made, by the database's clock.
	For time.Duration
	// Reason is what the last call has failed with, where that is known.
	Reason string
}

func (e *UnknownError) Error() string {
	text := fmt.Sprintf("%v: %q in scope %q, last called %s ago: ask the provider, then effects.Settle",
		ErrUnknown, e.Key, e.Scope, e.For.Round(time.Second))
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Is matches ErrUnknown and parking.ErrConflict.
func (e *UnknownError) Is(target error) bool {
	return target == ErrUnknown || target == parking.ErrConflict
}

// RefusedError is what every repeat of a refused effect gets. It matches ErrRefused.
type RefusedError struct {
	Scope, Key string
	// Class is the refusal's: parking.Permanent or parking.Conflict.
	Class parking.Class
	// Reason is what the provider said.
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%v: %q in scope %q: %s", ErrRefused, e.Key, e.Scope, e.Reason)
}

// Is matches ErrRefused, and the error of the class.
func (e *RefusedError) Is(target error) bool {
	switch target {
	case parking.ErrConflict:
		return e.Class == parking.Conflict
	case parking.ErrPermanent:
		return e.Class != parking.Conflict
	}
	return target == ErrRefused
}

// Refused marks what a call returns: the provider has said no for good, and
// nothing has happened. It is stored, and returned to every repeat; its class is
// parking.Conflict if err's is, else parking.Permanent. nil stays nil.
func Refused(err error) error { return outcome(err, refused) }

// NotDone marks what a call returns: surely nothing has happened, and it may be
// called again whatever the provider. parking.After says when. nil stays nil.
func NotDone(err error) error { return outcome(err, notDone) }

type outcomeKind int

const (
	ambiguous outcomeKind = iota
	refused
	notDone
)

func outcome(err error, kind outcomeKind) error {
	if err == nil {
		return nil
	}
	return &outcomeError{err, kind}
}

type outcomeError struct {
	error

	kind outcomeKind
}

func (e *outcomeError) Unwrap() error { return e.error }

// kindOf says what an error of a call leaves open: everything, if it isn't marked.
func kindOf(err error) outcomeKind {
	if o := (*outcomeError)(nil); errors.As(err, &o) {
		return o.kind
	}
	return ambiguous
}
