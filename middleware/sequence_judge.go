package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// handle runs the handler unless the message was handled before, or comes too early.
func (d *numbered) handle(ctx context.Context, tx store.Tx, h message.HandlerFunc) ([]*message.Message, error) {
	n := d.number.Sequence
	advanced, err := d.seq.store.Advance(ctx, tx, d.place(), n)
	if err != nil {
		return nil, err
	}
	if advanced {
		step.Reach(ctx, step.PositionWritten)
		return d.run(ctx, tx, h, nil)
	}
	p, err := d.seq.store.LockPosition(ctx, tx, d.place())
	if err == nil && p.Fresh() {
		err = d.start(ctx, tx, &p)
	}
	if err != nil {
		return nil, err
	}
	var snapshot *Snapshot
	switch {
	case n <= p.Base: // only Dedupe knows of it
		return d.run(ctx, tx, h, nil)
	case p.Has(n):
		return nil, d.rule(ctx, tx, ruling.Ruling{
			Verdict: string(store.Duplicate), Reason: fmt.Sprintf("number %d of %s is done", n, d.number.Producer),
		})
	case n == p.Mark+1:
		p.Add(n)
	default:
		if snapshot, err = d.meetGap(ctx, &p); err != nil {
			return nil, err
		}
	}
	if err := d.seq.store.PutPosition(ctx, tx, p); err != nil {
		return nil, err
	}
	step.Reach(ctx, step.PositionWritten)
	return d.run(ctx, tx, h, snapshot)
}

// start begins the position of a key that is new to the consumer, or to this epoch.
func (d *numbered) start(ctx context.Context, tx store.Tx, p *store.Position) error {
	n := d.number.Sequence
	mark, known, err := d.seq.store.MarkBefore(ctx, tx, d.place())
	switch {
	case err != nil:
		return err
	case known && n > mark: // the numbers have gone on
		p.Start(mark)
	case !known && d.seq.cfg.Baseline == FromOne:
		p.Start(0)
	default: // what was numbered so before is lost to the producer
		p.Start(n - 1)
	}
	return nil
}

// meetGap says what is done about a gap: the error holds the message back; otherwise the
// position has it handled, with the snapshot if there is one.
func (d *numbered) meetGap(ctx context.Context, p *store.Position) (*Snapshot, error) {
	n := d.number.Sequence
	gap := &GapError{
		Stream: d.number.Producer, Key: d.number.Key, From: p.Mark + 1, To: n - 1, Sequence: n,
		place: d.place(), store: d.seq.store,
	}
	if err := d.choose(ctx, gap); err != nil {
		return nil, err
	}
	window := int64(d.seq.cfg.Window)
	if gap.action == gapAlert && n > p.Mark+window {
		if !d.seq.cfg.GiveUp {
			gap.action = gapPark
			return nil, gap
		}
		p.PassTo(n - window)
	}
	switch gap.action {
	case gapAlert:
		p.Add(n)
	case gapSkip:
		p.PassTo(n)
	case gapFetch:
		room := d.room()
		if room == nil || room.got == nil {
			return nil, gap
		}
		p.PassTo(max(n, room.got.Sequence))
		d.told = gap
		return room.got, nil
	case gapWait, gapPark:
		return nil, gap
	}
	d.told = gap
	return nil, nil //nolint:nilnil // there is none
}

func (d *numbered) room() *snapshots {
	room, ok := d.msg.Context().Value(snapshotKey{}).(*snapshots)
	if !ok || room.by != d.seq {
		return nil
	}
	return room
}

// choose finds the step that is to be taken now.
func (d *numbered) choose(ctx context.Context, gap *GapError) error {
	gap.action = gapPark
	waited, released, err := d.waited(ctx)
	if err != nil {
		return err
	}
	if released {
		gap.action = gapSkip
		return nil
	}
	var patience time.Duration
	for _, next := range d.seq.cfg.Gaps {
		switch next.action {
		case gapWait:
			if patience += next.wait; waited < patience {
				gap.action, gap.due = gapWait, patience-waited
				return nil
			}
		case gapFetch:
			room := d.room()
			if room == nil {
				return parking.AsPermanent(errNoFetch)
			}
			if !room.tried || room.got != nil {
				gap.action = gapFetch
				return nil
			}
		case gapPark, gapSkip, gapAlert:
			gap.action = next.action
			return nil
		}
	}
	return nil
}

var errNoFetch = errors.New("middleware: Sequence: GapFetch needs Sequence.FetchMiddleware outside of Dedupe")

