package sqs

import (
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// quietLogger keeps payloads and metadata out of the log: upstream logs whole
// messages at debug level.
type quietLogger struct{ watermill.LoggerAdapter }

func (l quietLogger) Error(msg string, err error, fields watermill.LogFields) {
	l.LoggerAdapter.Error(msg, err, withoutMessages(fields))
}

func (l quietLogger) Info(msg string, fields watermill.LogFields) {
	l.LoggerAdapter.Info(msg, withoutMessages(fields))
}

func (l quietLogger) Debug(msg string, fields watermill.LogFields) {
	// Upstream's answer to every message, because its delivery settles them.
	if msg == "Nacking message" {
		return
	}
	l.LoggerAdapter.Debug(msg, withoutMessages(fields))
}

func (l quietLogger) Trace(msg string, fields watermill.LogFields) {
	l.LoggerAdapter.Trace(msg, withoutMessages(fields))
}

func (l quietLogger) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return quietLogger{l.LoggerAdapter.With(withoutMessages(fields))}
}

func withoutMessages(fields watermill.LogFields) watermill.LogFields {
	for name, value := range fields {
		if msg, ok := value.(*message.Message); ok {
			clean := fields.Copy()
			delete(clean, name)
			clean["message_uuid"] = msg.UUID

			return withoutMessages(clean)
		}
	}

	return fields
}
