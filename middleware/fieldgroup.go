package middleware

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/tidwall/gjson"
)

// ErrGroup says that what a message carries of an entity can't be told, or isn't allowed.
// The message is nacked, and is permanent for Parking.
var ErrGroup = errors.New("message's groups of fields can't be read")

// NullMeaning is what a field means whose value is null. A field that isn't there is never
// carried.
type NullMeaning int

// The meanings.
const (
	// NullClears: the field has no value any more. It is carried.
	NullClears NullMeaning = iota
	// NullIsAbsent: the message says nothing about the field.
	NullIsAbsent
	// NullIsRefused: it can't be so, and the message is refused with ErrGroup.
	NullIsRefused
)

// FieldGroup are fields of an entity that change together: each group has a version of its
// own, so that a message which carries one doesn't make what another carries old.
type FieldGroup struct {
	// Name is stored; it must stay the same. Required.
	Name string
	// Fields are paths in the payload, as gjson has them. A message carries the group when
	// it carries one of them. Required.
	Fields []string
	// Null says what null means. Default NullClears.
	Null NullMeaning
}

// GroupsFunc tells which groups of fields a message carries. It is called concurrently.
type GroupsFunc func(msg *message.Message) ([]string, error)

// GroupsFromJSON tells by the fields that the payload has. Errors match ErrGroup.
func GroupsFromJSON(groups ...FieldGroup) GroupsFunc {
	return func(msg *message.Message) (carried []string, err error) {
		if !gjson.ValidBytes(msg.Payload) {
			return nil, fmt.Errorf("%w: the payload is not JSON", ErrGroup)
		}
		for _, group := range groups {
			carries, err := group.carried(msg.Payload)
			if err != nil {
				return nil, err
			}
			if carries {
				carried = append(carried, group.Name)
			}
		}
		return carried, nil
	}
}

func (g FieldGroup) carried(payload []byte) (carried bool, err error) {
	for _, field := range g.Fields {
		value := gjson.GetBytes(payload, field)
		switch {
		case !value.Exists():
		case value.Type != gjson.Null || g.Null == NullClears:
			carried = true
		case g.Null == NullIsRefused:
			return false, fmt.Errorf("%w: %q of group %q is null", ErrGroup, field, g.Name)
		}
	}
	return carried, nil
}
