package forwarder

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/store"
)

// mover puts what is due into the outbox, for the partitions that this forwarder
// owns: messages of one key are moved by one forwarder, in order.
type mover struct {
	f     *Forwarder
	owned func() map[int]*partition
	swept time.Time
	// left are slots' messages of which can't be said whether they are too late. They
	// stay, and others are moved.
	left map[int64]bool
}

// postpone leaves alone what it can't judge, and says so once: a zone that is known on
// another machine only would otherwise hold up all that is due.
func (m *mover) postpone(row store.ScheduledRow, now time.Time) (*store.ScheduledRow, error) {
	later, err := postpone(row, now)
	if err == nil {
		return later, nil
	}
	if !m.left[row.ID] {
		if m.left == nil {
			m.left = map[int64]bool{}
		}
		m.left[row.ID] = true
		m.f.cfg.Logger.Error("A slot's message can't be sent, and waits: cancel it, or mend what is wrong", err,
			watermill.LogFields{"message_id": row.MessageID, "topic": row.Topic, "subject": row.Subject})
	}
	return nil, store.ErrLeftScheduled
}

const (
	// moveBatch keeps the transaction, and with it the locks on slots, short.
	moveBatch = 200
	// keepSlots is how long a slot is remembered after its time: longer than any
	// transaction that asked for it.
	keepSlots = 24 * time.Hour
	// sweepEvery is how often slots are forgotten.
	sweepEvery = 10 * time.Minute
)

// run looks for what is due as often as an idle forwarder looks at the outbox.
func (m *mover) run(ctx context.Context) {
	for {
		timer := m.f.cfg.Clock.NewTimer(m.f.cfg.MaxPollInterval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.Chan():
		}
		if err := m.move(ctx); err != nil && ctx.Err() == nil {
			m.f.cfg.Logger.Error("Sending scheduled messages failed, trying again", err, nil)
		}
		m.sweep(ctx)
	}
}

// move goes on until nothing is due that it may move.
func (m *mover) move(ctx context.Context) error {
	for {
		leases := map[int]store.Lease{}
		var numbers []int
		for n, p := range m.owned() {
			if p.owned() {
				leases[n] = p.lease
				numbers = append(numbers, n)
			}
		}
		ids, err := m.f.store.DueScheduled(ctx, m.f.cfg.Service, numbers, moveBatch+len(m.left), m.f.cfg.BatchBytes)
		if err != nil || len(ids) == 0 {
			return err
		}
		moved, err := m.f.store.MoveScheduled(ctx, leases, ids, m.postpone)
		if err != nil || moved == 0 { // the rest is locked: somebody's action is about to be committed
			return err
		}
	}
}

// sweep forgets slots that nobody can ask for any more.
func (m *mover) sweep(ctx context.Context) {
	now := m.f.cfg.Clock.Now()
	if now.Sub(m.swept) < sweepEvery {
		return
	}
	m.swept = now
	const limit = 1000
	for ctx.Err() == nil {
		n, err := m.f.store.PurgeScheduled(ctx, m.f.cfg.Service, keepSlots, limit)
		if err != nil && ctx.Err() == nil {
			m.f.cfg.Logger.Error("Forgetting sent slots failed, trying again later", err, nil)
		}
		if err != nil || n < limit {
			return
		}
	}
}
