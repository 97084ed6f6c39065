package middleware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/headrace-go/headrace/internal/begun"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Errors of Parking, to be matched with errors.Is.
var (
	// ErrMalformed says that a message could not be parsed when it was received.
	ErrMalformed = errors.New("message could not be parsed on receipt")
	// ErrUnbound says that a parked message came back to a handler that isn't its own:
	// its parking.Subscriber is bound to another consumer.
	ErrUnbound = errors.New("subscriber is bound to another consumer")
)

// Parking puts a message aside that its handler can't handle: it is acked, kept in
// the database with what went wrong, tried again later, and at last left to a person
// (package parking). Later messages of its key line up behind it, at whatever
// instance they arrive, and are handled in order when it is done; other keys flow.
//
// It belongs outside of Dedupe, with a parking.Subscriber under the handler, which
// brings back what is due. It is safe for concurrent use, and one Parking serves all
// handlers of a router.
type Parking struct {
	store        *store.Store
	cfg          ParkingConfig
	hooks        []ParkHook
	instance     string
	immediate    failsafe.Executor[[]*message.Message]
	unguarded    sync.Once
	stageOutside sync.Once
}

// NewParking returns the middleware. Errors are those of the configuration.
func NewParking(st *store.Store, cfg ParkingConfig) (*Parking, error) {
	if st == nil {
		return nil, errors.New("middleware: NewParking needs a store")
	}
	cfg = cfg.withDefaults(st)
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	const longest = time.Minute
	builder := retrypolicy.NewBuilder[[]*message.Message]().ReturnLastFailure().
		WithMaxRetries(max(cfg.Immediate.Tries, 0)).
		HandleIf(func(_ []*message.Message, err error) bool { return errors.As(err, new(*tryAgainError)) })
	if first := cfg.Immediate.First; cfg.Immediate.Factor > 1 {
		builder = builder.WithBackoffFactor(first, max(longest, first+1), cfg.Immediate.Factor)
	} else {
		builder = builder.WithDelay(first)
	}
	if cfg.Immediate.Jitter > 0 {
		builder = builder.WithJitterFactor(cfg.Immediate.Jitter)
	}
	host, _ := os.Hostname()
	return &Parking{
		store: st, cfg: cfg, hooks: store.HooksOf[ParkHook](cfg.Hooks),
		instance: host + "/" + strconv.Itoa(os.Getpid()), immediate: failsafe.With(builder.Build()),
	}, nil
}

// Middleware protects h.
func (p *Parking) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		outer := msg.Context()
		if outer.Value(parkingKey{}) != nil { // added twice
			return h(msg)
		}
		if p.cfg.Observe {
			return p.observe(msg, h)
		}
		d, err := p.receive(msg)
		if err != nil {
			return nil, err
		}
		defer func() { msg.SetContext(outer) }()
		produced, err := d.handle(h)
		if _, again := d.ticket.Reentry(); again {
			d.ticket.Finish(err)
			if errors.Is(err, parking.ErrPutBack) {
				err = nil
			}
		}
		return produced, err
	}
}

// Valve tells whether the store is there. Give it to the handlers' Subscribers
// (parking.SubscriberConfig.Valve), so that they take nothing on while it isn't.
func (p *Parking) Valve() *parking.Valve { return p.cfg.Valve }

type parkingKey struct{}

// errStageOutside is said once: it is a mistake in how a handler is put together.
var errStageOutside = errors.New("the stage stands outside of Parking: add headrace.Plugin.ParkMiddleware, " +
	"or Parking.Middleware, in front of it")

// observe says what would have been put aside.
func (p *Parking) observe(msg *message.Message, h message.HandlerFunc) ([]*message.Message, error) {
	produced, err := h(msg)
	if err != nil {
		p.cfg.Logger.Info("Would put a message aside", watermill.LogFields{
			"message_uuid": msg.UUID, "class": p.classify(err), "err": err.Error(), "observed": true,
		})
	}
	return produced, err
}

// held is one delivery in Parking's hands.
type held struct {
	p      *Parking
	msg    *message.Message
	outer  context.Context //nolint:containedctx // the message's own, which is put back
	ticket *parking.Ticket
	// came is the message as it is to be handled. Handlers change the one that they get.
	came *message.Message
	// again: it is a kept message that comes back.
	again bool
	// problem is why no handler can be asked.
	problem error
	history []store.AttemptRecord
}

