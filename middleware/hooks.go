package middleware

import (
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/store"
)

// VerdictHook is told every verdict, after it was committed. Give it to the
// Hooks of a middleware's config. It must not block.
type VerdictHook interface {
	OnVerdict(verdict Verdict)
}

// Verdict is what became of one delivery.
type Verdict struct {
	// Consumer is the scope of dedupe: service and handler.
	Consumer string
	// MessageID is what the message was told apart by: its UUID, or what
	// DedupeConfig.Identity has returned.
	MessageID string
	// Topic is the one that the handler subscribes to.
	Topic string
	// Verdict is store.Applied, store.Duplicate or store.Expired; or store.Conflict
	// for a delivery that was refused with ErrFingerprint and comes again.
	Verdict store.Verdict
	// Observed says that the verdict had no effect: the middleware observes.
	Observed bool
	// Took is the time from receiving the message to the verdict.
	Took time.Duration
}

// tell logs a verdict and gives it to the hooks.
func (d *Dedupe) tell(dl delivery, verdict store.Verdict, observed bool) {
	if verdict == store.Duplicate {
		d.cfg.Logger.Debug("Skipped a message that was handled before", watermill.LogFields{
			"consumer": dl.consumer, "message_id": dl.id, "verdict": verdict, "observed": observed,
		})
	}
	if verdict == store.Expired {
		d.cfg.Logger.Info("A message came after its time to live", watermill.LogFields{
			"consumer": dl.consumer, "message_id": dl.id, "verdict": verdict, "observed": observed,
			"key": d.keyOf(dl), "expired": dl.expires,
		})
	}
	for _, hook := range d.hooks {
		hook.OnVerdict(Verdict{
			Consumer: dl.consumer, MessageID: dl.id, Topic: message.SubscribeTopicFromCtx(dl.msg.Context()),
			Verdict: verdict, Observed: observed, Took: time.Since(dl.began),
		})
	}
}

// PurgeHook is told about every purge, when it ends.
type PurgeHook interface {
	OnPurge(stats PurgeStats)
}

// PurgeStats is what a purge did.
type PurgeStats struct {
	// Consumer is whose messages were purged.
	Consumer string
	// Purged counts the inbox rows and verdict log entries removed.
	Purged int64
	// Batches counts the transactions that removed them.
	Batches int
	// Took is the time from the purge's beginning, pauses included.
	Took time.Duration
	// Interrupted says why it ended early: quiet hours over, a deep backlog. Empty
	// when nothing was left to purge.
	Interrupted string
	// Err is why it failed; the next purge goes on where this one stopped.
	Err error
}
