package middleware

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/begun"
	"github.com/headrace-go/headrace/internal/remark"
	"github.com/headrace-go/headrace/internal/ruling"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// ticketOf is the message's ticket, where a Parking is in front. Parking learns from
// it by what name and id the message is known.
func (d *Dedupe) ticketOf(msg *message.Message) *parking.Ticket {
	if d.cfg.Observe {
		return nil
	}
	ticket := parking.TicketFrom(msg.Context())
	if ticket != nil {
		ticket.Take()
	}
	return ticket
}

// identify returns the id by which a message is known, or why it can't be handled.
// One that comes back has that under which it was kept, and a person may have mended
// it meanwhile.
func (d *Dedupe) identify(msg *message.Message, ticket *parking.Ticket) (string, error) {
	if ticket != nil {
		if ref, again := ticket.Reentry(); again && (ticket.Row().Edits > 0 || msgmeta.GetMalformed(msg) == "") {
			return ref.InboxID, nil
		}
	}
	if why := msgmeta.GetMalformed(msg); why != "" {
		return "", fmt.Errorf("middleware: %w: %s", ErrMalformed, why)
	}
	id, err := d.cfg.Identity(msg)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoMessageID, err)
	}
	if id == "" {
		return "", fmt.Errorf("%w: its UUID is empty; producers other than Watermill may set none: "+
			"give DedupeConfig.Identity a function that reads theirs", ErrNoMessageID)
	}
	return id, nil
}

// errUncalled is of a message whose line has opened since its stage looked.
var errUncalled = errors.New("middleware: its stage has made no call, since it wasn't its turn then: it is delivered again")

// admit records a message that has arrived, or finds out what is known of it. Behind
// a Parking its line is asked for in the same statement.
func (d *Dedupe) admit(ctx context.Context, row store.InboxRow, ticket *parking.Ticket) (store.Admission, store.InboxRow, error) {
	admission, known, err := d.ask(ctx, row, ticket)
	if err == nil && admission == store.Admitted && begun.Left(ctx) {
		err = errUncalled
	}
	return admission, known, err
}

func (d *Dedupe) ask(ctx context.Context, row store.InboxRow, ticket *parking.Ticket) (store.Admission, store.InboxRow, error) {
	if ticket != nil {
		return d.store.Admit(ctx, row, ticket.Line())
	}
	known, inserted, err := d.store.InsertInbox(ctx, row)
	if inserted {
		return store.Admitted, known, err
	}
	return store.Known, known, err
}

// readmit decides about a kept message that comes back.
func (d *Dedupe) readmit(ctx context.Context, tx store.Tx, dl delivery, ref store.HeldRef) (store.Verdict, error) {
	open, err := d.store.Readmit(ctx, ref)
	switch {
	case err != nil:
		return "", err
	case !open:
		return store.Duplicate, nil
	case dl.expires.IsZero():
		return store.Applied, nil
	}
	past, err := d.store.Past(ctx, tx, dl.expires)
	if past {
		return store.Expired, err
	}
	return store.Applied, err
}

// finish writes down what a guard has ruled, and takes a kept message out of its line.
func (d *Dedupe) finish(
	ctx context.Context, tx store.Tx, dl delivery, verdict store.Verdict, ruled ruling.Ruling,
) error {
	if _, again := dl.reentry(); again {
		return d.release(ctx, tx, dl, verdict, ruled.Reason)
	}
	if ruled.Verdict == "" {
		return nil
	}
	return d.store.RuleInbox(ctx, tx, store.InboxRow{
		Consumer: dl.consumer, MessageID: dl.id, Verdict: verdict, Reason: ruled.Reason,
	})
}

// release takes a kept message that came back out of its line, as the unit's last
// statement: until then its line is claimed.
func (d *Dedupe) release(ctx context.Context, tx store.Tx, dl delivery, verdict store.Verdict, ruled string) error {
	ref, again := dl.reentry()
	if !again {
		return nil
	}
	row, reason := dl.ticket.Row(), remark.In(ctx)
	switch {
	case verdict == store.Expired:
		reason = dl.expiredReason()
	case ruled != "":
		reason = ruled
	}
	return d.store.FinishParked(ctx, tx, ref, verdict, reason, row.Tried(), row.Attempts+1)
}

// reentry is the claim under which a kept message comes back.
func (dl delivery) reentry() (ref store.HeldRef, again bool) {
	if dl.ticket == nil {
		return store.HeldRef{}, false
	}
	return dl.ticket.Reentry()
}