func (p *Parking) receive(msg *message.Message) (*held, error) {
	outer := msg.Context()
	came := &message.Message{UUID: msg.UUID, Payload: bytes.Clone(msg.Payload), Metadata: maps.Clone(msg.Metadata)}
	d := &held{p: p, msg: msg, outer: outer, came: came}
	consumer := p.cfg.Consumer
	if consumer == "" {
		handler := message.HandlerNameFromCtx(outer)
		if handler == "" {
			return nil, errors.New("middleware: the handler has no name in the message's context: " +
				"run Parking in a router, or set ParkingConfig.Consumer")
		}
		consumer = p.cfg.Service + "." + handler
	}
	if d.ticket = parking.TicketFrom(outer); d.ticket != nil {
		d.again = true
		d.ticket.Enter()
		if ref, _ := d.ticket.Reentry(); ref.Consumer != store.Identity(consumer) {
			err := fmt.Errorf("%w: %q, and the handler is %q", ErrUnbound, ref.Consumer, consumer)
			d.ticket.Finish(err)
			return nil, err
		}
		if why := msgmeta.GetMalformed(msg); why != "" && d.ticket.Row().Edits == 0 {
			d.problem = parking.AsPermanent(fmt.Errorf("%w: %s", ErrMalformed, why))
		}
		return d, nil
	}
	if begun.In(outer) {
		p.stageOutside.Do(func() {
			p.cfg.Logger.Error("What fails in a stage of effects is not put aside: its messages are nacked", errStageOutside,
				watermill.LogFields{"consumer": consumer})
		})
	}
	line := d.line(consumer)
	d.ticket = parking.NewTicket(line.line, line.id, message.SubscribeTopicFromCtx(outer), came)
	d.ticket.Bound(d.bound)
	return d, nil
}

type address struct {
	line store.Line
	id   string
}

// line is what the message stays in order with, and how it is remembered. What has no
// id is told from others by a random one, and is perhaps kept twice; by its content it
// can't be, since two equal messages are two.
func (d *held) line(consumer string) address {
	id, err := d.p.cfg.Identity(d.msg)
	if err != nil || id == "" {
		id = "noid-" + watermill.NewUUID()
	}
	if why := msgmeta.GetMalformed(d.msg); why != "" {
		d.problem = parking.AsPermanent(fmt.Errorf("%w: %s", ErrMalformed, why))
	}
	key, err := d.p.cfg.Key(d.msg)
	if err == nil && key != "" {
		return address{store.KeyLine(consumer, key), id}
	}
	if err != nil && !errors.Is(err, keys.ErrNoKey) && d.problem == nil {
		d.problem = parking.AsPermanent(fmt.Errorf("middleware: the message's key: %w", err))
	}
	return address{store.MessageLine(consumer, id), id}
}

// bound refuses a message whose line is full, or says so.
func (d *held) bound(gate store.Gate) error {
	cfg := d.p.cfg
	waiting := gate.Waiting()
	if waiting <= cfg.LineMax && gate.HeldFor <= cfg.LineMaxAge {
		return nil
	}
	if cfg.WhenFull == Block {
		return fmt.Errorf("%w: %d messages wait behind key %q of consumer %q, held for %s; "+
			"see `headrace key show`", parking.ErrLineFull, waiting, gate.Key, gate.Consumer, gate.HeldFor.Round(time.Second))
	}
	if waiting == cfg.LineMax+1 {
		cfg.Logger.Info("A key that waits for a parked message has more messages than it should", watermill.LogFields{
			"consumer": gate.Consumer, "key": gate.Key, "waiting": waiting, "held_for": gate.HeldFor,
		})
	}
	return nil
}

// classify knows this package's errors too.
func (p *Parking) classify(err error) parking.Class {
	return parking.Classify(err, append(p.cfg.Classify[:len(p.cfg.Classify):len(p.cfg.Classify)], ownErrors)...)
}

// ownErrors are those that come again as long as the message is what it is.
func ownErrors(err error) parking.Class {
	for _, own := range []error{ErrNoMessageID, ErrFingerprint, ErrMalformed, ErrNoTimeToLive} {
		if errors.Is(err, own) {
			return parking.Permanent
		}
	}
	return ""
}
