package parking

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/store"
)

// ImportConfig says what is taken over, and whose it is from then on. Topic is
// required, and Consumer or Service.
type ImportConfig struct {
	// Topic is the topic or queue that is taken over.
	Topic string
	// From names its broker in the audit, without secrets. Optional.
	From string
	// Consumer gets the messages: service.handler. One that Watermill's PoisonQueue has
	// signed with another handler's name is no message of it, unless AnyHandler says so.
	Consumer   string
	AnyHandler bool
	// Service instead gives each message to the handler that PoisonQueue has written into
	// it. One without is left.
	Service string
	// NewConsumer takes messages for a consumer that nobody knows yet. Else that is an
	// error, so that nothing waits for ever for a name that was misspelt.
	NewConsumer bool
	// Identity and Key are those of the consumer's Dedupe and Parking. Default: the
	// message's UUID, and keys.Default.
	Identity func(msg *message.Message) (string, error)
	Key      keys.Func
	// HoldKeys holds each message's key, as if it had just failed: what comes for it
	// waits. Default false: it failed long ago, and its key has gone on since.
	HoldKeys bool
	// Idle ends the import when nothing new has come for so long. Default 5 s.
	Idle time.Duration
	// Backlog counts what is left for the group, where the broker can. While it says that
	// more is there the import goes on, for Patience (default 1 min) at most.
	Backlog  func(ctx context.Context) (int64, error)
	Patience time.Duration
	// Shared says that each group hears all messages of the topic, so that those of other
	// handlers are passed over for good. Else they are left for others.
	Shared bool
	// Limit ends the import when so many messages are parked. Default 0: none.
	Limit int
	// Each is told of every message, when it has been decided, and Progress of the sums.
	// Optional.
	Each     func(ImportedMessage)
	Progress func(Imported)
}

// Imported are the sums of an import.
type Imported struct {
	// Parked are kept for their consumer from now on.
	Parked int
	// Known are over, or parked already: they were taken off the queue, and not kept again.
	Known int
	// Others are other handlers', passed over.
	Others int
	// Left are still on the queue, and why is told to ImportConfig.Each.
	Left int
	// More says that the broker counts further messages that didn't come in time.
	More int64
}

// ImportOutcome is what became of one message of an import.
type ImportOutcome string

// The outcomes.
const (
	ImportParked ImportOutcome = "parked"
	ImportKnown  ImportOutcome = "known"
	ImportOther  ImportOutcome = "other"
	ImportLeft   ImportOutcome = "left"
)

// ImportedMessage is one message of an import.
type ImportedMessage struct {
	// MessageID is its UUID as it came, which may be "".
	MessageID, Consumer string
	Outcome             ImportOutcome
	// ID is of one that is parked.
	ID int64
	// Verdict is what the inbox says of one that is known.
	Verdict store.Verdict
	// Why says it in words, of one that isn't parked.
	Why string
}

// ErrImport is of an import that can't be meant so.
var ErrImport = errors.New("wrong import")

// Validate says what of it can't be meant so; Import does before anything else.
func (c ImportConfig) Validate() error {
	_, err := c.withDefaults()
	return err
}

func (c ImportConfig) withDefaults() (ImportConfig, error) {
	switch {
	case c.Topic == "":
		return c, fmt.Errorf("parking: %w: it needs a topic or queue", ErrImport)
	case (c.Consumer == "") == (c.Service == ""):
		return c, fmt.Errorf("parking: %w: it needs a consumer (service.handler), or a service, whose handlers the messages name",
			ErrImport)
	case strings.Contains(c.Service, "."):
		return c, fmt.Errorf("parking: %w: service %q has a dot, which parts service and handler", ErrImport, c.Service)
	case c.Idle < 0 || c.Patience < 0 || c.Limit < 0:
		return c, fmt.Errorf("parking: %w: times and limits are not negative", ErrImport)
	}
	if c.Identity == nil {
		c.Identity = func(msg *message.Message) (string, error) { return msg.UUID, nil }
	}
	if c.Key == nil {
		c.Key = keys.Default()
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Second
	}
	if c.Patience == 0 {
		c.Patience = time.Minute
	}
	return c, nil
}

