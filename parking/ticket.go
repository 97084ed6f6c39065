package parking

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// Ticket is one delivery in Parking's hands. It travels in the message's context,
// so that Dedupe can say by which id it knows the message and put it into its line,
// and never in metadata. It is safe for concurrent use.
type Ticket struct {
	original *message.Message
	topic    string
	held     *store.HeldRef
	row      store.ParkedRow
	bound    func(gate store.Gate) error

	mu       sync.Mutex
	line     store.Line
	inboxID  string
	print    []byte
	taken    bool
	entered  bool
	outcome  error
	finished chan struct{}
}

// NewTicket returns the ticket of a message that has arrived from a topic. original
// is a copy of it that no handler changes.
func NewTicket(line store.Line, inboxID, topic string, original *message.Message) *Ticket {
	return &Ticket{line: line, inboxID: inboxID, topic: topic, original: original, finished: make(chan struct{})}
}

// NewReentry returns the ticket of a kept message that is handled again.
func NewReentry(ref store.HeldRef, row store.ParkedRow, original *message.Message) *Ticket {
	return &Ticket{
		line:    store.Line{Consumer: ref.Consumer, Line: ref.Line, Key: row.Key},
		inboxID: ref.InboxID, topic: row.Topic, original: original, held: &ref, row: row, finished: make(chan struct{}),
	}
}

// Bound has LineUp ask f about the gate of a line that has become longer: its error
// refuses the message. It must be called before the ticket is given away.
func (t *Ticket) Bound(f func(gate store.Gate) error) { t.bound = f }

type ticketKey struct{}

// WithTicket puts a ticket into a message's context.
func WithTicket(ctx context.Context, t *Ticket) context.Context {
	return context.WithValue(ctx, ticketKey{}, t)
}

// TicketFrom returns the context's ticket, or nil.
func TicketFrom(ctx context.Context) *Ticket {
	t, _ := ctx.Value(ticketKey{}).(*Ticket)
	return t
}

// Identify says by which consumer and id Dedupe knows the message.
func (t *Ticket) Identify(consumer, inboxID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.line.Consumer, t.inboxID = consumer, inboxID
	}
}

// Fingerprint says by which hash Dedupe tells the message from another one with its id.
func (t *Ticket) Fingerprint(hash []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.print = hash
}

// Take says that a Dedupe guards the message.
func (t *Ticket) Take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = true
}

// Taken reports whether a Dedupe guards the message.
func (t *Ticket) Taken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.taken
}

// Enter says that a re-entry has reached Parking, which will Finish it.
func (t *Ticket) Enter() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entered = true
}

// Entered reports whether a re-entry has reached Parking.
func (t *Ticket) Entered() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.entered
}

// Line is the message's line.
func (t *Ticket) Line() store.Line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line
}

// InboxID is by what the inbox knows the message.
func (t *Ticket) InboxID() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.inboxID
}

// Original is the message as it came. It must not be changed.
func (t *Ticket) Original() *message.Message { return t.original }

// Reentry returns the claim under which a kept message is handled again; ok is false
// for one that has just arrived.
func (t *Ticket) Reentry() (ref store.HeldRef, ok bool) {
	if t.held == nil {
		return store.HeldRef{}, false
	}
	return *t.held, true
}

// Row is the kept message of a re-entry, else an empty one.
func (t *Ticket) Row() store.ParkedRow { return t.row }

// Kept is the row with which the store keeps the message, its status and its
// failure apart.
func (t *Ticket) Kept() store.ParkedRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: t.line.Consumer, Line: t.line.Line, Key: t.line.Key, InboxID: t.inboxID,
		MessageID: t.original.UUID, Topic: t.topic, Payload: t.original.Payload, Metadata: t.original.Metadata,
		Fingerprint: t.print,
	}
}

// LineUp puts the message, as it came, at the end of its line, which Store.Admit has
// found held.
func (t *Ticket) LineUp(ctx context.Context, st *store.Store, tx store.Tx) (store.Gate, error) {
	if t.held != nil {
		return store.Gate{}, errors.New("parking: a message that is in its line already doesn't line up")
	}
	_, gate, err := st.LineUp(ctx, tx, t.Kept())
	if err == nil && t.bound != nil {
		err = t.bound(gate)
	}
	return gate, err
}

// Finish says what has become of a re-entry: nil when it was handled, ErrPutBack when it
// has failed and stays in its line, which is written and has given the claim back.
// Any other error says nothing of the message, and leaves the claim. Only the first
// word counts.
func (t *Ticket) Finish(outcome error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.finished:
	default:
		t.outcome = outcome
		close(t.finished)
	}
}

// Finished is closed by Finish.
func (t *Ticket) Finished() <-chan struct{} { return t.finished }

// Outcome is what Finish was called with.
func (t *Ticket) Outcome() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.outcome
}

// Decision is what a person has said of a message in review.
type Decision string

// The decisions. NoDecision is that of a message that wasn't in review.
const (
	NoDecision Decision = ""
	// Accepted: do as the message says.
	Accepted Decision = "accept"
	// CallAgain and CallDone are of an effect of which nobody knows whether it has
	// happened: make the call again, or take it as made.
	CallAgain Decision = "again"
	CallDone  Decision = "done"
)

// DecisionFromContext returns what a person has decided of the message that is
// handled with the context, who it was, and what was shown to them.
func DecisionFromContext(ctx context.Context) (d Decision, by string, reviewed json.RawMessage) {
	t := TicketFrom(ctx)
	if t == nil {
		return NoDecision, "", nil
	}
	return Decision(t.row.Decision), t.row.DecidedBy, t.row.Diff
}
