package forwarder

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// DefaultDestination is the destination of an outbox that names none.
const DefaultDestination = "default"

// ErrNoUUID says that a message without a UUID was published. Consumers could
// not tell its copies from other messages.
var ErrNoUUID = errors.New("message has no UUID: make it with message.NewMessage(watermill.NewUUID(), payload)")

// OutboxConfig says how messages are written. Its zero value is usable.
type OutboxConfig struct {
	// Service is whose forwarders send the messages, those with the same
	// Config.Service. Services that share Headrace's tables need one each. Default
	// "".
	Service string
	// Destination names the publisher that the forwarder sends the messages
	// with. Default "default".
	Destination string
	// Key gives the key of each message, which then must have one, except for what
	// Watermill's PoisonQueue puts aside. Default: the metadata entry msgmeta.Key,
	// and messages without it have no order.
	Key keys.Func
	// Sequences numbers the messages of each key and topic, from 1 and without gaps
	// (msgmeta.GetNumber), so that consumers with a middleware.Sequence tell what is missing
	// and what they had for ever. A key's messages then wait for each other's commits, for
	// as long as a commit takes. Messages without a key have no number. Default false.
	Sequences bool
}

// Outbox writes messages into database transactions. It is safe for concurrent
// use.
type Outbox struct {
	store *store.Store
	cfg   OutboxConfig
}

// NewOutbox returns an outbox on the store's tables.
func NewOutbox(st *store.Store, cfg OutboxConfig) (*Outbox, error) {
	if st == nil {
		return nil, errors.New("forwarder: NewOutbox needs a store")
	}
	if cfg.Destination == "" {
		cfg.Destination = DefaultDestination
	}
	if err := checkService(cfg.Service); err != nil {
		return nil, fmt.Errorf("forwarder: OutboxConfig.Service: %w", err)
	}
	if len(cfg.Destination) > store.MaxIdentity {
		return nil, fmt.Errorf("forwarder: OutboxConfig.Destination is longer than %d bytes", store.MaxIdentity)
	}
	return &Outbox{store: st, cfg: cfg}, nil
}

// Publish writes messages into the unit of work in the context, or into one of
// their own when there is none (refused in strict mode with an error that
// matches store.ErrOutside). They are sent after the commit, those of one key in
// the order of their rows. The messages themselves are not changed.
//
// Errors match ErrNoUUID, keys.ErrNoKey or store.ErrContent when a message can't
// be sent as it is; then nothing is written.
func (o *Outbox) Publish(ctx context.Context, topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	rows, err := o.rows(topic, msgs)
	if err != nil {
		return err
	}
	// A PoisonQueue stands outside of the unit that has failed, and can't say so.
	if o.store.UnitFromContext(ctx) == nil && !allPoisoned(msgs) {
		if err := o.store.AllowOutside(ctx, fmt.Sprintf("publish to topic %q through the outbox", topic)); err != nil {
			return err
		}
	}
	err = o.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		if o.cfg.Sequences {
			return o.store.InsertSequenced(ctx, tx, rows)
		}
		return o.store.InsertOutbox(ctx, tx, rows)
	})
	if err != nil {
		return fmt.Errorf("forwarder: publish to topic %q: %w", topic, err)
	}
	step.Reach(ctx, step.OutboxWritten)
	return nil
}

// PublishTx writes messages into a transaction that the caller began and will
// commit. The forwarder finds them by polling; Wake after the commit is quicker.
func (o *Outbox) PublishTx(ctx context.Context, tx *sql.Tx, topic string, msgs ...*message.Message) error {
	return o.Publish(o.store.Join(ctx, tx), topic, msgs...)
}

// Wake tells the forwarders of this process to look for new rows now.
func (o *Outbox) Wake() { o.store.WakeOutbox() }