// Import takes over a dead-letter queue, or a topic of Watermill's PoisonQueue: its
// messages are parked for their consumer, where people decide what becomes of them.
// Each is parked in one transaction with its inbox row and its row in the audit, and
// acked after that; so an import that was cut off is run again, and a message that
// comes twice is parked once. What the consumer knows already is acked and not parked.
// What can't be parked is nacked.
//
// It ends when nothing new comes any more, or when ctx ends: the message in hand is
// then finished. Errors match ErrImport, store.ErrNoActor and
// store.ErrUnknownConsumer; any other says that the store or the broker has failed, and
// what was in hand is back on the queue.
func (d *Desk) Import(ctx context.Context, sub message.Subscriber, cfg ImportConfig) (Imported, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Imported{}, err
	}
	if strings.TrimSpace(d.cfg.Actor) == "" {
		return Imported{}, fmt.Errorf("parking: import: %w", store.ErrNoActor)
	}
	im := &importing{d: d, cfg: cfg, left: map[string]bool{}, known: map[string]error{}}
	if cfg.Consumer != "" {
		if err := im.knows(ctx, cfg.Consumer); err != nil {
			return Imported{}, err
		}
	}
	// What is in hand when ctx ends is still answered: only then the subscription ends.
	subCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	messages, err := sub.Subscribe(subCtx, cfg.Topic)
	if err != nil {
		return Imported{}, fmt.Errorf("parking: import: subscribe to %q: %w", cfg.Topic, err)
	}
	err = im.run(ctx, messages)
	end()
	im.giveBack(messages)
	return im.sums, err
}

// importing is one Import.
type importing struct {
	d    *Desk
	cfg  ImportConfig
	sums Imported
	// left are the messages that were nacked, by their content: they come again.
	left map[string]bool
	// known says of consumers whether somebody knows them.
	known map[string]error
}

func (im *importing) run(ctx context.Context, messages <-chan *message.Message) error {
	clock := im.d.cfg.Clock
	last := clock.Now()
	idle := clock.NewTimer(im.cfg.Idle)
	defer idle.Stop()
	for {
		if ctx.Err() != nil { // select would choose among what is ready
			return interrupted(ctx)
		}
		select {
		case <-ctx.Done():
			return interrupted(ctx)
		case msg, ok := <-messages:
			if !ok {
				return fmt.Errorf("parking: import: the subscription to %q has ended", im.cfg.Topic)
			}
			fresh, err := im.take(ctx, msg)
			if err != nil {
				return err
			}
			if im.cfg.Limit > 0 && im.sums.Parked >= im.cfg.Limit {
				return nil
			}
			if fresh {
				last = clock.Now()
				idle.Stop()
				idle = clock.NewTimer(im.cfg.Idle)
			}
		case <-idle.Chan():
			im.count(ctx)
			if im.sums.More == 0 || clock.Since(last) >= im.cfg.Patience {
				return nil
			}
			idle = clock.NewTimer(min(im.cfg.Idle, im.cfg.Patience))
		}
	}
}

// count asks the broker what is there beside what was left.
func (im *importing) count(ctx context.Context) {
	im.sums.More = 0
	if im.cfg.Backlog == nil {
		return
	}
	if n, err := im.cfg.Backlog(ctx); err == nil { // else idleness decides
		im.sums.More = max(n-int64(im.sums.Left), 0)
	}
}

// giveBack nacks what came after the end, until the subscription is over.
func (im *importing) giveBack(messages <-chan *message.Message) {
	const patience = 30 * time.Second // a subscriber that doesn't end is its owner's
	over := im.d.cfg.Clock.NewTimer(patience)
	defer over.Stop()
	for {
		select {
		case msg, ok := <-messages:
			if !ok {
				return
			}
			msg.Nack()
		case <-over.Chan():
			return
		}
	}
}

// take decides about one message, and answers it. fresh is false for one that was left
// before, and has come again.
func (im *importing) take(ctx context.Context, msg *message.Message) (fresh bool, err error) {
	m, err := im.decide(ctx, msg)
	switch {
	case errors.Is(err, store.ErrLockTimeout):
		msg.Nack() // a copy of it is being handled, or imported: it comes again
		return true, nil
	case err != nil:
		msg.Nack()
		return false, err
	}
	if m.Outcome == ImportLeft {
		content := contentOf(msg)
		msg.Nack()
		if im.left[content] {
			return false, nil
		}
		im.left[content] = true
		im.sums.Left++
		im.tell(m)
		return true, nil
	}
	step.Reach(msg.Context(), step.ParkCommitted)
	msg.Ack()
	switch m.Outcome {
	case ImportParked:
		im.sums.Parked++
	case ImportKnown:
		im.sums.Known++
	case ImportOther:
		im.sums.Others++
	case ImportLeft:
	}
	im.tell(m)
	return true, nil
}

func (im *importing) tell(m ImportedMessage) {
	if im.cfg.Each != nil {
		im.cfg.Each(m)
	}
	if im.cfg.Progress != nil {
		im.cfg.Progress(im.sums)
	}
}

