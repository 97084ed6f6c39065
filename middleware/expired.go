package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/begun"
	"github.com/headrace-go/headrace/store"
)

// ErrNoTimeToLive says that a message has a time to live, which can't be read.
var ErrNoTimeToLive = errors.New("message's time to live can't be read")

// expires returns when the message's time to live ends, or zero; zero as well for a
// message for which a stage has done what can't be undone. While observing a message
// isn't refused for what only Dedupe reads.
func (d *Dedupe) expires(msg *message.Message) (time.Time, error) {
	at, ok, err := d.cfg.TTL(msg)
	switch {
	case err != nil && d.cfg.Observe:
		d.cfg.Logger.Error("A message's time to live can't be read", err, watermill.LogFields{"message_id": msg.UUID})
		return time.Time{}, nil
	case err != nil:
		return time.Time{}, fmt.Errorf("middleware: %w: %w", ErrNoTimeToLive, err)
	case !ok, begun.In(msg.Context()):
		return time.Time{}, nil
	}
	return at, nil
}

// expire turns the verdict on a message that was just recorded into Expired, when
// its time to live is over. It is asked after the insert, which may have waited
// for a copy. Messages without one cost nothing.
func (d *Dedupe) expire(ctx context.Context, tx store.Tx, dl delivery) (store.Verdict, error) {
	if dl.expires.IsZero() {
		return store.Applied, nil
	}
	row := store.InboxRow{Consumer: dl.consumer, MessageID: dl.id, Reason: dl.expiredReason()}
	expired, err := d.store.ExpireInbox(ctx, tx, row, dl.expires)
	if expired {
		return store.Expired, err
	}
	return store.Applied, err
}

func (dl delivery) expiredReason() string {
	return "its time to live ended at " + dl.expires.UTC().Format(time.RFC3339Nano)
}

// expireObserved logs what expire would have done. The handler has run since the
// message came, so that the clock has gone on for as long.
func (d *Dedupe) expireObserved(ctx context.Context, tx store.Tx, dl delivery) (store.Verdict, error) {
	if dl.expires.IsZero() {
		return store.Applied, nil
	}
	expired, err := d.store.Past(ctx, tx, dl.expires.Add(time.Since(dl.began)))
	if err != nil || !expired {
		return store.Applied, err
	}
	return store.Expired, d.store.LogVerdict(ctx, tx, store.VerdictLogRow{
		Consumer: dl.consumer, MessageID: dl.id, Verdict: store.Expired, Reason: dl.expiredReason(), Observed: true,
	})
}
