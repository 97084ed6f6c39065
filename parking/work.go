package parking

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// work is a claimed line in the hands of one goroutine, which gives the handler one
// message after another.
type work struct {
	sub   *subscription
	claim store.Claim
	// gone is how many messages have left the line since the gate was told.
	gone   atomic.Int64
	paused atomic.Bool

	loseOnce sync.Once
	lost     chan struct{}
	done     chan struct{}
}

func (w *work) lose() { w.loseOnce.Do(func() { close(w.lost) }) }

// What is read ahead of a line at once, and when a line gives way to others.
const (
	readAhead      = 50
	readAheadBytes = 4 << 20
	yieldMessages  = 500
	yieldAfter     = 5 * time.Second
)

// outcome is what has become of a message that was given to the handler.
type outcome int

const (
	// handled: it is final, and the next one's turn.
	handled outcome = iota
	// putBack: what has failed is recorded, and the claim given back with it.
	putBack
	// givenBack: nothing is recorded, the claim is to be given back.
	givenBack
	// notCounted is givenBack after something that says nothing of the message, but may
	// happen again at once.
	notCounted
	// lost: somebody else has the line.
	lost
)

func (w *work) run() {
	s := w.sub
	step.Reach(s.hands, step.ClaimTaken)
	ended := w.drain()
	if ended == notCounted {
		s.sleep(s.cfg.MaxPollInterval)
	}
	if ended == lost || ended == putBack {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.hands), s.cfg.ClaimTTL)
	defer cancel()
	claim := w.claim // a renewal may read it
	claim.Gone = w.gone.Swap(0)
	opened, err := s.store.EndClaim(ctx, claim)
	if err != nil {
		s.cfg.Logger.Error("Giving a line back failed: it waits until its claim is over", err, w.fields(nil))
		return
	}
	if opened {
		step.Reach(s.hands, step.LineOpened)
	}
}

func (w *work) fields(row *store.ParkedRow) watermill.LogFields {
	fields := watermill.LogFields{"consumer": w.sub.cfg.Consumer}
	if w.claim.Key != "" {
		fields["keys"] = w.claim.Key
	}
	if row != nil {
		fields["message_id"], fields["parked_id"] = row.MessageID, row.ID
	}
	return fields
}

// drain works the line until there is nothing to do, or no more to be done now.
func (w *work) drain() outcome {
	s := w.sub
	began, n := s.cfg.Clock.Now(), 0
	for last := int64(0); ; {
		rows, err := s.store.ReadLine(s.stop, w.claim, last, readAhead, readAheadBytes)
		if err != nil {
			s.told("Reading a line of kept messages failed, trying again", err)
			return notCounted
		}
		if len(rows) == 0 {
			return givenBack
		}
		read := s.cfg.Clock.Now()
		for i := range rows {
			row := &rows[i]
			if !w.ready(row, s.cfg.Clock.Since(read)) {
				return givenBack
			}
			if got, ended := w.refuse(row, n == 0); ended {
				return got
			}
			if got := w.handle(row); got != handled {
				return got
			}
			last = row.ID
			n++
			w.gone.Add(1)
			full := s.inHand() >= s.cfg.Concurrency
			if full && (n >= yieldMessages || s.cfg.Clock.Since(began) >= yieldAfter) {
				return givenBack // the line is due at once, behind others
			}
		}
	}
}

// ready reports whether it is the message's turn now.
func (w *work) ready(row *store.ParkedRow, age time.Duration) bool {
	switch row.Status {
	case store.StatusWaiting, store.StatusReleased:
	case store.StatusDelayed, store.StatusGap:
		if row.DueIn > age {
			return false
		}
	case store.StatusParked, store.StatusReview, store.StatusDone, store.StatusDiscarded, store.StatusExpired:
		return false
	}
	select {
	case <-w.lost:
		return false
	default:
	}
	return !w.paused.Load() && w.sub.turn()
}

// refuse keeps a message for a person that must not be handled again, or can't be.
func (w *work) refuse(row *store.ParkedRow, first bool) (got outcome, ended bool) {
	var reason string
	switch {
	case first && w.claim.Stalls >= w.sub.cfg.MaxStalls:
		reason = fmt.Sprintf("the process ended each of the last %d times that it was handled", w.claim.Stalls)
	case row.Problem != nil:
		reason = "it can't be read: " + row.Problem.Error()
	default:
		return handled, false
	}
	w.sub.cfg.Logger.Error("A kept message waits for a person", errors.New(reason), w.fields(row))
	return w.fail(row, reason), true
}

