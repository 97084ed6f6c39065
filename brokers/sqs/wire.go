package sqs

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/msgmeta"
)

const (
	// packedAttribute holds what SQS would refuse or corrupt, as JSON.
	packedAttribute = msgmeta.Prefix + "packed"

	maxAttributes    = 10
	maxAttributeName = 256
	stringType       = "String"
	placeholder      = "-" // body of a message without one: SQS refuses none
)

// Encodings of a body, in packed.Body.
const (
	bodyBase64 = "base64"
	bodyEmpty  = "empty"
	bodyNil    = "nil"
)

// packed is the content of packedAttribute.
type packed struct {
	Body     string            `json:"body,omitempty"`     // how the body is encoded
	UUID     string            `json:"uuid,omitempty"`     // base64, when it can't be an attribute
	Metadata map[string]string `json:"metadata,omitempty"` // what doesn't fit into attributes
	Binary   [][2]string       `json:"binary,omitempty"`   // what isn't text: base64 of name and value
}

// encoded is a message as SQS carries it.
type encoded struct {
	body       string
	attributes map[string]string // all of type String
}

// encode makes the wire form of a message. An ordinary one (a body of text, at
// most nine metadata entries with plain names) looks exactly as watermill-aws'
// own marshaler makes it, so that its readers understand it.
func encode(msg *message.Message) encoded {
	var pack packed
	e := encoded{attributes: make(map[string]string, maxAttributes)}
	switch {
	case msg.Payload == nil:
		e.body, pack.Body = placeholder, bodyNil
	case len(msg.Payload) == 0:
		e.body, pack.Body = placeholder, bodyEmpty
	case carried(string(msg.Payload)):
		e.body = string(msg.Payload)
	default:
		e.body, pack.Body = base64.StdEncoding.EncodeToString(msg.Payload), bodyBase64
	}

	var plain []string
	for name, value := range msg.Metadata {
		switch {
		case name == msgmeta.SendID || name == msgmeta.Attempt:
			// Of one sending or delivery only.
		case attributeName(name) && value != "" && carried(value):
			plain = append(plain, name)
		default:
			pack.add(name, value)
		}
	}
	room := maxAttributes
	switch {
	case msg.UUID == "":
	case carried(msg.UUID):
		e.attributes[watermillsqs.UUIDAttribute] = msg.UUID
		room--
	default:
		pack.UUID = base64.StdEncoding.EncodeToString([]byte(msg.UUID))
	}
	if !pack.empty() || len(plain) > room {
		room--
		// Headrace's own entries give way: only Headrace reads them.
		slices.SortFunc(plain, func(a, b string) int {
			if x, y := msgmeta.Owned(a), msgmeta.Owned(b); x != y {
				if x {
					return 1
				}
				return -1
			}
			return strings.Compare(a, b)
		})
	}
	for i, name := range plain {
		if i < room {
			e.attributes[name] = msg.Metadata[name]
		} else {
			pack.add(name, msg.Metadata[name])
		}
	}
	if !pack.empty() {
		e.attributes[packedAttribute] = pack.text()
	}

	return e
}

// size is what SQS counts against its limit.
func (e encoded) size() int {
	size := len(e.body)
	for name, value := range e.attributes {
		size += len(name) + len(stringType) + len(value)
	}

	return size
}

func (e encoded) message() *types.Message {
	attributes := make(map[string]types.MessageAttributeValue, len(e.attributes))
	for name, value := range e.attributes {
		attributes[name] = types.MessageAttributeValue{DataType: aws.String(stringType), StringValue: aws.String(value)}
	}

	return &types.Message{Body: aws.String(e.body), MessageAttributes: attributes}
}

func (p *packed) empty() bool {
	return p.Body == "" && p.UUID == "" && len(p.Metadata) == 0 && len(p.Binary) == 0
}

func (p *packed) add(name, value string) {
	if jsonCarries(name) && jsonCarries(value) {
		if p.Metadata == nil {
			p.Metadata = map[string]string{}
		}
		p.Metadata[name] = value

		return
	}
	b64 := base64.StdEncoding.EncodeToString
	p.Binary = append(p.Binary, [2]string{b64([]byte(name)), b64([]byte(value))})
}

