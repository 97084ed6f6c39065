package parking

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

const (
	actionImport    = "import"
	poisonedHandler = wmiddleware.PoisonedHandlerKey
)

// poisonEntries are what Watermill's PoisonQueue adds to a message's metadata.
//
//nolint:gochecknoglobals // a table of constants
var poisonEntries = [...]string{
	wmiddleware.ReasonForPoisonedKey, wmiddleware.PoisonedTopicKey, wmiddleware.PoisonedHandlerKey,
	wmiddleware.PoisonedSubscriberKey,
}

// PoisonedError is what is known of the failure of a message that was imported: what
// Watermill's PoisonQueue has written into it, or where it lay.
type PoisonedError struct {
	// Reason is the handler's error as text, "" where nobody has written it down.
	Reason string
	// Handler, Subscriber and Topic are where it failed; "" where nobody says.
	Handler, Subscriber, Topic string
	// Queue is where it lay.
	Queue string
}

func (e *PoisonedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("it lay in the dead-letter queue %q, which knows no reason", e.Queue)
	}
	return e.Reason
}

// where tells of the circumstances, which the message's metadata had.
func (e *PoisonedError) where() string {
	return fmt.Sprintf("put aside by handler %q, which had it from topic %q by %q; it lay in %q",
		e.Handler, e.Topic, e.Subscriber, e.Queue)
}

// row is the message as it is kept: as it was before the PoisonQueue wrote into it.
func (im *importing) row(consumer string, msg *message.Message) store.ParkedRow {
	failure := &PoisonedError{
		Reason:  msg.Metadata.Get(wmiddleware.ReasonForPoisonedKey),
		Handler: msg.Metadata.Get(poisonedHandler), Subscriber: msg.Metadata.Get(wmiddleware.PoisonedSubscriberKey),
		Topic: msg.Metadata.Get(wmiddleware.PoisonedTopicKey), Queue: im.cfg.Topic,
	}
	original := &message.Message{UUID: msg.UUID, Payload: msg.Payload, Metadata: maps.Clone(msg.Metadata)}
	for _, name := range poisonEntries {
		delete(original.Metadata, name)
	}
	class, err := Unknown, error(failure)
	id, idErr := im.cfg.Identity(original)
	if idErr != nil || id == "" {
		id = newID()
	}
	line, key := store.MessageLine(consumer, id), ""
	switch named, keyErr := im.cfg.Key(original); {
	case keyErr == nil && named != "":
		key = named
		if im.cfg.HoldKeys {
			line = store.KeyLine(consumer, key)
		}
	case keyErr != nil && !errors.Is(keyErr, keys.ErrNoKey):
		class, err = Permanent, fmt.Errorf("the message's key: %w", keyErr)
	}
	if why := msgmeta.GetMalformed(original); why != "" {
		class, err = Permanent, fmt.Errorf("message could not be parsed on receipt: %s", why)
	}
	row := store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: consumer, Line: line.Line, Key: key, InboxID: id,
		Fingerprint: fingerprintOf(original), MessageID: original.UUID, Topic: im.cfg.Topic, Payload: original.Payload,
		Metadata: original.Metadata, Status: store.StatusParked, Class: string(class), Reason: err.Error(), Chain: Chain(err),
	}
	if failure.Topic != "" {
		row.Topic = failure.Topic
	}
	if failure.Reason != "" || failure.Handler != "" {
		row.Chain = append(row.Chain, store.ErrorLink{Type: "PoisonQueue", Text: failure.where()})
	}
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = Group(consumer, class, err)
	return row
}

// contentOf tells messages apart that come again, whatever their ids. How often they
// were delivered is no part of them.
func contentOf(msg *message.Message) string {
	metadata := maps.Clone(msg.Metadata)
	delete(metadata, msgmeta.Attempt)
	text, err := json.Marshal(metadata)
	if err != nil { // maps of strings have none
		return msg.UUID
	}
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(msg.UUID), text, msg.Payload} {
		sum.Write(strconv.AppendInt(nil, int64(len(part)), 10)) // so that no part runs into the next
		sum.Write([]byte{':'})
		sum.Write(part)
	}
	return string(sum.Sum(nil))
}
