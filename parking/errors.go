package parking

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/headrace-go/headrace/store"
)

// Errors that are matched with errors.Is.
var (
	// ErrPutBack is a re-entry's outcome: the message has failed again, and is back in
	// its line.
	ErrPutBack = errors.New("the message is parked again")
	// ErrLineFull says that a line has as many messages as it may, and takes no more.
	ErrLineFull = errors.New("line is full")
)

// PanicError is what a handler has panicked with.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the value where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Change is one field of a conflict, as JSON.
type Change struct {
	Field string `json:"field"`
	// Was is what the decision was based on, Is what it is by now, and Wanted what the
	// message would make of it.
	Was    json.RawMessage `json:"was,omitempty"`
	Is     json.RawMessage `json:"is,omitempty"`
	Wanted json.RawMessage `json:"wanted,omitempty"`
}

// ConflictError says that what a message is about has been changed by somebody
// else in a way that only a person can judge. It matches ErrConflict.
type ConflictError struct {
	// Subject is what it is about.
	Subject string
	// Seen and Current are the states that differ, to be shown as JSON.
	Seen, Current any
	Diff          []Change
	// Err is the cause. Optional.
	Err error
}

func (e *ConflictError) Error() string {
	text := fmt.Sprintf("%v: %s", ErrConflict, e.Subject)
	if len(e.Diff) > 0 {
		text += " has another " + e.Diff[0].Field
		if n := len(e.Diff) - 1; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Is matches ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Unwrap returns the cause.
func (e *ConflictError) Unwrap() error { return e.Err }

// maxLinks bounds how much of an error's tree is looked at.
const maxLinks = 32

// Chain spells an error out, from the outside to its causes, each with its type;
// marks are left out. It stops after 32.
func Chain(err error) []store.ErrorLink {
	var chain []store.ErrorLink
	var walk func(err error)
	walk = func(err error) {
		if err == nil || len(chain) == maxLinks {
			return
		}
		if m, ok := err.(*marked); ok { //nolint:errorlint // this very link
			walk(m.err)
			return
		}
		link := store.ErrorLink{Type: fmt.Sprintf("%T", err), Text: err.Error()}
		if p, ok := err.(*PanicError); ok { //nolint:errorlint // this very link
			link.Stack = string(p.Stack)
		}
		chain = append(chain, link)
		switch e := err.(type) { //nolint:errorlint // this very link
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, cause := range e.Unwrap() {
				walk(cause)
			}
		}
	}
	walk(err)
	return chain
}

// What differs between two failures of one kind.
var variable = regexp.MustCompile(`"[^"]*"|'[^']*'|` + "`[^`]*`" +
	`|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|0x[0-9a-fA-F]+|\b[0-9a-fA-F]*[0-9][0-9a-fA-F]*\b|[0-9]+`)

const maxTitle = 255

// Group tells failures of one kind from others: the type of the root cause, a hash,
// and a title, which is the root's text with numbers, ids and what is quoted
// replaced by "#".
func Group(consumer string, class Class, err error) (errorType, hash, title string) {
	if err == nil {
		return "", "", ""
	}
	root := err
	for range maxLinks {
		cause := errors.Unwrap(root)
		joined, ok := root.(interface{ Unwrap() []error })
		if ok && len(joined.Unwrap()) > 0 {
			cause = joined.Unwrap()[len(joined.Unwrap())-1] // of fmt's several %w the last is the cause
		}
		if cause == nil {
			break
		}
		root = cause
	}
	errorType = fmt.Sprintf("%T", root)
	text := root.Error()
	const enough = 2000
	title = variable.ReplaceAllString(text[:min(len(text), enough)], "#")
	title = strings.ToValidUTF8(title[:min(len(title), maxTitle)], "")
	sum := sha256.Sum256([]byte(consumer + "\x00" + string(class) + "\x00" + errorType + "\x00" + title))
	return errorType, hex.EncodeToString(sum[:]), title
}
