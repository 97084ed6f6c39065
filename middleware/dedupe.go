package middleware

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/remark"
	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Errors that Dedupe returns, to be matched with errors.Is. The router nacks the
// message then, so that nothing is lost.
var (
	// ErrNoMessageID says that a message can't be told from others.
	ErrNoMessageID = errors.New("message has no id to deduplicate by")
	// ErrFingerprint matches FingerprintError.
	ErrFingerprint = errors.New("message id was used before for another payload")
	// ErrNoOutbox says that a handler returned messages and there is no outbox
	// for them: published after the commit, a crash would lose them.
	ErrNoOutbox = errors.New("handler returned messages, but Dedupe has no outbox")
	// ErrConsumerTaken says that two handlers remember their messages under one
	// name, and would swallow each other's.
	ErrConsumerTaken = errors.New("two handlers under one consumer's name")
	// ErrBusy says that another delivery of the message is still being handled.
	// The broker will deliver this one again.
	ErrBusy = errors.New("another delivery of this message is still being handled")
)

// FingerprintError says that a message came again with another payload: its
// producer uses an id twice. It matches ErrFingerprint.
type FingerprintError struct {
	Consumer, ID string
	// Fingerprint is the second payload's SHA-256.
	Fingerprint []byte
}

func (e *FingerprintError) Error() string {
	return fmt.Sprintf("%v: message %q of consumer %q", ErrFingerprint, e.ID, e.Consumer)
}

// Is matches ErrFingerprint.
func (e *FingerprintError) Is(target error) bool { return target == ErrFingerprint }

// Outbox is where messages go that handlers return. *forwarder.Outbox is one.
type Outbox interface {
	// Publish writes messages into the context's unit of work.
	Publish(ctx context.Context, topic string, msgs ...*message.Message) error
}

// DedupeConfig says how messages are told apart. Service is required.
type DedupeConfig struct {
	// Service is the name under which this service's handlers remember messages.
	// Two services on one database must have different ones, or they would
	// swallow each other's messages. It must stay the same over deploys, and has
	// no dot.
	Service string
	// Consumer overrides the whole scope of dedupe, for one handler, for example to
	// keep its memory when the handler is renamed: a second handler behind the same
	// Dedupe fails with ErrConsumerTaken. Default: Service, a dot and the router's
	// name of the handler.
	Consumer string
	// Outbox takes the messages that handlers return. Without one, such a handler
	// fails with ErrNoOutbox.
	Outbox Outbox
	// Identity gives a message's id. Default: its UUID.
	Identity func(msg *message.Message) (string, error)
	// Key names what a message is about, for logs only. Default: the metadata
	// entry msgmeta.Key.
	Key keys.Func
	// Fingerprint also remembers a hash of the payload, so that an id which is
	// used twice is an error (ErrFingerprint) and no silent loss. Default false.
	Fingerprint bool
	// TTL says when a message's time to live ends, ok false when it has none. A
	// message that comes later, by the database's clock, is recorded as expired and
	// not handled. One whose end can't be read is refused with the error. Default:
	// the metadata entry msgmeta.Expires.
	TTL func(msg *message.Message) (expires time.Time, ok bool, err error)
	// WaitTimeout bounds how long a second delivery waits for the first one's
	// outcome before it is nacked. Default 5 s. Waiting copies within one process
	// hold no database connection.
	WaitTimeout time.Duration

	// Window is how long messages are remembered. Default 7 days. It is enforced
	// by Purge, and checked here against RedeliveryWindow.
	Window time.Duration
	// RedeliveryWindow is how late the broker can still deliver a copy
	// (brokers.Capabilities has it). NewDedupe refuses a shorter Window, because a
	// copy that comes after its row was purged is handled again. Default 0: not
	// known, not checked.
	RedeliveryWindow time.Duration
	// AllowShortWindow turns that refusal off, for handlers that are idempotent.
	AllowShortWindow bool

	// Observe lets every message through, outside of any transaction, and only
	// records what Dedupe would have done. What is handled while observing counts
	// as handled when Observe is turned off later.
	Observe bool

	// Logger gets duplicates (debug), what has expired (info) and what goes wrong.
	// Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement VerdictHook are told every verdict.
	Hooks []any
}

// DefaultWindow is how long messages are remembered by default, as NServiceBus
// does.
const DefaultWindow = 7 * 24 * time.Hour

