package middleware

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// settleTimeout bounds how long an observed message is waited for to be acked.
const settleTimeout = 5 * time.Minute

// observe runs the handler as if Dedupe weren't there and records the verdict
// that it would have given. A failure to record is logged and changes nothing.
//
// What the handler returns is published by the router, after Dedupe. A message is
// therefore remembered only when it was acked: if it came again to an instance that
// protects, because its publish failed or the process died before, it would be
// skipped there and what it should have sent be lost.
func (d *Dedupe) observe(dl delivery, h message.HandlerFunc) ([]*message.Message, error) {
	if msgmeta.IsSkip(dl.msg) {
		return nil, nil // there is nothing in it
	}
	produced, err := h(dl.msg)
	if err != nil {
		return produced, err
	}
	ctx := dl.msg.Context()
	if len(produced) == 0 {
		d.record(ctx, dl)
		return produced, nil
	}
	go func() {
		if acked(ctx, dl.msg) {
			d.record(ctx, dl)
		}
	}()
	return produced, nil
}

// acked waits until the message was acked or nacked. Many subscribers cancel its
// context at either.
func acked(ctx context.Context, msg *message.Message) bool {
	timer := time.NewTimer(settleTimeout)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
	case <-timer.C:
	case <-ctx.Done():
		select {
		case <-msg.Acked():
			return true
		default:
		}
	}
	return false
}

// record remembers a message that was handled while observing.
func (d *Dedupe) record(ctx context.Context, dl delivery) {
	verdict := store.Applied
	ctx = context.WithoutCancel(d.about(ctx, dl))
	err := d.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		known, inserted, err := d.store.InsertInbox(ctx, store.InboxRow{
			Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Applied, Reason: store.ReasonObserved,
			Fingerprint: dl.fingerprint,
		})
		if err != nil {
			return err
		}
		if inserted {
			verdict, err = d.expireObserved(ctx, tx, dl)
			return err
		}
		if !known.SameContent(dl.fingerprint) {
			verdict = store.Conflict
			return d.store.LogVerdictOnce(ctx, tx, dl.conflict(true))
		}
		verdict = store.Duplicate
		return d.store.LogVerdict(ctx, tx, store.VerdictLogRow{
			Consumer: dl.consumer, MessageID: dl.id, Verdict: verdict, Observed: true,
		})
	})
	if err != nil {
		d.cfg.Logger.Error("Recording an observed verdict failed", err, watermill.LogFields{
			"consumer": dl.consumer, "message_id": dl.id,
		})
		return
	}
	d.tell(dl, verdict, true)
}
