package brokers

import (
	"fmt"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/redact"
)

// guardedPublisher refuses what can't be sent before anything is sent, the same
// on every broker, and keeps secrets out of its errors.
type guardedPublisher struct {
	broker  string
	backend *Backend
	secrets *redact.Redactor
}

func (p *guardedPublisher) Publish(topic string, messages ...*message.Message) error {
	for i, msg := range messages {
		if err := p.check(topic, msg); err != nil {
			refused := &RefusedError{Broker: p.broker, Topic: topic, Index: i, Err: p.secrets.Err(err)}
			if msg != nil {
				refused.UUID = msg.UUID
			}

			return refused
		}
	}
	if len(messages) == 0 {
		return nil
	}

	if err := p.backend.Publisher.Publish(topic, messages...); err != nil {
		return fmt.Errorf("brokers: publish to topic %s on %s: %w", printable(topic), p.broker, p.secrets.Err(err))
	}

	return nil
}

func (p *guardedPublisher) check(topic string, msg *message.Message) error {
	switch limit := p.backend.Capabilities.MaxBody; {
	case msg == nil:
		return ErrNilMessage
	case msg.UUID == "":
		return ErrNoUUID
	case limit > 0 && len(msg.Payload) > limit:
		return fmt.Errorf("%w: its payload has %d bytes and the limit is %d; send a reference to the data instead",
			ErrTooLarge, len(msg.Payload), limit)
	case topic == "":
		return fmt.Errorf("%w: it is empty", ErrTopic)
	}
	if p.backend.Check == nil {
		return nil
	}

	return p.backend.Check(topic, msg)
}

// Close does nothing: see Broker.Publisher.
func (*guardedPublisher) Close() error { return nil }

// CheckUTF8 refuses a message whose UUID or metadata is not valid UTF-8, for
// brokers that carry text only. Encoders replace such bytes silently.
func CheckUTF8(msg *message.Message) error {
	if !utf8.ValidString(msg.UUID) {
		return fmt.Errorf("%w: it is not valid UTF-8", ErrBadUUID)
	}
	for name, value := range msg.Metadata {
		if !utf8.ValidString(name) {
			return fmt.Errorf("%w: the name %s is not valid UTF-8", ErrMetadata, printable(name))
		}
		if !utf8.ValidString(value) {
			return fmt.Errorf("%w: the value of %s is not valid UTF-8; encode it, for example as base64",
				ErrMetadata, printable(name))
		}
	}

	return nil
}