func (c DedupeConfig) withDefaults() DedupeConfig {
	if c.Identity == nil {
		c.Identity = func(msg *message.Message) (string, error) { return msg.UUID, nil }
	}
	if c.Key == nil {
		c.Key = keys.Default()
	}
	if c.TTL == nil {
		c.TTL = msgmeta.GetExpires
	}
	if c.WaitTimeout == 0 {
		c.WaitTimeout = 5 * time.Second
	}
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func (c DedupeConfig) validate() error {
	if c.Service == "" && c.Consumer == "" {
		return errors.New("middleware: DedupeConfig.Service is required: " +
			"without it two services on one database would swallow each other's messages")
	}
	if strings.Contains(c.Service, ".") {
		return fmt.Errorf("middleware: DedupeConfig.Service %q has a dot, which parts service and handler in a consumer's name: "+
			"two services could become one consumer", c.Service)
	}
	if c.WaitTimeout < 0 || c.Window < 0 || c.RedeliveryWindow < 0 {
		return errors.New("middleware: DedupeConfig's durations must not be negative")
	}
	if c.Window < c.RedeliveryWindow && !c.AllowShortWindow {
		return fmt.Errorf("middleware: DedupeConfig.Window is %s, but the broker can deliver a copy %s later, "+
			"which would be handled again after the purge: use a longer Window, or AllowShortWindow where handlers "+
			"are idempotent", c.Window, c.RedeliveryWindow)
	}
	return nil
}

// Dedupe makes a handler's effects happen once per message, however often and by
// however many instances it is delivered: the message's row in the inbox, the
// handler's own writes and the messages that it sends are one transaction.
//
// A message is remembered only when its handler has succeeded. A second delivery
// waits for the first one's outcome, and is then skipped or handled. It is safe
// for concurrent use, and one Dedupe serves all handlers of a router.
type Dedupe struct {
	store    *store.Store
	cfg      DedupeConfig
	inFlight inFlight
	hooks    []VerdictHook
	// handler is the one that has taken DedupeConfig.Consumer.
	handler atomic.Pointer[string]
	// topics are what the handlers hear, by their names.
	topics sync.Map
}

// NewDedupe returns the middleware. Errors are those of the configuration.
func NewDedupe(st *store.Store, cfg DedupeConfig) (*Dedupe, error) {
	if st == nil {
		return nil, errors.New("middleware: NewDedupe needs a store")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Dedupe{store: st, cfg: cfg, hooks: store.HooksOf[VerdictHook](cfg.Hooks)}, nil
}

// Middleware protects h. Within it, the message's context carries the unit of
// work: see package store for how the handler's statements join it.
func (d *Dedupe) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		delivery, err := d.deliver(msg)
		if err != nil {
			return nil, err
		}
		if d.within(delivery) {
			return h(msg)
		}
		if d.cfg.Observe {
			return d.observe(delivery, h)
		}
		return nil, d.handle(delivery, h)
	}
}

// within reports whether the message is being handled behind this very protection
// already, because it was added twice. It would wait for itself.
func (d *Dedupe) within(dl delivery) bool {
	ctx := dl.msg.Context()
	if d.store.UnitFromContext(ctx) == nil {
		return false
	}
	about := store.AboutFromContext(ctx)
	return about.Consumer == dl.consumer && about.MessageID == dl.id
}

// delivery is one delivery of a message to a consumer.
type delivery struct {
	msg         *message.Message
	consumer    string
	id          string
	fingerprint []byte
	// ticket is Parking's, or nil.
	ticket *parking.Ticket
	// expires is zero for a message that doesn't.
	expires time.Time
	began   time.Time
}

// consumer returns the name under which the message's handler remembers it.
func (d *Dedupe) consumer(msg *message.Message) (string, error) {
	handler := message.HandlerNameFromCtx(msg.Context())
	if d.cfg.Consumer == "" {
		if handler == "" {
			return "", errors.New("middleware: the handler has no name in the message's context: " +
				"run Dedupe in a router, or set DedupeConfig.Consumer")
		}
		return d.cfg.Service + "." + handler, d.oneTopic(handler, message.SubscribeTopicFromCtx(msg.Context()))
	}
	if handler == "" || d.handler.CompareAndSwap(nil, &handler) {
		return d.cfg.Consumer, nil
	}
	if taken := *d.handler.Load(); taken != handler {
		return "", fmt.Errorf("%w: handlers %q and %q are both %q: give each a Dedupe of its own, "+
			"or leave DedupeConfig.Consumer empty", ErrConsumerTaken, taken, handler, d.cfg.Consumer)
	}
	return d.cfg.Consumer, nil
}

// oneTopic refuses a second handler of the same name, in another router, when it
// hears another topic: a message that is sent to both would be skipped at one.
func (d *Dedupe) oneTopic(handler, topic string) error {
	if taken, known := d.topics.LoadOrStore(handler, topic); known && taken != topic {
		return fmt.Errorf("%w: there is a handler %q for topic %q and another for %q: "+
			"give them different names, or Services", ErrConsumerTaken, handler, taken, topic)
	}
	return nil
}

