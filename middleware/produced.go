package middleware

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// writeTimeout bounds the writing of returned messages to the outbox.
const writeTimeout = 15 * time.Second

// publishProduced writes what a handler has returned to the outbox. It does the work of
// Watermill's CorrelationID middleware: outside of the transaction that one sees no
// returned messages any more.
func publishProduced(
	ctx context.Context, outbox Outbox, msg *message.Message, consumer string, produced []*message.Message,
) error {
	topic := message.PublishTopicFromCtx(ctx)
	if topic == "" {
		return fmt.Errorf("middleware: handler of consumer %q returned messages, but has no topic to publish to: "+
			"add it with router.AddHandler", consumer)
	}
	if id := wmiddleware.MessageCorrelationID(msg); id != "" {
		for _, out := range produced {
			if out != nil { // the outbox refuses it
				if out.Metadata == nil {
					out.Metadata = message.Metadata{}
				}
				wmiddleware.SetCorrelationID(id, out)
			}
		}
	}
	// A handler that has returned nil can still commit when its message's context
	// is cancelled, so what it returned must get into the transaction too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return outbox.Publish(ctx, topic, produced...)
}
