package parking

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Shown is what people see of a conflict that is in review: store.ParkedRow.Diff, as
// JSON.
type Shown struct {
	Seen    json.RawMessage `json:"seen,omitempty"`
	Current json.RawMessage `json:"current,omitempty"`
	Diff    []Change        `json:"diff,omitempty"`
}

// Shown returns what people see of the conflict in review. What JSON can't carry is
// left out.
func (e *ConflictError) Shown() Shown {
	shown := Shown{Seen: stateJSON(e.Seen), Current: stateJSON(e.Current)}
	for _, change := range e.Diff {
		change.Was, change.Is, change.Wanted = validJSON(change.Was), validJSON(change.Is), validJSON(change.Wanted)
		shown.Diff = append(shown.Diff, change)
	}
	return shown
}

func stateJSON(state any) json.RawMessage {
	if state == nil {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return nil
	}
	return text
}

func validJSON(text json.RawMessage) json.RawMessage {
	if !json.Valid(text) {
		return nil
	}
	return text
}

// maxShown bounds what is kept to be shown, in bytes: a failure that can't be written for
// its size would come again and again.
const maxShown = 1 << 20

// encode is how a row has it; nil where there is nothing to show. Of what is too much
// the state that was seen is left out first, then what the fields were and are, and
// last the current state: what is accepted without it is reviewed again.
func (s Shown) encode() []byte {
	if s.Seen == nil && s.Current == nil && s.Diff == nil {
		return nil
	}
	for _, less := range []func(*Shown){
		func(*Shown) {},
		func(s *Shown) { s.Seen = nil },
		func(s *Shown) { s.Diff = fieldsOf(s.Diff) },
		func(s *Shown) { s.Current = nil },
	} {
		less(&s)
		text, err := json.Marshal(s)
		if err == nil && len(text) <= maxShown { // all parts are valid by now
			return text
		}
	}
	return nil
}

// fieldsOf names the first fields that differ.
func fieldsOf(changes []Change) (names []Change) {
	const most, longest = 100, 1000
	for _, change := range changes[:min(len(changes), most)] {
		names = append(names, Change{Field: change.Field[:min(len(change.Field), longest)]})
	}
	return names
}

// ReviewOf returns what is kept of a failure that goes into review: what it is about,
// and what differs, as JSON.
func ReviewOf(failure error) (subject string, diff []byte) {
	var c *ConflictError
	if !errors.As(failure, &c) {
		return "", nil
	}
	return c.Subject, c.Shown().encode()
}

// ShownOf reads what people see of a review from its row.
func ShownOf(row store.ParkedRow) (Shown, error) {
	var shown Shown
	if row.Diff == nil {
		return shown, nil
	}
	if err := json.Unmarshal(row.Diff, &shown); err != nil {
		return Shown{}, fmt.Errorf("parking: what differs in message %d can't be read: %w", row.ID, err)
	}
	return shown, nil
}

// Review is something that nobody has delivered, for a person to judge.
type Review struct {
	// Consumer ("service.handler") handles Message, as if it had come, when the review is
	// accepted; until then what comes of its key waits behind it. Required, both.
	// Dedupe will know the message by its UUID.
	Consumer string
	Message  *message.Message
	// Key is the message's. Default: its metadata entry msgmeta.Key. Without one nothing
	// waits behind it.
	Key string
	// Subject is what it is about, and Reason, one sentence, why it needs a person.
	// Required, both.
	Subject, Reason string
	// Seen, Current and Diff are what people are shown, as in ConflictError. Optional.
	Seen, Current any
	Diff          []Change
}

// ErrKnown says that a consumer knows a message already.
var ErrKnown = errors.New("the consumer knows the message already")

// OpenReview puts something in review, in the caller's transaction, and returns its
// number. The handler reads what was decided by DecisionFromContext; what is rejected is
// never handled. The line of the message's key is locked until the transaction ends, so
// it should be the transaction's last statement.
//
// Errors match ErrKnown when the consumer has had a message of this UUID: nothing is
// written, and the transaction can go on; and store.ErrContent when the database doesn't
// take so much.
func OpenReview(ctx context.Context, tx store.Tx, st *store.Store, r Review) (id int64, err error) {
	switch {
	case r.Consumer == "" || r.Message == nil || r.Message.UUID == "":
		return 0, errors.New("parking: a review needs a consumer, and a message with a UUID for it")
	case r.Subject == "" || r.Reason == "":
		return 0, errors.New("parking: a review needs a subject and a reason, for people")
	}
	conflict := &ConflictError{
		Subject: r.Subject, Seen: r.Seen, Current: r.Current, Diff: r.Diff, Err: errors.New(r.Reason),
	}
	if r.Key == "" {
		r.Key = msgmeta.GetKey(r.Message)
	}
	line := store.MessageLine(r.Consumer, r.Message.UUID)
	if r.Key != "" {
		line = store.KeyLine(r.Consumer, r.Key)
	}
	row := store.ParkedRow{
		Origin: store.OriginReview, Consumer: r.Consumer, Line: line.Line, Key: line.Key, InboxID: r.Message.UUID,
		MessageID: r.Message.UUID, Payload: r.Message.Payload, Metadata: r.Message.Metadata,
		Status: store.StatusReview, Class: string(Conflict), Reason: r.Reason,
		Subject: r.Subject, Diff: conflict.Shown().encode(),
	}
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = Group(r.Consumer, Conflict, conflict)
	id, existing, parked, err := st.Park(ctx, tx, row, nil)
	if err != nil {
		return 0, fmt.Errorf("parking: open a review: %w", err)
	}
	if !parked {
		return 0, fmt.Errorf("parking: open a review: %w: %q of %q is %s", ErrKnown, store.Identity(r.Message.UUID),
			r.Consumer, existing.Verdict)
	}
	return id, nil
}
