package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Baseline says what a consumer takes for granted of a key that it has had nothing of.
type Baseline int

const (
	// FirstSeen takes the first message that comes for the first of them, for a consumer that
	// joins in later. What comes late of before it is handled, and only Dedupe tells it from
	// duplicates.
	FirstSeen Baseline = iota
	// FromOne waits for all, from 1.
	FromOne
)

// SequenceConfig says what is done about gaps. Its zero value is usable inside of Dedupe.
type SequenceConfig struct {
	// Consumer is whose positions they are. Default: behind Dedupe its consumer. Required
	// where there is none.
	Consumer string
	// Gaps are the steps that are taken, one after the other, when something before a
	// message is missing. Default: GapWait of a minute, then GapPark. Behind the last
	// GapWait or GapFetch GapPark follows.
	Gaps []GapStep
	// Fetch asks for the state that a message and all before it have led to, for GapFetch. It
	// is called outside of any transaction.
	Fetch func(ctx context.Context, msg *message.Message, gap *GapError) (Snapshot, error)
	// Baseline of keys that are new to the consumer. Default FirstSeen.
	Baseline Baseline
	// Window is how far above what is missing numbers can be remembered, for GapAlert: a
	// position keeps a bit of each. Default 1024, at most store.MaxAhead.
	Window int
	// GiveUp has a number beyond the Window handled all the same, by giving up what is
	// missing so far below it. Default false: the message is parked.
	GiveUp bool
	// Outbox takes the messages that handlers return where there is no Dedupe, which has one
	// of its own.
	Outbox Outbox
	// Observe lets everything through, and only records what it would have skipped or held
	// back. What is handled while observing counts when Observe is turned off later.
	Observe bool

	// Logger gets duplicates (debug), what is given up and gaps that are passed over (error).
	// Default: none.
	Logger watermill.LoggerAdapter
	// Hooks that implement GapHook are told of gaps, and those that implement VerdictHook of
	// what is skipped where no Dedupe tells them.
	Hooks []any
}

// GapHook is told of every gap that a message was found behind. It must not block.
type GapHook interface {
	OnGap(event GapEvent)
}

// GapEvent is a gap, and what is done about it.
type GapEvent struct {
	// Consumer and MessageID say which message has come.
	Consumer, MessageID string
	// Stream and Key have the messages From to To missing before Sequence.
	Stream, Key        string
	From, To, Sequence int64
	// Step is "wait", "fetch", "park", "skip" or "alert".
	Step     string
	Observed bool
}

// Sequence tells, by the numbers that an outbox gives (forwarder.OutboxConfig.Sequences),
// what a consumer has had of each key and what is missing. It remembers a mark per key
// instead of every message, and so needs no purge: a copy is known however late it comes.
// The position, the handler's writes and, inside of Dedupe, its verdict are one
// transaction; messages of a key are handled one after the other.
//
// Inside of Dedupe a message without a number is handled as if there was no Sequence.
// Without Dedupe it is refused, and Parking, if there is one, doesn't know what was kept:
// put Dedupe between them. It is safe for concurrent use, and one serves all handlers.
type Sequence struct {
	store    *store.Store
	cfg      SequenceConfig
	hooks    []GapHook
	verdicts []VerdictHook
}

// NewSequence returns the middleware. Errors are those of the configuration.
func NewSequence(st *store.Store, cfg SequenceConfig) (*Sequence, error) {
	if st == nil {
		return nil, errors.New("middleware: NewSequence needs a store")
	}
	if cfg.Gaps == nil {
		cfg.Gaps = []GapStep{GapWait(defaultGapWait)}
	}
	if err := checkGaps(cfg.Gaps, cfg.Fetch != nil); err != nil {
		return nil, err
	}
	const window = 1024
	cfg.Window = orDefault(cfg.Window, window)
	switch {
	case cfg.Window < 1 || cfg.Window > store.MaxAhead:
		return nil, fmt.Errorf("middleware: SequenceConfig.Window must be between 1 and %d", store.MaxAhead)
	case cfg.Baseline != FirstSeen && cfg.Baseline != FromOne:
		return nil, errors.New("middleware: SequenceConfig.Baseline is FirstSeen or FromOne")
	}
	if cfg.Logger == nil {
		cfg.Logger = watermill.NopLogger{}
	}
	return &Sequence{
		store: st, cfg: cfg, hooks: store.HooksOf[GapHook](cfg.Hooks), verdicts: store.HooksOf[VerdictHook](cfg.Hooks),
	}, nil
}

