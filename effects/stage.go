package effects

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/begun"
	"github.com/headrace-go/headrace/internal/remark"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Stage makes a call in front of Dedupe's transaction: add it to the router or the
// handler before Dedupe. f makes the call by Client.Do, with a key of what the
// message is about, and the handler gets the response by ResultOf. Where f fails, the
// message does.
//
// A message that Dedupe will skip, line up or refuse goes on without a call, unless two copies
// come at once: then Do lets one of them call. Dedupe doesn't handle it then if its turn has
// come meanwhile: it is delivered again. One whose time to live is over goes on
// as well, but not once its call was begun: then it is handled, however late.
func (c *Client) Stage(
	name string, f func(ctx context.Context, msg *message.Message) (Response, error),
) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			outer := msg.Context()
			if store.CurrentUnit(outer) != nil {
				return nil, ErrInUnit
			}
			if msgmeta.GetMalformed(msg) != "" {
				return h(msg)
			}
			ctx, known, err := c.prepare(remark.With(outer), msg)
			if err != nil {
				return nil, err
			}
			if known {
				msg.SetContext(begun.Leave(outer)) // by now its turn may have come
				defer func() { msg.SetContext(outer) }()
				return h(msg)
			}
			response, err := f(ctx, msg)
			switch {
			case late(ctx) && errors.Is(err, ErrExpired):
				return h(msg)
			case err != nil:
				return nil, err
			}
			said := remark.Carry(outer, ctx)
			msg.SetContext(begun.With(context.WithValue(said, resultKey(name), response)))
			defer func() { msg.SetContext(outer) }()
			return h(msg)
		}
	}
}

// prepare looks whether the message is to pass, and else returns the context for its
// calls.
func (c *Client) prepare(outer context.Context, msg *message.Message) (ctx context.Context, known bool, err error) {
	consumer, id, err := c.address(msg)
	if err != nil {
		return nil, false, err
	}
	if known, err = c.passes(outer, consumer, id); known || err != nil {
		return nil, known, err
	}
	about := store.AboutFromContext(outer)
	about.Consumer, about.MessageID = consumer, id
	ctx = store.WithAbout(With(outer, c), about)
	expires, ok, err := c.cfg.TTL(msg)
	if err != nil {
		return nil, false, fmt.Errorf("effects: the message's time to live can't be read: %w", err)
	}
	if !ok {
		return ctx, false, nil
	}
	past := false
	err = c.store.InTx(outer, func(ctx context.Context, tx store.Tx) (err error) {
		past, err = c.store.Past(ctx, tx, expires)
		return err
	})
	return context.WithValue(ctx, lateKey{}, past), false, err
}

type lateKey struct{}

// late reports whether a message's calls may not be begun any more.
func late(ctx context.Context) bool {
	past, _ := ctx.Value(lateKey{}).(bool)
	return past
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
	if ticket := parking.TicketFrom(msg.Context()); ticket != nil {
		if _, again := ticket.Reentry(); again {
			return consumer, ticket.InboxID(), nil
		}
	}
	if id, err = c.cfg.Identity(msg); err != nil {
		return "", "", fmt.Errorf("effects: identity of the message: %w", err)
	}
	if id == "" {
		return "", "", parking.AsPermanent(errors.New("effects: the message has no id: " +
			"give Config.Identity a function that reads it, as Dedupe's"))
	}
	return consumer, id, nil
}

type resultKey string

// ResultOf returns what the stage of that name got, in the handler behind it.
func ResultOf(ctx context.Context, name string) (Response, bool) {
	response, ok := ctx.Value(resultKey(name)).(Response)
	return response, ok
}