// fail records a failure that no handler has reported.
func (w *work) fail(row *store.ParkedRow, reason string) outcome {
	s := w.sub
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.hands), s.cfg.ClaimTTL)
	defer cancel()
	cause := errors.New(reason)
	failure := store.Failure{
		Status: store.StatusParked, Class: string(Unknown), Reason: reason, Chain: Chain(cause),
		Attempt: store.AttemptRecord{At: s.cfg.Clock.Now(), Class: string(Unknown), Error: reason},
	}
	failure.ErrorType, failure.ErrorGroup, failure.ErrorTitle = Group(s.cfg.Consumer, Unknown, cause)
	err := s.store.FailParked(ctx, w.ref(row), failure)
	switch {
	case err == nil:
		return putBack
	case errors.Is(err, store.ErrClaimLost):
		return lost
	case errors.Is(err, store.ErrParkedChanged):
		return givenBack
	}
	s.cfg.Logger.Error("Keeping a message for a person failed, trying again", err, w.fields(row))
	return notCounted
}

func (w *work) ref(row *store.ParkedRow) store.HeldRef {
	return store.HeldRef{
		Claim: w.claim, ID: row.ID, InboxID: row.InboxID, Edits: row.Edits, Status: row.Status, Left: &w.gone,
	}
}

// handle gives a message to the handler and waits for what becomes of it.
func (w *work) handle(row *store.ParkedRow) outcome {
	s := w.sub
	ctx, cancel := context.WithCancel(s.hands)
	defer cancel()
	ticket := NewReentry(w.ref(row), *row, rebuild(row.MessageID, row.Payload, row.Metadata))
	payload, metadata := row.Handled()
	msg := rebuild(row.MessageID, payload, metadata)
	msgmeta.SetAttempt(msg, int64(row.Attempts)+1)
	msg.SetContext(WithTicket(ctx, ticket))
	select {
	case s.out <- msg:
	case <-s.stop.Done():
		return givenBack
	case <-w.lost:
		return lost
	}
	step.Reach(s.hands, step.ReentrySent)
	got := w.await(msg, ticket, row)
	step.Reach(s.hands, step.ReentryFinished)
	return got
}

// rebuild is a message as it came, on bytes of its own.
func rebuild(id string, payload []byte, metadata map[string]string) *message.Message {
	msg := message.NewMessage(id, bytes.Clone(payload))
	for name, value := range metadata {
		msg.Metadata.Set(name, value)
	}
	return msg
}

// reachTimeout is how long after its ack a message has to reach Parking.
const reachTimeout = time.Second

// await waits for the outcome that Parking tells. An ack alone says nothing: it may
// have come early.
func (w *work) await(msg *message.Message, ticket *Ticket, row *store.ParkedRow) outcome {
	acked := msg.Acked()
	var late <-chan time.Time
	for {
		select {
		case <-ticket.Finished():
			return w.finished(ticket, row)
		case <-msg.Nacked():
			select {
			case <-ticket.Finished():
				return w.finished(ticket, row)
			default:
			}
			return notCounted
		case <-acked:
			acked = nil
			timer := w.sub.cfg.Clock.NewTimer(reachTimeout)
			defer timer.Stop()
			late = timer.Chan()
		case <-late:
			late = nil
			if !ticket.Entered() && !ticket.Taken() {
				return w.fail(row, "it was acked without reaching Parking: is the middleware on this handler?")
			}
		case <-w.lost:
			return lost
		case <-w.sub.hands.Done():
			return givenBack
		}
	}
}

// finished does what is left to do behind the handler.
func (w *work) finished(ticket *Ticket, row *store.ParkedRow) outcome {
	err := ticket.Outcome()
	if err == nil && !ticket.Taken() {
		err = w.finish(row)
	}
	switch {
	case err == nil:
		return handled
	case errors.Is(err, ErrPutBack):
		return putBack
	case errors.Is(err, store.ErrClaimLost):
		return lost
	case errors.Is(err, store.ErrLinePaused), errors.Is(err, store.ErrParkedChanged):
		return givenBack
	}
	w.sub.cfg.Logger.Info("A kept message is handled again later: this time doesn't count",
		w.fields(row).Add(watermill.LogFields{"cause": err.Error()}))
	return notCounted
}

// finish ends a message whose handler no Dedupe guards: behind its own work, so that
// it is handled again when the process ends in between.
func (w *work) finish(row *store.ParkedRow) error {
	s := w.sub
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.hands), s.cfg.ClaimTTL)
	defer cancel()
	return s.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		return s.store.FinishParked(ctx, tx, w.ref(row), store.Applied, "", row.Tried(), row.Attempts+1)
	})
}
