package middleware

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/headrace-go/headrace/store"
)

// refused records that a producer has used an id twice. The refusal has rolled the
// delivery's own transaction back, so it is one of its own; in a subscriber's it
// lasts when the message is acked all the same, by a PoisonQueue for example. The
// broker delivers again and again: one entry for each payload is enough.
func (d *Dedupe) refused(ctx context.Context, dl delivery) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.about(ctx, dl)), writeTimeout)
	defer cancel()
	err := d.store.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		return d.store.LogVerdictOnce(ctx, tx, dl.conflict(false))
	})
	if err != nil {
		return fmt.Errorf("middleware: record the refusal: %w", err)
	}
	d.tell(dl, store.Conflict, false)
	return nil
}

// conflict is the log's entry on a payload that another one's id came with.
func (dl delivery) conflict(observed bool) store.VerdictLogRow {
	const enough = 8 // bytes of the hash, to tell payloads apart
	return store.VerdictLogRow{
		Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Conflict, Observed: observed,
		Reason: "its id was used before for another payload; this one's SHA-256 begins with " +
			hex.EncodeToString(dl.fingerprint[:enough]),
	}
}
