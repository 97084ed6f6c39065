package middleware

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// keep writes down that the message has failed. Its error says that this failed too:
// nothing may be acked then. Of one that comes back the outcome is ErrPutBack.
func (d *held) keep(failure error) error {
	step.Reach(d.outer, step.ParkDecided)
	f := d.decide(failure)
	for {
		err := d.write(f, failure)
		if err == nil {
			break
		}
		if errors.Is(err, errGapClosed) {
			f.Status, f.DueIn, f.Before = store.StatusGap, 0, nil
			continue
		}
		if errors.Is(err, parking.ErrPutBack) || d.p.leaves(d, err) || d.p.cfg.Valve.Open(d.outer) {
			return fmt.Errorf("middleware: park message %q: %w", d.ticket.InboxID(), err)
		}
		if err := d.wait(); err != nil {
			return err
		}
	}
	if d.again {
		return parking.ErrPutBack
	}
	return nil
}

// decide says what is to become of the message.
func (d *held) decide(failure error) store.Failure {
	var gap *GapError
	if errors.As(failure, &gap) {
		return gap.failure()
	}
	consumer, class := d.ticket.Line().Consumer, d.p.classify(failure)
	f := store.Failure{Class: string(class), Reason: failure.Error(), Chain: parking.Chain(failure), Status: store.StatusParked}
	f.ErrorType, f.ErrorGroup, f.ErrorTitle = parking.Group(consumer, class, failure)
	if n := len(d.history); n > 0 {
		f.Attempt = d.history[n-1]
	}
	used := d.ticket.Row().Tries
	switch {
	case class == parking.Conflict:
		f.Status = store.StatusReview
		f.Subject, f.Diff = parking.ReviewOf(failure)
	case class != parking.Permanent && used < len(d.p.cfg.Delays):
		f.Status, f.DueIn = store.StatusDelayed, d.p.delay(used, failure)
	}
	return f
}

// delay is how long to wait before the next try: the policy's, or what the error asks
// for, within reason.
func (p *Parking) delay(used int, failure error) time.Duration {
	const (
		spread   = 0.2
		patience = 10 // times the longest delay
	)
	due := time.Duration(float64(p.cfg.Delays[used]) * (1 + spread*(2*rand.Float64()-1)))
	asked, ok := parking.RetryAfter(failure)
	if !ok {
		return due
	}
	longest := p.cfg.Delays[len(p.cfg.Delays)-1] * patience
	return max(due, min(asked, max(longest, time.Minute)))
}

func (d *held) write(f store.Failure, failure error) error {
	ctx, cancel := d.writing()
	defer cancel()
	if d.p.cfg.OnConflict != nil && f.Status == store.StatusReview {
		f.Before = func(ctx context.Context, tx store.Tx) error { return d.p.cfg.OnConflict(ctx, tx, d.msg, failure) }
	}
	if ref, again := d.ticket.Reentry(); again {
		if err := d.p.store.FailParked(ctx, ref, f); err != nil {
			return err
		}
		d.tell(f, failure)
		return nil
	}
	row := d.row(f, failure)
	kept := false
	var twice *FingerprintError
	err := d.p.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, existing, parked, err := d.p.store.Park(ctx, tx, row, f.Before)
		if err != nil {
			return err
		}
		if kept = parked; parked {
			step.Reach(ctx, step.ParkWritten)
			return nil
		}
		if twice = nil; !existing.SameContent(row.Fingerprint) && !errors.Is(failure, ErrFingerprint) {
			twice = &FingerprintError{Consumer: row.Consumer, ID: row.InboxID, Fingerprint: row.Fingerprint}
			return nil
		}
		return d.p.store.LogVerdict(ctx, tx, store.VerdictLogRow{
			Consumer: row.Consumer, MessageID: row.InboxID, Verdict: store.Duplicate,
			Reason: fmt.Sprintf("another delivery is %s; this one failed: %s", existing.Verdict, f.Reason),
		})
	})
	if err != nil {
		return err
	}
	if twice != nil { // another message has taken its id since it was handled
		return d.write(d.decide(twice), twice)
	}
	step.Reach(d.outer, step.ParkCommitted)
	if kept {
		d.tell(f, failure)
	}
	return nil
}

// row is the message as it is kept, when it has just arrived.
func (d *held) row(f store.Failure, failure error) store.ParkedRow {
	row := d.ticket.Kept()
	row.Status, row.DueIn, row.Class, row.Reason, row.Chain = f.Status, f.DueIn, f.Class, f.Reason, f.Chain
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = f.ErrorType, f.ErrorGroup, f.ErrorTitle
	row.Subject, row.Diff, row.History, row.Attempts = f.Subject, f.Diff, d.history, len(d.history)
	if f.Status == store.StatusDelayed {
		row.Tries = 1 // it has used a delay
	}
	if row.Gap = f.Gap; f.Gap != nil { // what it waits for is of its key
		row.Line = store.MessageLine(row.Consumer, row.InboxID).Line
	}
	var twice *FingerprintError
	if errors.As(failure, &twice) {
		// It is another message under an id that is taken, and holds up nobody.
		const enough = 8 // bytes of the hash
		row.InboxID = twice.ID + "~" + hex.EncodeToString(twice.Fingerprint[:enough])
		row.Line = store.MessageLine(row.Consumer, row.InboxID).Line
		row.Fingerprint = twice.Fingerprint
	}
	return row
}

// writing is the context in which the message's fate is written, whatever happens to
// its own.
func (d *held) writing() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(d.about(d.outer)), writeTimeout)
}

func (d *held) about(ctx context.Context) context.Context {
	line := d.ticket.Line()
	about := store.About{Consumer: line.Consumer, MessageID: d.ticket.InboxID()}
	if line.Key != "" {
		about.Keys = []string{line.Key}
	}
	return store.WithAbout(ctx, about)
}

func (d *held) fields() watermill.LogFields {
	line := d.ticket.Line()
	return watermill.LogFields{"consumer": line.Consumer, "message_id": d.ticket.InboxID(), "key": line.Key}
}

// tell logs what was put aside and gives it to the hooks.
func (d *held) tell(f store.Failure, failure error) {
	line, attempts := d.ticket.Line(), d.ticket.Row().Attempts+max(len(d.history), 1)
	fields := d.fields().Add(watermill.LogFields{"status": f.Status, "class": f.Class, "attempts": attempts})
	switch f.Status {
	case store.StatusDelayed:
		fields["due_in"] = f.DueIn
		d.p.cfg.Logger.Info("A message has failed and is tried again later", fields.Add(watermill.LogFields{"err": f.Reason}))
	case store.StatusGap:
		d.p.cfg.Logger.Debug("A message waits for what is missing before it", fields.Add(watermill.LogFields{"at_most": f.DueIn}))
	case store.StatusReview:
		d.p.cfg.Logger.Error("A message waits for a person's decision: see `headrace review ls`", failure, fields)
	default:
		d.p.cfg.Logger.Error("A message has failed and waits for a person: see `headrace parked ls`", failure, fields)
	}
	for _, hook := range d.p.hooks {
		hook.OnPark(ParkEvent{
			Consumer: line.Consumer, MessageID: d.ticket.InboxID(), Key: line.Key, Status: f.Status,
			Class: parking.Class(f.Class), DueIn: f.DueIn, Attempts: attempts, Again: d.again, Err: failure,
		})
	}
}