func (o *Outbox) rows(topic string, msgs []*message.Message) ([]store.OutboxRow, error) {
	if topic == "" {
		return nil, errors.New("forwarder: publish: topic is empty")
	}
	rows := make([]store.OutboxRow, len(msgs))
	for i, msg := range msgs {
		if msg == nil {
			return nil, fmt.Errorf("forwarder: publish to topic %q: message %d of %d is nil", topic, i+1, len(msgs))
		}
		if msg.UUID == "" {
			return nil, fmt.Errorf("forwarder: publish to topic %q: %w", topic, ErrNoUUID)
		}
		key, err := o.key(msg)
		if err != nil {
			return nil, fmt.Errorf("forwarder: publish to topic %q: message %q: %w; the configured Key asks each message "+
				"for one: give it what Key reads, or leave Key out and call msgmeta.SetKey where there is an order",
				topic, msg.UUID, err)
		}
		out := message.Message{Metadata: maps.Clone(msg.Metadata)}
		msgmeta.StripDelivery(&out)
		msgmeta.SetKey(&out, key)
		rows[i] = store.OutboxRow{
			Service: o.cfg.Service, MessageID: msg.UUID, Destination: o.cfg.Destination, Topic: topic, Key: key,
			Payload: msg.Payload, Metadata: out.Metadata,
		}
	}
	return rows, nil
}

func (o *Outbox) key(msg *message.Message) (string, error) {
	if o.cfg.Key == nil {
		return msgmeta.GetKey(msg), nil
	}
	key, err := o.cfg.Key(msg)
	if err != nil && poisoned(msg) {
		return msgmeta.GetKey(msg), nil
	}
	return key, err
}

// poisoned reports whether Watermill's PoisonQueue is putting a message aside
// (its middleware.ReasonForPoisonedKey). Such a message may be one of which
// nobody can read the key, and refusing it would bring it back for ever.
func poisoned(msg *message.Message) bool { return msg.Metadata.Get("reason_poisoned") != "" }

func allPoisoned(msgs []*message.Message) bool {
	for _, msg := range msgs {
		if !poisoned(msg) {
			return false
		}
	}
	return true
}

// Publisher returns a message.Publisher for code that publishes by hand and for
// CQRS buses: each message goes into the unit of work in its own context
// (msg.Context()). Closing it does nothing, so that a router may do so.
func (o *Outbox) Publisher() message.Publisher { return contextPublisher{o} }

// TxPublisher returns a message.Publisher that writes into a transaction which
// the caller began and will commit.
func (o *Outbox) TxPublisher(ctx context.Context, tx *sql.Tx) message.Publisher {
	return txPublisher{o, o.store.Join(ctx, tx)}
}

type contextPublisher struct{ outbox *Outbox }

// Publish writes neighbours that share a unit of work together.
func (p contextPublisher) Publish(topic string, msgs ...*message.Message) error {
	for len(msgs) > 0 {
		ctx := contextOf(msgs[0])
		n := 1
		for n < len(msgs) && p.outbox.together(ctx, contextOf(msgs[n])) {
			n++
		}
		if err := p.outbox.Publish(ctx, topic, msgs[:n]...); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

func (contextPublisher) Close() error { return nil }

// together reports whether what is published with either context belongs in one
// write. Contexts without a unit are not compared as such: not every type of
// context can be.
func (o *Outbox) together(a, b context.Context) bool {
	unit := o.store.UnitFromContext(a)
	if unit != o.store.UnitFromContext(b) {
		return false
	}
	return unit != nil || a.Done() == b.Done() && !o.store.Strict()
}

func contextOf(msg *message.Message) context.Context {
	if msg == nil {
		return context.Background()
	}
	return msg.Context()
}

type txPublisher struct {
	outbox *Outbox
	ctx    context.Context //nolint:containedctx // message.Publisher takes none
}

func (p txPublisher) Publish(topic string, msgs ...*message.Message) error {
	return p.outbox.Publish(p.ctx, topic, msgs...)
}

func (txPublisher) Close() error { return nil }
