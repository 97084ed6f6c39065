package middleware

import (
	"context"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// observe runs the handler as if Dedupe weren't there and records the verdict
// that it would have given. A failure to record is logged and changes nothing.
func (d *Dedupe) observe(dl delivery, h message.HandlerFunc) ([]*message.Message, error) {
	produced, err := h(dl.msg)
	if err != nil {
		return produced, err
	}
	verdict := store.Applied
	ctx := context.WithoutCancel(d.about(dl.msg.Context(), dl))
	err = d.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, inserted, err := d.store.InsertInbox(ctx, store.InboxRow{
			Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Applied, Reason: "observed", Fingerprint: dl.fingerprint,
		})
		if err != nil || inserted {
			return err
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
		return produced, nil
	}
	d.tell(dl, verdict, true)
	return produced, nil
}