// Middleware protects what h writes.
func (s *Sequence) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d, err := s.numbered(msg)
		switch {
		case err != nil:
			return nil, err
		case d == nil:
			return h(msg)
		case s.cfg.Observe:
			return d.observe(h)
		}
		outer := msg.Context()
		defer func() { msg.SetContext(outer) }()
		var produced []*message.Message
		err = s.store.InTx(d.about(outer), func(ctx context.Context, tx store.Tx) (err error) {
			d.ruled, d.told = ruling.Ruling{}, nil
			produced, err = d.handle(ctx, tx, h)
			return err
		})
		d.tell(err)
		return produced, err
	}
}

// numbered is one delivery of a message that has a number.
type numbered struct {
	seq      *Sequence
	msg      *message.Message
	number   msgmeta.Number
	consumer string
	id       string
	// inside: a Dedupe is in front, and publishes what the handler returns.
	inside bool
	began  time.Time

	// ruled and told are of the last try of the transaction.
	ruled ruling.Ruling
	told  *GapError
}

// numbered is nil for a message that isn't Sequence's.
func (s *Sequence) numbered(msg *message.Message) (*numbered, error) {
	ctx := msg.Context()
	d := &numbered{seq: s, msg: msg, consumer: s.cfg.Consumer, id: msg.UUID, began: time.Now()}
	about := store.AboutFromContext(ctx)
	if s.store.UnitFromContext(ctx) != nil && about.Consumer != "" {
		d.inside, d.id = true, about.MessageID
		if d.consumer == "" {
			d.consumer = about.Consumer
		}
	}
	number, ok, err := msgmeta.GetNumber(msg)
	switch {
	case err != nil:
		return nil, parking.AsPermanent(fmt.Errorf("middleware: Sequence: %w: %w", ErrNoSequence, err))
	case !ok && d.inside, !ok && s.cfg.Observe:
		return nil, nil //nolint:nilnil // as said
	case !ok:
		return nil, parking.AsPermanent(fmt.Errorf("middleware: Sequence: %w: its producer's outbox gives none "+
			"(forwarder.OutboxConfig.Sequences), or it has no key; put a Dedupe in front for such messages", ErrNoSequence))
	case d.consumer == "":
		return nil, errors.New("middleware: Sequence knows no consumer: put it inside of Dedupe, or set SequenceConfig.Consumer")
	}
	d.number = number
	return d, nil
}

func (d *numbered) place() store.Place {
	return store.Place{Consumer: d.consumer, Stream: d.number.Producer, Key: d.number.Key, Epoch: d.number.Epoch}
}

func (d *numbered) about(ctx context.Context) context.Context {
	if d.seq.store.UnitFromContext(ctx) != nil {
		return ctx
	}
	about := store.About{Consumer: d.consumer, MessageID: d.id}
	if d.number.Key != "" {
		about.Keys = []string{d.number.Key}
	}
	return store.WithAbout(ctx, about)
}

// tell tells of what was committed, and of gaps that the message is held back behind.
func (d *numbered) tell(err error) {
	s, gap := d.seq, d.told
	var held *GapError
	if errors.As(err, &held) {
		gap = held
	} else if err != nil {
		return
	}
	if gap != nil {
		d.tellGap(gap, false)
	}
	if err != nil || d.ruled.Verdict == "" || d.inside {
		return
	}
	s.cfg.Logger.Debug("Skipped a message that was handled before", watermill.LogFields{
		"consumer": d.consumer, "message_id": d.id, "verdict": d.ruled.Verdict,
	})
	d.tellVerdict(store.Verdict(d.ruled.Verdict), false)
}

func (d *numbered) tellVerdict(verdict store.Verdict, observed bool) {
	for _, hook := range d.seq.verdicts {
		hook.OnVerdict(Verdict{
			Consumer: d.consumer, MessageID: d.id, Topic: message.SubscribeTopicFromCtx(d.msg.Context()),
			Verdict: verdict, Observed: observed, Took: time.Since(d.began),
		})
	}
}

func (d *numbered) tellGap(gap *GapError, observed bool) {
	for _, hook := range d.seq.hooks {
		hook.OnGap(GapEvent{
			Consumer: d.consumer, MessageID: d.id, Stream: gap.Stream, Key: gap.Key,
			From: gap.From, To: gap.To, Sequence: gap.Sequence, Step: string(gap.action), Observed: observed,
		})
	}
	fields := gap.fields().Add(watermill.LogFields{"message_id": d.id, "step": gap.action})
	switch gap.action {
	case gapSkip:
		d.seq.cfg.Logger.Error("Messages that are missing are given up", gap, fields)
	case gapAlert:
		d.seq.cfg.Logger.Error("A message is handled before others that are missing", gap, fields)
	case gapWait, gapFetch, gapPark:
		d.seq.cfg.Logger.Debug("Messages are missing before one", fields)
	}
}

func (e *GapError) fields() watermill.LogFields {
	return watermill.LogFields{
		"consumer": e.place.Consumer, "stream": e.Stream, "key": e.Key, "missing_from": e.From, "missing_to": e.To,
		"sequence": e.Sequence,
	}
}
