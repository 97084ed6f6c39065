// Package msgmeta names every metadata entry that Headrace reads or writes on
// a message, with typed access to each. Nothing else in Headrace spells out a
// metadata name.
//
// All names match [A-Za-z0-9_.-] so that every broker can carry them as they
// are, SQS message attributes included.
package msgmeta

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Prefix starts the name of every metadata entry that belongs to Headrace.
const Prefix = "headrace_"

// Names of the entries. The first group describes what the message says and is
// set by its producer; the second describes one delivery of it and is set by
// Headrace alone.
const (
	// Key names the entity whose order matters. Brokers that order by key
	// (Kafka partitions, SQS FIFO groups) are given this value.
	Key = Prefix + "key"
	// Version is the version that the producer stamped on the entity's state.
	Version = Prefix + "version"
	// EventTime is when the thing happened, RFC 3339 with nanoseconds, UTC.
	EventTime = Prefix + "event_time"
	// Expires is when the message is of no use any more, in the same form.
	Expires = Prefix + "expires"

	// SlotSubject and SlotTime say which subject and which time slot a message is
	// for, the time as EventTime's.
	SlotSubject = Prefix + "slot_subject"
	SlotTime    = Prefix + "slot_time"

	// Producer names the outbox and the topic within which a key's messages are
	// numbered.
	Producer = Prefix + "producer"
	// Sequence is the gapless number per key given by the outbox.
	Sequence = Prefix + "sequence"
	// Epoch tells numbers of an outbox from those that it gave before its database was
	// restored. It grows.
	Epoch = Prefix + "epoch"
	// Skip marks a message that only says that its number is none any more: what had it
	// was discarded before it was sent.
	Skip = Prefix + "skip"
	// Attempt counts the deliveries of a message, starting with 1.
	Attempt = Prefix + "attempt"
	// Malformed says why a broker's message could not be parsed. The payload of
	// such a message holds the raw bytes that were received.
	Malformed = Prefix + "malformed"
	// SendID names one decision to send: all tries of one sending carry the same,
	// a later sending of the same message on purpose another. The relay sets it;
	// a broker that drops repeats (SQS FIFO) goes by it. It doesn't travel.
	SendID = Prefix + "send_id"
	// Tombstone marks a message that stands for Kafka's null value, which makes a
	// compacted topic forget the key. Its payload is empty.
	Tombstone = Prefix + "tombstone"
)

// deliveryEntries describe one delivery, so a handler that copies the metadata
// of its input must not send them on.
//
//nolint:gochecknoglobals // a table of constants
var deliveryEntries = [...]string{Producer, Sequence, Epoch, Skip, Attempt, Malformed, SendID}

// ErrMalformed is matched by the errors of the typed getters when an entry is
// there but can't be read.
var ErrMalformed = errors.New("malformed metadata entry")

// GetKey returns the message's key, or "" when it has none.
func GetKey(msg *message.Message) string { return msg.Metadata.Get(Key) }

// SetKey sets the message's key. An empty key removes the entry, because
// brokers treat an empty key as a key that all such messages share.
func SetKey(msg *message.Message, key string) {
	if key == "" {
		delete(msg.Metadata, Key)
		return
	}
	set(msg, Key, key)
}

// GetVersion returns the producer's version as it was stamped, and whether
// there is one.
func GetVersion(msg *message.Message) (string, bool) {
	v, ok := msg.Metadata[Version]
	return v, ok
}

// SetVersion stamps the version of the entity's state.
func SetVersion(msg *message.Message, version string) { set(msg, Version, version) }

// GetEventTime returns when the event happened. ok is false when the message
// does not say; err matches ErrMalformed when it says it in another form.
func GetEventTime(msg *message.Message) (t time.Time, ok bool, err error) {
	return getTime(msg, EventTime)
}

// SetEventTime sets when the event happened.
func SetEventTime(msg *message.Message, t time.Time) {
	set(msg, EventTime, t.UTC().Format(time.RFC3339Nano))
}

// GetExpires returns when the message's time to live ends. ok is false when it has
// none; err matches ErrMalformed when the entry is not RFC 3339.
func GetExpires(msg *message.Message) (t time.Time, ok bool, err error) {
	return getTime(msg, Expires)
}

// SetExpires sets when the message's time to live ends: from then on
// middleware.Dedupe doesn't handle it any more. A zero time removes the entry.
func SetExpires(msg *message.Message, t time.Time) {
	if t.IsZero() {
		delete(msg.Metadata, Expires)
		return
	}
	set(msg, Expires, t.UTC().Format(time.RFC3339Nano))
}

// GetSlot returns the subject and the time of the slot that a message is for. ok is
// false when it is for none; err matches ErrMalformed when its time is in another
// form.
func GetSlot(msg *message.Message) (subject string, at time.Time, ok bool, err error) {
	at, ok, err = getTime(msg, SlotTime)
	return msg.Metadata.Get(SlotSubject), at, ok, err
}