func (p *packed) text() string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(p) //nolint:errchkjson // strings only: it has no failure

	return strings.TrimSuffix(b.String(), "\n")
}

// decode returns the message that encode, watermill-aws' own marshaler or a
// foreign producer sent. What can't be unpacked is delivered raw, with the
// reason in msgmeta.Malformed.
func decode(m *types.Message) *message.Message {
	metadata := make(message.Metadata, len(m.MessageAttributes)+2)
	for name, value := range m.MessageAttributes {
		if text, ok := attributeText(value); ok {
			metadata[name] = text
		}
	}
	id := metadata[watermillsqs.UUIDAttribute]
	delete(metadata, watermillsqs.UUIDAttribute)
	if id == "" {
		id = aws.ToString(m.MessageId) // the same at each delivery
	}
	payload := message.Payload(aws.ToString(m.Body))

	msg := message.NewMessage(id, payload)
	msg.Metadata = metadata
	text, ok := metadata[packedAttribute]
	if !ok {
		return msg
	}
	delete(metadata, packedAttribute)
	if err := unpack(msg, text); err != nil {
		msgmeta.SetMalformed(msg, fmt.Sprintf("attribute %s: %v", packedAttribute, err))
	}

	return msg
}

// unpack changes the message only when it understood everything.
func unpack(msg *message.Message, text string) error {
	var pack packed
	if err := json.Unmarshal([]byte(text), &pack); err != nil {
		return fmt.Errorf("not the JSON that Headrace writes: %w", err)
	}
	payload, id := msg.Payload, msg.UUID
	var err error
	switch pack.Body {
	case "":
	case bodyNil:
		payload = nil
	case bodyEmpty:
		payload = message.Payload{}
	case bodyBase64:
		if payload, err = base64.StdEncoding.DecodeString(string(payload)); err != nil {
			return fmt.Errorf("the body is not base64: %w", err)
		}
	default:
		return errors.New("the body has an encoding that this version doesn't know")
	}
	if pack.UUID != "" {
		b, err := base64.StdEncoding.DecodeString(pack.UUID)
		if err != nil {
			return fmt.Errorf("the UUID is not base64: %w", err)
		}
		id = string(b)
	}
	metadata := maps.Clone(pack.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	for _, entry := range pack.Binary {
		name, err1 := base64.StdEncoding.DecodeString(entry[0])
		value, err2 := base64.StdEncoding.DecodeString(entry[1])
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("a metadata entry is not base64: %w", err)
		}
		metadata[string(name)] = string(value)
	}
	msg.Payload, msg.UUID = payload, id
	maps.Copy(msg.Metadata, metadata)

	return nil
}

// attributeText reads String, Number and Binary and their custom subtypes.
func attributeText(v types.MessageAttributeValue) (string, bool) {
	base, _, _ := strings.Cut(aws.ToString(v.DataType), ".")
	switch {
	case base == "Binary" && v.BinaryValue != nil:
		return string(v.BinaryValue), true
	case (base == stringType || base == "Number") && v.StringValue != nil:
		return *v.StringValue, true
	default:
		return "", false
	}
}

// carried reports whether SQS carries a text as it is: it takes the characters
// of XML 1.0. It replaces bytes that are not UTF-8, and the SDK notices only
// after the corrupt message has been queued.
func carried(s string) bool {
	for i, r := range s {
		switch {
		case r == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return false
			}
		case r == '\t', r == '\n', r == '\r', r >= 0x20 && r <= 0xD7FF, r >= 0xE000 && r <= 0xFFFD, r >= 0x10000:
		default:
			return false
		}
	}

	return true
}

// jsonCarries is carried, less strict by the control characters that JSON
// escapes.
func jsonCarries(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsAny(s, "\uFFFE\uFFFF")
}

// attributeName reports whether a metadata entry can be an attribute of its own.
func attributeName(name string) bool {
	if name == "" || len(name) > maxAttributeName || name == watermillsqs.UUIDAttribute ||
		name == packedAttribute || name == receiptEntry {
		return false
	}
	lower := strings.ToLower(name)
	if strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") ||
		strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}

	return true
}