// waited is for how long the message was kept because of a gap, and whether a person has
// said that it is to be handled without what is missing.
func (d *numbered) waited(ctx context.Context) (waited time.Duration, released bool, err error) {
	ticket := parking.TicketFrom(d.msg.Context())
	if ticket == nil {
		return 0, false, nil
	}
	row := ticket.Row()
	if _, again := ticket.Reentry(); !again || row.Class != string(classGap) {
		return 0, false, nil
	}
	if row.Status == store.StatusReleased {
		return 0, true, nil
	}
	now, err := d.seq.store.Now(ctx)
	return now.Sub(row.ParkedAt), false, err
}

// run runs the handler, and sends what it returns where no Dedupe does.
func (d *numbered) run(
	ctx context.Context, tx store.Tx, h message.HandlerFunc, snapshot *Snapshot,
) ([]*message.Message, error) {
	if msgmeta.IsSkip(d.msg) {
		return nil, d.rule(ctx, tx, *skipRuling())
	}
	if snapshot != nil {
		ctx = context.WithValue(ctx, takenKey{}, *snapshot)
	}
	d.msg.SetContext(ctx)
	produced, err := h(d.msg)
	if err != nil || d.inside || len(produced) == 0 {
		return produced, err
	}
	if d.seq.cfg.Outbox == nil {
		return nil, fmt.Errorf("%w: put Sequence inside of Dedupe, or set SequenceConfig.Outbox", ErrNoOutbox)
	}
	return nil, publishProduced(ctx, d.seq.cfg.Outbox, d.msg, d.consumer, produced)
}

// rule gives the message another verdict than its handler's success.
func (d *numbered) rule(ctx context.Context, tx store.Tx, ruled ruling.Ruling) error {
	d.ruled = ruled
	if d.inside && ruling.Give(ctx, ruled) {
		return nil
	}
	return d.log(ctx, tx, store.Verdict(ruled.Verdict), ruled.Reason, false)
}

func (d *numbered) log(ctx context.Context, tx store.Tx, verdict store.Verdict, reason string, observed bool) error {
	return d.seq.store.LogVerdict(ctx, tx, store.VerdictLogRow{
		Consumer: d.consumer, MessageID: d.id, Verdict: verdict, Reason: reason, Observed: observed,
	})
}

// observe runs the handler as if Sequence weren't there, unless the message only says that
// there is none. A failure to record is logged and changes nothing, unless it is the
// transaction's.
func (d *numbered) observe(h message.HandlerFunc) (produced []*message.Message, err error) {
	if !msgmeta.IsSkip(d.msg) {
		if produced, err = h(d.msg); err != nil {
			return produced, err
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.msg.Context()), writeTimeout)
	defer cancel()
	var verdict store.Verdict
	var gap *GapError
	err = d.seq.store.InTx(d.about(ctx), func(ctx context.Context, tx store.Tx) (err error) {
		verdict, gap, err = d.record(ctx, tx)
		return err
	})
	switch {
	case err != nil && d.seq.store.UnitFromContext(ctx) != nil:
		return nil, err
	case err != nil:
		d.seq.cfg.Logger.Error("What Sequence would have done can't be recorded", err, watermill.LogFields{
			"consumer": d.consumer, "message_id": d.id,
		})
	case gap != nil:
		d.tellGap(gap, true)
	case verdict != "":
		d.tellVerdict(verdict, true)
	}
	return produced, nil
}

// record counts a message that was handled, whatever is missing.
func (d *numbered) record(ctx context.Context, tx store.Tx) (verdict store.Verdict, gap *GapError, err error) {
	n := d.number.Sequence
	p, err := d.seq.store.LockPosition(ctx, tx, d.place())
	if err == nil && p.Fresh() {
		err = d.start(ctx, tx, &p)
	}
	if err != nil {
		return "", nil, err
	}
	switch {
	case n <= p.Base:
		return "", nil, nil
	case p.Has(n):
		reason := fmt.Sprintf("number %d of %s is done", n, d.number.Producer)
		return store.Duplicate, nil, d.log(ctx, tx, store.Duplicate, reason, true)
	case n > p.Mark+1:
		gap = &GapError{
			Stream: d.number.Producer, Key: d.number.Key, From: p.Mark + 1, To: n - 1, Sequence: n,
			action: d.seq.cfg.Gaps[0].action, place: d.place(),
		}
		verdict = store.Gap
		if err := d.log(ctx, tx, verdict, gap.Error(), true); err != nil {
			return "", nil, err
		}
		p.PassTo(n - int64(d.seq.cfg.Window))
	}
	p.Add(n)
	return verdict, gap, d.seq.store.PutPosition(ctx, tx, p)
}
