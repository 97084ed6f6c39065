// Package keys says what a message is about: its key (whose order matters) and
// its entity (whose state it changes). Every part of Headrace that needs either
// takes one of these functions, so that a stream's key is written down once.
package keys

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/tidwall/gjson"

	"github.com/headrace-go/headrace/msgmeta"
)

// ErrNoKey is matched by the error of a Func whose message carries no key.
var ErrNoKey = errors.New("message has no key")

// Func returns the key of a message. It never returns an empty key without an
// error. Funcs are called concurrently.
type Func func(msg *message.Message) (string, error)

// Entity is what a message is about.
type Entity struct {
	Type string
	ID   string
}

// String returns type and id as "type/id".
func (e Entity) String() string { return e.Type + "/" + e.ID }

// EntityFunc returns the entity that a message is about.
type EntityFunc func(msg *message.Message) (Entity, error)

// Default reads the key that Headrace's publishers set: the metadata entry
// msgmeta.Key.
func Default() Func { return FromMetadata(msgmeta.Key) }

// FromMetadata reads the key from a metadata entry.
func FromMetadata(name string) Func {
	return func(msg *message.Message) (string, error) {
		if v := msg.Metadata.Get(name); v != "" {
			return v, nil
		}
		return "", fmt.Errorf("%w: metadata entry %q is missing or empty", ErrNoKey, name)
	}
}

// FromJSON reads the key from the payload, at a path such as "order.id" or
// "lines.0.sku" (gjson syntax). Strings, numbers and booleans are keys; numbers
// are taken as they are written, so that 64-bit ids keep all their digits.
func FromJSON(path string) Func {
	return func(msg *message.Message) (string, error) {
		if !gjson.ValidBytes(msg.Payload) {
			return "", fmt.Errorf("%w: payload is not JSON, so %q can't be read", ErrNoKey, path)
		}
		v := gjson.GetBytes(msg.Payload, path)
		switch v.Type {
		case gjson.String:
			if v.Str != "" {
				return v.Str, nil
			}
		case gjson.Number, gjson.True, gjson.False:
			return v.Raw, nil
		case gjson.Null, gjson.JSON:
		}
		return "", fmt.Errorf("%w: payload has no string, number or boolean at %q", ErrNoKey, path)
	}
}

// CloudEventsSubject reads the subject of a CloudEvent, from the binary mode's
// header (ce_subject, ce-subject) or the structured mode's "subject" field.
func CloudEventsSubject() Func {
	structured := FromJSON("subject")
	return func(msg *message.Message) (string, error) {
		for _, name := range [...]string{"ce_subject", "ce-subject"} {
			if v := msg.Metadata.Get(name); v != "" {
				return v, nil
			}
		}
		key, err := structured(msg)
		if err != nil {
			return "", fmt.Errorf("%w: neither a ce_subject header nor a structured subject", ErrNoKey)
		}
		return key, nil
	}
}

// Composite joins the keys of several functions with "|". A "|" or "\" inside a
// part is escaped with "\", so that ("a|b", "c") and ("a", "b|c") stay apart.
func Composite(parts ...Func) Func {
	escape := strings.NewReplacer(`\`, `\\`, `|`, `\|`)
	return func(msg *message.Message) (string, error) {
		if len(parts) == 0 {
			return "", fmt.Errorf("%w: composite of no parts", ErrNoKey)
		}
		values := make([]string, len(parts))
		for i, part := range parts {
			v, err := part(msg)
			if err != nil {
				return "", err
			}
			values[i] = escape.Replace(v)
		}
		return strings.Join(values, "|"), nil
	}
}

// OfType makes an EntityFunc of a key function, for streams of one entity type.
func OfType(entityType string, id Func) EntityFunc {
	return func(msg *message.Message) (Entity, error) {
		v, err := id(msg)
		if err != nil {
			return Entity{}, err
		}
		return Entity{Type: entityType, ID: v}, nil
	}
}