func (d *Dedupe) deliver(msg *message.Message) (delivery, error) {
	consumer, err := d.consumer(msg)
	if err != nil {
		return delivery{}, err
	}
	ticket := d.ticketOf(msg)
	id, err := d.identify(msg, ticket)
	if err != nil {
		return delivery{}, err
	}
	if ticket != nil {
		ticket.Identify(consumer, id)
	}
	dl := delivery{msg: msg, consumer: consumer, id: id, ticket: ticket, began: time.Now()}
	if d.cfg.Fingerprint {
		sum := sha256.Sum256(msg.Payload)
		dl.fingerprint = sum[:]
		if ticket != nil {
			ticket.Fingerprint(dl.fingerprint)
		}
	}
	dl.expires, err = d.expires(msg)
	return dl, err
}

// handle runs the handler in a unit of work, unless the message is a duplicate.
func (d *Dedupe) handle(dl delivery, h message.HandlerFunc) error {
	outer := dl.msg.Context()
	defer func() { dl.msg.SetContext(outer) }()

	leave, err := d.inFlight.enter(outer, inFlightKey{dl.consumer, dl.id}, d.cfg.WaitTimeout)
	if err != nil {
		return err
	}
	defer leave()

	verdict, ruled := store.Applied, &ruling.Ruling{}
	err = d.store.InTx(d.about(outer, dl), func(ctx context.Context, tx store.Tx) (err error) {
		if verdict, err = d.decide(ctx, tx, dl); err != nil {
			return err
		}
		if verdict == store.Expired {
			if err := d.pass(ctx, tx, dl); err != nil {
				return err
			}
		}
		if verdict == store.Applied && msgmeta.IsSkip(dl.msg) {
			verdict, ruled = store.Discarded, skipRuling()
			return errors.Join(d.pass(ctx, tx, dl), d.finish(ctx, tx, dl, verdict, *ruled))
		}
		if verdict == store.Applied {
			ctx, ruled = ruling.With(ctx)
			if err := d.apply(ctx, dl, h); err != nil {
				return err
			}
			if ruled.Verdict != "" {
				verdict = store.Verdict(ruled.Verdict)
			}
		}
		return d.finish(ctx, tx, dl, verdict, *ruled)
	})
	if errors.Is(err, store.ErrLockTimeout) && verdict == "" {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if errors.Is(err, ErrFingerprint) {
		return errors.Join(err, d.refused(outer, dl))
	}
	if err != nil {
		return err
	}
	d.tell(dl, verdict, false)
	return nil
}

// decide records the message or finds out that it is known. The verdict is empty
// while that is not known.
func (d *Dedupe) decide(ctx context.Context, tx store.Tx, dl delivery) (store.Verdict, error) {
	if ref, again := dl.reentry(); again {
		return d.readmit(ctx, tx, dl, ref)
	}
	admission, known, err := d.admit(ctx, store.InboxRow{
		Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Applied, Fingerprint: dl.fingerprint,
		Reason: remark.In(dl.msg.Context()),
	}, dl.ticket)
	switch {
	case err != nil:
		return "", err
	case admission == store.Admitted:
		step.Reach(ctx, step.DedupeInserted)
		return d.expire(ctx, tx, dl)
	case admission == store.Held:
		_, err := dl.ticket.LineUp(ctx, d.store, tx)
		step.Reach(ctx, step.LineWritten)
		return store.Accepted, err
	case !known.SameContent(dl.fingerprint):
		return store.Duplicate, &FingerprintError{Consumer: dl.consumer, ID: dl.id, Fingerprint: dl.fingerprint}
	}
	reason := ""
	if known.Verdict.Open() {
		reason = "it is kept, and will be handled"
	} else if err := d.pass(ctx, tx, dl); err != nil {
		return "", err
	}
	return store.Duplicate, d.store.LogVerdict(ctx, tx, store.VerdictLogRow{
		Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Duplicate, Reason: reason,
	})
}

// apply runs the handler and writes what it returns to the outbox.
func (d *Dedupe) apply(ctx context.Context, dl delivery, h message.HandlerFunc) error {
	dl.msg.SetContext(ctx)
	produced, err := h(dl.msg)
	if err != nil {
		return err
	}
	step.Reach(ctx, step.HandlerReturned)
	if len(produced) == 0 {
		return nil
	}
	if d.cfg.Outbox == nil {
		return fmt.Errorf("%w: set DedupeConfig.Outbox", ErrNoOutbox)
	}
	return publishProduced(ctx, d.cfg.Outbox, dl.msg, dl.consumer, produced)
}

func (d *Dedupe) about(ctx context.Context, dl delivery) context.Context {
	about := store.About{Consumer: dl.consumer, MessageID: dl.id}
	if key := d.keyOf(dl); key != "" {
		about.Keys = []string{key}
	}
	return store.WithAbout(ctx, about)
}

// keyOf is what the message is about, or "" where nobody says.
func (d *Dedupe) keyOf(dl delivery) string {
	key, err := d.cfg.Key(dl.msg)
	if err != nil {
		return ""
	}
	return key
}
