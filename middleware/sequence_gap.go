package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Errors of Sequence.
var (
	// ErrGap matches GapError.
	ErrGap = errors.New("something before the message is missing")
	// ErrNoSequence says that a message has no number, or one that can't be read. It is
	// permanent for Parking.
	ErrNoSequence = errors.New("message has no number within its key")
)

// GapStep is what is done about a gap: GapWait, GapFetch, GapPark, GapSkip and GapAlert
// make one.
type GapStep struct {
	action gapAction
	wait   time.Duration
}

type gapAction string

const (
	gapWait  gapAction = "wait"
	gapFetch gapAction = "fetch"
	gapPark  gapAction = "park"
	gapSkip  gapAction = "skip"
	gapAlert gapAction = "alert"
)

// GapWait has Parking keep the message until what is missing has come, or the time is
// over. Where there is no Parking in front the message is nacked until then.
func GapWait(atMost time.Duration) GapStep { return GapStep{action: gapWait, wait: atMost} }

// GapFetch has the handler take a snapshot (SequenceConfig.Fetch) in place of the message
// and of all before it. It needs Sequence.FetchMiddleware outside of Dedupe. When the
// snapshot can't be had the next step follows.
func GapFetch() GapStep { return GapStep{action: gapFetch} }

// GapPark has Parking keep the message for a person. It is handled all the same when what
// is missing comes first; and when it is released, which gives up what is missing.
func GapPark() GapStep { return GapStep{action: gapPark} }

// GapSkip gives up what is missing, and handles the message: what comes late is taken for
// a duplicate.
func GapSkip() GapStep { return GapStep{action: gapSkip} }

// GapAlert handles the message at once, and what is missing when it comes: for messages
// that need no order. It is logged as an error.
func GapAlert() GapStep { return GapStep{action: gapAlert} }

// defaultGapWait outlasts a failover of brokers and of the outbox's relay.
const defaultGapWait = time.Minute

func checkGaps(steps []GapStep, fetch bool) error {
	for i, step := range steps {
		last := i == len(steps)-1
		switch {
		case step.action == "":
			return errors.New("middleware: SequenceConfig.Gaps has a step that is none: GapWait and others make them")
		case step.action == gapWait && step.wait <= 0:
			return errors.New("middleware: SequenceConfig.Gaps: GapWait needs a time")
		case step.action == gapFetch && !fetch:
			return errors.New("middleware: SequenceConfig.Gaps has GapFetch: set SequenceConfig.Fetch")
		case !last && step.action != gapWait && step.action != gapFetch:
			return fmt.Errorf("middleware: SequenceConfig.Gaps: nothing comes after %q", step.action)
		}
	}
	return nil
}

// GapError says that messages of a key are missing before one. It matches ErrGap.
type GapError struct {
	// Stream and Key have the messages From to To missing before Sequence.
	Stream, Key        string
	From, To, Sequence int64

	action gapAction
	due    time.Duration
	place  store.Place
	store  *store.Store
}

func (e *GapError) Error() string {
	text := fmt.Sprintf("%v: number %d of key %q of %s came, and %d to %d are missing",
		ErrGap, e.Sequence, e.Key, e.Stream, e.From, e.To)
	if e.action == gapPark {
		text += "; it is handled when they come, and released it is handled without them"
	}
	return text
}

// Is matches ErrGap.
func (e *GapError) Is(target error) bool { return target == ErrGap }

// errGapClosed says that what was missing has come meanwhile.
var errGapClosed = errors.New("what was missing has come")

// classGap is the class of what Parking keeps because of a gap.
const classGap parking.Class = "gap"

// failure is how Parking is to keep the message.
func (e *GapError) failure() store.Failure {
	f := store.Failure{
		Class: string(classGap), Reason: e.Error(), Chain: parking.Chain(e), Status: store.StatusParked,
		Gap: &store.GapRef{Place: e.place, Sequence: e.Sequence}, Before: e.wait,
	}
	if e.action == gapWait {
		f.Status, f.DueIn = store.StatusGap, e.due
	}
	return f
}

// wait says, in the transaction that keeps the message, that it waits: whoever does what is
// missing wakes it. It looks again whether that was done since.
func (e *GapError) wait(ctx context.Context, tx store.Tx) error {
	p, err := e.store.LockPosition(ctx, tx, e.place)
	if err != nil {
		return err
	}
	if p.Fresh() { // its judgement was rolled back; the next one makes it anew
		p.Start(e.From - 1)
	}
	if e.Sequence <= p.Mark+1 || p.Has(e.Sequence) {
		return errGapClosed
	}
	p.Waiting = true
	return e.store.KeepWaiting(ctx, tx, p)
}

// Snapshot is how things are as of a number.
type Snapshot struct {
	// Sequence is the last number whose change is in it, if its source knows: those up to
	// there aren't handled any more. 0 is the number of the message that it was asked for.
	Sequence int64
	// Value is for the handler.
	Value any
}

type snapshotKey struct{}

// snapshots is where FetchMiddleware puts what it has fetched for a delivery.
type snapshots struct {
	by    *Sequence
	got   *Snapshot
	tried bool
}

// SnapshotFrom returns what the handler is to take in place of the context's message and
// of those missing before it; ok is false for a message that is to be handled as it is.
func SnapshotFrom(ctx context.Context) (s Snapshot, ok bool) {
	taken, ok := ctx.Value(takenKey{}).(Snapshot)
	return taken, ok
}

type takenKey struct{}

// FetchMiddleware is for GapFetch: it asks for the snapshot, outside of any transaction,
// and has the message handled again with it. It belongs outside of Dedupe, and inside of
// Parking.
func (s *Sequence) FetchMiddleware(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		outer := msg.Context()
		defer func() { msg.SetContext(outer) }()
		room := &snapshots{by: s}
		msg.SetContext(context.WithValue(outer, snapshotKey{}, room))
		produced, err := h(msg)
		var gap *GapError
		if !errors.As(err, &gap) || gap.action != gapFetch || s.cfg.Fetch == nil {
			return produced, err
		}
		msg.SetContext(outer)
		if s.store.UnitFromContext(outer) != nil {
			return nil, ErrFetchInUnit
		}
		room.tried = true
		got, failed := s.cfg.Fetch(outer, msg, gap)
		if failed == nil {
			room.got = &got
		} else {
			s.cfg.Logger.Error("The snapshot that closes a gap can't be had", failed, gap.fields())
		}
		msg.SetContext(context.WithValue(outer, snapshotKey{}, room))
		return h(msg)
	}
}
