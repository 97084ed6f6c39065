package effects

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// Stage makes a call in front of Dedupe's transaction: add it to the router or the
// handler before Dedupe. f makes the call by Client.Do, with a key of what the
// message is about, and the handler gets the response by ResultOf. Where f fails, the
// message does.
//
// A message that Dedupe will skip goes on without a call, unless two copies come at
// once: then Do lets one of them call.
func (c *Client) Stage(
	name string, f func(ctx context.Context, msg *message.Message) (Response, error),
) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			outer := msg.Context()
			if store.CurrentUnit(outer) != nil {
				return nil, ErrInUnit
			}
			consumer, id, err := c.address(msg)
			if err != nil {
				return nil, err
			}
			known, err := c.store.Remembers(outer, consumer, id)
			if err != nil {
				return nil, err
			}
			if known {
				return h(msg)
			}
			about := store.AboutFromContext(outer)
			about.Consumer, about.MessageID = consumer, id
			response, err := f(store.WithAbout(With(outer, c), about), msg)
			if err != nil {
				return nil, err
			}
			msg.SetContext(context.WithValue(outer, resultKey(name), response))
			defer func() { msg.SetContext(outer) }()
			return h(msg)
		}
	}
}

func (c *Client) address(msg *message.Message) (consumer, id string, err error) {
	consumer = c.cfg.Consumer
	if consumer == "" {
		handler := message.HandlerNameFromCtx(msg.Context())
		if handler == "" || c.cfg.Service == "" {
			return "", "", errors.New("effects: Stage doesn't know the consumer: set Config.Service and run it in a router, " +
				"or set Config.Consumer")
		}
		consumer = c.cfg.Service + "." + handler
	}
	if id, err = c.cfg.Identity(msg); err != nil {
		return "", "", fmt.Errorf("effects: identity of the message: %w", err)
	}
	return consumer, id, nil
}

type resultKey string

// ResultOf returns what the stage of that name got, in the handler behind it.
func ResultOf(ctx context.Context, name string) (Response, bool) {
	response, ok := ctx.Value(resultKey(name)).(Response)
	return response, ok
}