// decide parks a message, or says why it doesn't.
func (im *importing) decide(ctx context.Context, msg *message.Message) (ImportedMessage, error) {
	m := ImportedMessage{MessageID: msg.UUID, Consumer: im.cfg.Consumer}
	leave := func(outcome ImportOutcome, why string) (ImportedMessage, error) {
		m.Outcome, m.Why = outcome, why
		return m, nil
	}
	handler := msg.Metadata.Get(poisonedHandler)
	if im.cfg.Service != "" {
		if handler == "" {
			return leave(ImportLeft, "it names no handler ("+poisonedHandler+"): import it for a consumer")
		}
		m.Consumer = im.cfg.Service + "." + handler
		err := im.knows(ctx, m.Consumer)
		if errors.Is(err, store.ErrUnknownConsumer) {
			return leave(ImportLeft, err.Error())
		}
		if err != nil {
			return m, err
		}
	} else if _, own, _ := strings.Cut(im.cfg.Consumer, "."); handler != "" && handler != own && !im.cfg.AnyHandler {
		why := fmt.Sprintf("handler %q has put it aside, not %q", handler, own)
		if im.cfg.Shared {
			return leave(ImportOther, why)
		}
		return leave(ImportLeft, why)
	}
	err := im.park(ctx, msg, &m)
	if errors.Is(err, store.ErrContent) {
		return leave(ImportLeft, err.Error())
	}
	if err != nil {
		return m, fmt.Errorf("parking: import message %q: %w", store.Identity(msg.UUID), err)
	}
	return m, nil
}

// knows makes sure that somebody knows a consumer.
func (im *importing) knows(ctx context.Context, consumer string) error {
	if im.cfg.NewConsumer {
		return nil
	}
	err, asked := im.known[consumer]
	if !asked {
		err = im.d.st.CheckConsumer(ctx, consumer)
		if err == nil || errors.Is(err, store.ErrUnknownConsumer) {
			im.known[consumer] = err
		}
	}
	return err
}

// park keeps a message, unless its consumer knows it.
func (im *importing) park(ctx context.Context, msg *message.Message, m *ImportedMessage) error {
	row := im.row(m.Consumer, msg)
	about := store.About{Consumer: m.Consumer, MessageID: row.InboxID}
	if row.Key != "" {
		about.Keys = []string{row.Key}
	}
	// A message in hand is finished when the import is to end.
	ctx, cancel := context.WithTimeout(store.WithAbout(context.WithoutCancel(ctx), about), importTimeout)
	defer cancel()
	return im.d.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		row := row
		id, existing, parked, err := im.d.st.Park(ctx, tx, row, nil)
		if err == nil && !parked && !existing.SameContent(row.Fingerprint) {
			row = secondUnder(row)
			id, existing, parked, err = im.d.st.Park(ctx, tx, row, nil)
		}
		if err != nil {
			return err
		}
		m.ID, m.Verdict, m.Why = id, existing.Verdict, ""
		if !parked {
			m.Outcome, m.Why = ImportKnown, knownWords(existing)
			return im.d.st.LogVerdict(ctx, tx, store.VerdictLogRow{
				Consumer: row.Consumer, MessageID: row.InboxID, Verdict: store.Duplicate,
				Reason: fmt.Sprintf("it was imported from %q, and %s", im.cfg.Topic, m.Why),
			})
		}
		m.Outcome = ImportParked
		row.ID = id
		err = im.d.sign(ctx, tx, row, actionImport, "", map[string]any{
			"after": row.Status, "topic": im.cfg.Topic, "from": im.cfg.From, "holds_key": im.cfg.HoldKeys && row.Key != "",
		})
		step.Reach(msg.Context(), step.ParkWritten)
		return err
	})
}

// importTimeout bounds one message's transaction, its waits for locks included.
const importTimeout = time.Minute

func knownWords(existing store.InboxRow) string {
	if existing.Verdict.Open() {
		return fmt.Sprintf("the consumer keeps it already (%s)", existing.Verdict)
	}
	return fmt.Sprintf("it is over at the consumer (%s)", existing.Verdict)
}

// secondUnder is another message under an id that is taken: it is kept apart from the
// first, as middleware.Parking does.
func secondUnder(row store.ParkedRow) store.ParkedRow {
	const enough = 8 // bytes of the hash
	row.InboxID += "~" + hex.EncodeToString(row.Fingerprint[:enough])
	row.Line = store.MessageLine(row.Consumer, row.InboxID).Line
	return row
}

// newID is for messages that nothing tells from others.
func newID() string { return "noid-" + watermill.NewUUID() }

func fingerprintOf(msg *message.Message) []byte {
	sum := sha256.Sum256(msg.Payload)
	return sum[:]
}
