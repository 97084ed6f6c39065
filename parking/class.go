package parking

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/store"
)

// Class is the kind of a failure. The empty one says nothing.
type Class string

// The classes.
const (
	// Transient failures may pass by themselves: try again later.
	Transient Class = "transient"
	// Permanent ones don't: the message or the program has to change.
	Permanent Class = "permanent"
	// Conflict says that somebody else has changed what the message is about.
	Conflict Class = "conflict"
	// Unknown is what nobody has classified.
	Unknown Class = "unknown"
)

// Errors that marked errors match with errors.Is, one for each class.
var (
	ErrTransient = errors.New("transient failure")
	ErrPermanent = errors.New("permanent failure")
	ErrConflict  = errors.New("conflict")
)

// AsTransient marks an error: trying again may help. Of several marks the
// outermost wins. nil stays nil.
func AsTransient(err error) error { return mark(err, Transient, 0) }

// AsPermanent marks an error: trying again can't help.
func AsPermanent(err error) error { return mark(err, Permanent, 0) }

// AsConflict marks an error: what it is about has been changed by somebody else.
func AsConflict(err error) error { return mark(err, Conflict, 0) }

// After marks an error as transient, and trying again before d has passed as
// useless: what a Retry-After header says. A negative d counts as none.
func After(err error, d time.Duration) error { return mark(err, Transient, max(d, 0)) }

// RetryAfter returns how long an error that was marked by After asks to wait.
// The outermost such mark counts.
func RetryAfter(err error) (time.Duration, bool) {
	for m := (*marked)(nil); errors.As(err, &m); err = m.err {
		if m.after > 0 {
			return m.after, true
		}
	}
	return 0, false
}

func mark(err error, class Class, after time.Duration) error {
	if err == nil {
		return nil
	}
	return &marked{err: err, class: class, after: after}
}

// marked is an error with its class.
type marked struct {
	err   error
	class Class
	after time.Duration
}

func (m *marked) Error() string { return m.err.Error() }

func (m *marked) Unwrap() error { return m.err }

// Is matches the class's error.
func (m *marked) Is(target error) bool {
	switch target {
	case ErrTransient:
		return m.class == Transient
	case ErrPermanent:
		return m.class == Permanent
	case ErrConflict:
		return m.class == Conflict
	}
	return false
}

// Classifier is a user's knowledge of errors. It returns "" for what it doesn't
// know.
type Classifier func(err error) Class

// Classify returns an error's class: by its mark, else by the first of more that
// knows it, else by what errors commonly say of themselves (Permanent() bool,
// Timeout() bool, Temporary() bool, a deadline, JSON that can't be read, a message
// without a key, a database's contention), and else Unknown. Of nil it is "".
func Classify(err error, more ...Classifier) Class {
	if err == nil {
		return ""
	}
	if m := (*marked)(nil); errors.As(err, &m) {
		return m.class
	}
	for _, classify := range more {
		if class := classify(err); class != "" {
			return class
		}
	}
	switch {
	case errors.Is(err, ErrPermanent), saysPermanent(err):
		return Permanent
	case errors.Is(err, ErrConflict):
		return Conflict
	case errors.Is(err, ErrTransient), saysTransient(err):
		return Transient
	}
	return Unknown
}

func saysPermanent(err error) bool {
	if p := (interface{ Permanent() bool })(nil); errors.As(err, &p) && p.Permanent() {
		return true
	}
	var (
		syntax    *json.SyntaxError
		wrongType *json.UnmarshalTypeError
	)
	return errors.As(err, &syntax) || errors.As(err, &wrongType) ||
		errors.Is(err, keys.ErrNoKey) || errors.Is(err, store.ErrContent)
}

func saysTransient(err error) bool {
	if t := (interface{ Timeout() bool })(nil); errors.As(err, &t) && t.Timeout() {
		return true
	}
	if t := (interface{ Temporary() bool })(nil); errors.As(err, &t) && t.Temporary() {
		return true
	}
	for _, known := range []error{
		context.DeadlineExceeded, store.ErrContention, store.ErrLockTimeout, store.ErrConnTimeout, store.ErrCommitUnknown,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// ClassOfStatus returns the class of an HTTP status: transient for 408, 425, 429
// and 5xx but 501 and 505, conflict for 409 and 412, permanent for the rest of 4xx
// and for 501 and 505, "" for all others.
func ClassOfStatus(code int) Class {
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests:
		return Transient
	case code == http.StatusConflict, code == http.StatusPreconditionFailed:
		return Conflict
	case code == http.StatusNotImplemented, code == http.StatusHTTPVersionNotSupported:
		return Permanent
	case code >= 400 && code < 500:
		return Permanent
	case code >= 500 && code < 600:
		return Transient
	}
	return ""
}
