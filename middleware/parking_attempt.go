package middleware

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"runtime/debug"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/hold"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// handle runs the handler, as often as may help at once, and keeps the message when
// it fails. The router acks what was kept.
func (d *held) handle(h message.HandlerFunc) ([]*message.Message, error) {
	if d.problem != nil {
		return nil, d.keep(d.problem)
	}
	if aside, err := d.setAside(); aside || err != nil {
		return nil, err
	}
	run := func() ([]*message.Message, error) { return d.run(h) }
	var (
		produced []*message.Message
		err      error
	)
	if d.again || d.joined() != nil { // the delays are its policy; and a pause would hold the broker's transaction open
		produced, err = run()
	} else {
		produced, err = d.p.immediate.WithContext(d.outer).Get(run)
	}
	if err == nil {
		d.warn()
		return produced, nil
	}
	var again *tryAgainError
	if errors.As(err, &again) {
		err = again.error
	}
	if d.p.leaves(d, err) {
		return nil, err
	}
	return nil, d.keep(err)
}

// setAside does what Dedupe does for messages behind it, where there is none: a
// message that was kept before is acked, and one whose line is held lines up.
func (d *held) setAside() (aside bool, err error) {
	if !d.p.cfg.WithoutDedupe {
		return false, nil
	}
	if ref, again := d.ticket.Reentry(); again { // it may have been read long ago
		open, err := d.p.store.LookAgain(d.outer, ref)
		return err == nil && !open, err
	}
	line, id := d.ticket.Line(), d.ticket.InboxID()
	_, known, lineHeld, err := d.p.store.Look(d.outer, line.Consumer, id, line)
	if err != nil || known || !lineHeld {
		return known, err
	}
	err = d.p.store.InTx(d.about(d.outer), func(ctx context.Context, tx store.Tx) error {
		row := store.InboxRow{Consumer: line.Consumer, MessageID: id, Verdict: store.Applied}
		admission, _, err := d.p.store.Admit(ctx, row, line)
		switch {
		case err != nil:
			return err
		case admission == store.Admitted: // its row must not stay
			return errFree
		case admission == store.Known:
			return nil
		}
		_, err = d.ticket.LineUp(ctx, d.p.store, tx)
		return err
	})
	if errors.Is(err, errFree) {
		return false, nil
	}
	return err == nil, err
}

var errFree = errors.New("the line is free")

// warn says once that the Dedupe is missing which was to be there.
func (d *held) warn() {
	if d.p.cfg.WithoutDedupe || d.ticket.Taken() {
		return
	}
	d.p.unguarded.Do(func() {
		d.p.cfg.Logger.Error("Messages that line up behind a parked one are handled out of order", errUnguarded, d.fields())
	})
}

var errUnguarded = errors.New("there is no Dedupe of the same service behind Parking: " +
	"add one, or set ParkingConfig.WithoutDedupe")

// tryAgainError is a failure that another run may mend at once.
type tryAgainError struct{ error }

func (e *tryAgainError) Unwrap() error { return e.error }

// run is one attempt. While the store isn't there it counts for nothing, and is made
// again.
func (d *held) run(h message.HandlerFunc) ([]*message.Message, error) {
	for {
		began := time.Now()
		produced, err := d.attempt(h)
		if err == nil || d.p.leaves(d, err) {
			return produced, err
		}
		if !d.p.cfg.Valve.Open(d.outer) {
			if err := d.wait(); err != nil {
				return nil, err
			}
			continue
		}
		if errors.Is(err, ErrGap) { // it isn't the message that has failed
			return nil, err
		}
		class := d.p.classify(err)
		d.history = append(d.history, store.AttemptRecord{
			At: began, Attempt: len(d.history) + 1, Instance: d.p.instance, Class: string(class), Error: err.Error(),
			TookMs: time.Since(began).Milliseconds(),
		})
		if class == parking.Transient || class == parking.Unknown {
			err = &tryAgainError{err}
		}
		return nil, err
	}
}

// wait waits for the store, with the message in hand.
func (d *held) wait() error {
	if d.joined() != nil { // its transaction is lost in any case
		return store.ErrUnreachable
	}
	defer hold.Keep(d.outer)()
	d.p.cfg.Logger.Info("Waiting for the database, with a message in hand", d.fields())
	return d.p.cfg.Valve.Wait(d.outer)
}

// attempt runs the handler on the message as it came.
func (d *held) attempt(h message.HandlerFunc) (produced []*message.Message, err error) {
	d.msg.UUID, d.msg.Payload, d.msg.Metadata = d.came.UUID, bytes.Clone(d.came.Payload), maps.Clone(d.came.Metadata)
	d.msg.SetContext(context.WithValue(parking.WithTicket(d.outer, d.ticket), parkingKey{}, true))
	defer func() {
		if value := recover(); value != nil {
			produced, err = nil, &parking.PanicError{Value: value, Stack: debug.Stack()}
		}
	}()
	return h(d.msg)
}

// joined is the unit of work in which the subscriber has received the message.
func (d *held) joined() *store.Unit { return store.CurrentUnit(d.outer) }

// leaves reports whether an error says nothing of the message: the broker delivers
// it again.
func (p *Parking) leaves(d *held, err error) bool {
	if d.outer.Err() != nil {
		return true
	}
	if unit := d.joined(); unit != nil && (unit.Over() || unit.Doomed() != nil) {
		return true
	}
	for _, other := range []error{
		ErrBusy, errUncalled, ErrConsumerTaken, ErrUnbound, parking.ErrLineFull,
		store.ErrClaimLost, store.ErrLinePaused, store.ErrParkedChanged,
	} {
		if errors.Is(err, other) {
			return true
		}
	}
	return false
}
