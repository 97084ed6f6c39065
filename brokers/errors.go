package brokers

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/headrace-go/headrace/internal/reach"
)

// Errors of Open and of a Broker's methods, to be matched with errors.Is.
var (
	// ErrBadURL: the URL can't be parsed. The error never repeats the URL.
	ErrBadURL = errors.New("the broker's URL can't be used")
	// ErrUnknownScheme: no Opener is configured for the URL's scheme.
	ErrUnknownScheme = errors.New("unknown scheme")
	// ErrBadOption: an option in the URL is unknown or has a bad value.
	ErrBadOption = errors.New("bad option")
	// ErrUnreachable is matched by every UnreachableError.
	ErrUnreachable = errors.New("broker can't be reached")
	// ErrNoGroup: subscribing needs a consumer group.
	ErrNoGroup = errors.New("no consumer group; set Config.Group or ?group= to the service's name")
	// ErrOneGroup: the broker has no groups and another group already reads the
	// queue.
	ErrOneGroup = errors.New("the broker has no consumer groups, and another group reads this queue already")
	// ErrClosed: the broker, publisher or subscriber was closed.
	ErrClosed = errors.New("closed")
	// ErrTopic: the broker can't have a topic of this name.
	ErrTopic = errors.New("the broker can't have a topic of this name")
)

// Reasons for which a publisher refuses a message; a RefusedError wraps one.
var (
	// ErrNoUUID: the message has no UUID, by which consumers know its copies.
	ErrNoUUID = errors.New("message has no UUID; make it with message.NewMessage(watermill.NewUUID(), payload)")
	// ErrBadUUID: the message's UUID holds what the broker can't carry.
	ErrBadUUID = errors.New("the broker can't carry this UUID")
	// ErrTooLarge: the message is larger than the broker takes.
	ErrTooLarge = errors.New("message is too large for the broker")
	// ErrMetadata: the message has metadata that the broker can't carry.
	ErrMetadata = errors.New("the broker can't carry this metadata")
	// ErrNilMessage: a nil pointer in place of a message.
	ErrNilMessage = errors.New("message is nil")
)

// RefusedError says that a message can't be sent on a broker, however often it
// is tried. Nothing of the Publish call was sent.
type RefusedError struct {
	Broker string // name of the broker, without secrets
	Topic  string
	UUID   string // "" when the message has none
	Index  int    // position of the message in the call, from 0
	Err    error  // matches one of the reasons above
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("brokers: %s: message %d of the call (UUID %s) to topic %s refused, nothing was sent: %v",
		e.Broker, e.Index+1, printable(e.UUID), printable(e.Topic), e.Err)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Permanent reports that trying again can't help. Relays that don't know this
// package ask for the method.
func (*RefusedError) Permanent() bool { return true }

// UnreachableError says which broker did not answer, and how long Open tried.
type UnreachableError struct {
	Broker   string        // name of the broker, without secrets
	Tried    time.Duration // from the first attempt to the last
	Attempts int
	Err      error // of the last attempt
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%v: %s: %s; check the address and that it runs, or raise connect_timeout",
		ErrUnreachable, e.Broker, reach.Text(e.Tried, e.Attempts, e.Err))
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Is matches ErrUnreachable.
func (*UnreachableError) Is(target error) bool { return target == ErrUnreachable }

// maxPrinted is the most characters of a foreign name that an error repeats.
const maxPrinted = 120

// printable quotes a name for an error message and cuts it when it is long.
func printable(name string) string {
	if len(name) > maxPrinted {
		return fmt.Sprintf("%q… (%d bytes)", strings.ToValidUTF8(name[:maxPrinted], ""), len(name))
	}

	return fmt.Sprintf("%q", name)
}
