package forwarder

import (
	"context"
	"time"

	"github.com/headrace-go/headrace/store"
)

// Ids are given when rows are written and rows are seen when they are committed,
// in another order. A row that reading has passed before it was committed comes
// to light at the next rescan. Its key's next row must not be published until
// then, though it has a higher id and is found at once: the key's transactions
// may have been one after the other, and others' rows have moved the cursor.
//
// So what lies behind is looked at before anything is published. Whoever sees a
// row sees all that was committed before that row was written, so looking after
// reading misses nothing that must come first.

const (
	// lateLimit bounds how many rows behind are looked at, which are mostly those
	// that are held. Late ones are near the newest.
	lateLimit = 2000
	// lateCheap is how long looking back may take before it is limited to the rows
	// that were passed within lateWindow. It takes long where rows that are gone
	// can't be cleared away, because some transaction stays open for long.
	lateCheap  = 5 * time.Millisecond
	lateWindow = 10 * time.Second
)

// lateness remembers how far back to look.
type lateness struct {
	// above is where looking ends: 0, or how far reading had got a window ago.
	above int64
	// marked is how far reading had got at a time within the window.
	marked int64
	at     time.Time
}

// lateBelow returns the lowest id up to after of a row that has not been read
// yet, or 0.
func (p *partition) lateBelow(ctx context.Context, after int64) (lowest int64, err error) {
	if after <= 0 || p.f.store.Dialect() == store.SQLite {
		return 0, nil // nothing written by the outbox lies behind; one writer, whose ids are in order
	}
	began := p.f.cfg.Clock.Now()
	rows, err := p.f.store.OutboxBetween(ctx, p.number, min(p.late.above, after), after, lateLimit)
	if err != nil {
		return 0, err
	}
	p.late.note(after, began, p.f.cfg.Clock.Since(began))
	for _, row := range rows {
		if !p.sent[row.ID] && !p.holds.held(row) {
			lowest = row.ID // they come newest first
		}
	}
	return lowest, nil
}

// note adapts how far back to look to how long it took.
func (l *lateness) note(after int64, now time.Time, took time.Duration) {
	if now.Sub(l.at) > lateWindow/2 {
		if took > lateCheap {
			l.above = l.marked
		} else {
			l.above = 0
		}
		l.marked, l.at = after, now
	}
}