// SetSlot says which slot a message is for.
func SetSlot(msg *message.Message, subject string, at time.Time) {
	set(msg, SlotSubject, subject)
	set(msg, SlotTime, at.UTC().Format(time.RFC3339Nano))
}

// Number is a message's place in its key's order, as an outbox gave it.
type Number struct {
	// Producer is the outbox and the topic, Key the message's key: the numbers of each
	// pair are gapless, from 1.
	Producer, Key string
	// Epoch grows when the numbers may begin anew, 0 for a producer that knows of none.
	Epoch    int64
	Sequence int64
}

// GetNumber returns the message's place in its key's order. ok is false when it has none;
// err matches ErrMalformed when it has no producer, or its numbers are not positive
// integers.
func GetNumber(msg *message.Message) (n Number, ok bool, err error) {
	n = Number{Producer: msg.Metadata.Get(Producer), Key: GetKey(msg)}
	if n.Sequence, ok, err = getPositive(msg, Sequence); err != nil || !ok {
		return Number{}, ok, err
	}
	if n.Epoch, _, err = getPositive(msg, Epoch); err != nil {
		return Number{}, true, err
	}
	if n.Producer == "" {
		return Number{}, true, fmt.Errorf("%w: %s without %s", ErrMalformed, Sequence, Producer)
	}
	return n, true, nil
}

// SetNumber sets the message's place in its key's order, and its key.
func SetNumber(msg *message.Message, n Number) {
	SetKey(msg, n.Key)
	set(msg, Producer, n.Producer)
	set(msg, Sequence, strconv.FormatInt(n.Sequence, 10))
	if n.Epoch > 0 {
		set(msg, Epoch, strconv.FormatInt(n.Epoch, 10))
	}
}

// IsSkip reports whether the message only says that its number is none any more.
func IsSkip(msg *message.Message) bool { return msg.Metadata.Get(Skip) != "" }

// SetSkip marks the message as one that only says so.
func SetSkip(msg *message.Message) { set(msg, Skip, "true") }

// GetAttempt returns how often the message has been delivered, this delivery
// included. ok is false when the broker does not count; err matches
// ErrMalformed when the entry is not a positive integer.
func GetAttempt(msg *message.Message) (n int64, ok bool, err error) {
	return getPositive(msg, Attempt)
}

// SetAttempt sets how often the message has been delivered.
func SetAttempt(msg *message.Message, n int64) { set(msg, Attempt, strconv.FormatInt(n, 10)) }

// GetMalformed returns why the broker's message could not be parsed, or "" when
// it could.
func GetMalformed(msg *message.Message) string { return msg.Metadata.Get(Malformed) }

// SetMalformed marks a message that could not be parsed.
func SetMalformed(msg *message.Message, reason string) { set(msg, Malformed, reason) }

// GetSendID returns the name of the decision to send the message, or "".
func GetSendID(msg *message.Message) string { return msg.Metadata.Get(SendID) }

// SetSendID names the decision to send the message.
func SetSendID(msg *message.Message, id string) { set(msg, SendID, id) }

// IsTombstone reports whether the message is marked as a tombstone.
func IsTombstone(msg *message.Message) bool { return msg.Metadata.Get(Tombstone) != "" }

// SetTombstone marks the message as a tombstone.
func SetTombstone(msg *message.Message) { set(msg, Tombstone, "true") }

// StripDelivery removes the entries that describe one delivery of a message, so
// that a handler which copies its input's metadata doesn't send them on as its
// own. Key, version and event time speak of the message's content and stay.
func StripDelivery(msg *message.Message) {
	for _, name := range deliveryEntries {
		delete(msg.Metadata, name)
	}
}

// Owned reports whether a metadata name belongs to Headrace.
func Owned(name string) bool { return strings.HasPrefix(name, Prefix) }

func set(msg *message.Message, name, value string) {
	if msg.Metadata == nil {
		msg.Metadata = message.Metadata{}
	}
	msg.Metadata[name] = value
}

func getTime(msg *message.Message, name string) (t time.Time, ok bool, err error) {
	v, ok := msg.Metadata[name]
	if !ok {
		return time.Time{}, false, nil
	}
	t, err = time.Parse(time.RFC3339Nano, v)
	if err != nil {
		return time.Time{}, true, fmt.Errorf("%w: %s is not RFC 3339: %q", ErrMalformed, name, v)
	}
	return t, true, nil
}

func getPositive(msg *message.Message, name string) (n int64, ok bool, err error) {
	v, ok := msg.Metadata[name]
	if !ok {
		return 0, false, nil
	}
	n, err = strconv.ParseInt(v, 10, 64)
	if err != nil || n < 1 {
		return 0, true, fmt.Errorf("%w: %s is not a positive integer: %q", ErrMalformed, name, v)
	}
	return n, true, nil
}
