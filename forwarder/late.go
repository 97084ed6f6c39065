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
//
// Looking at all that lies behind takes long where many rows are held, or where
// rows that are gone can't be cleared away because some transaction stays open.
// Then only what was passed lately is looked at each time; what was passed before
// is looked at again when one of the transactions has ended that were open when
// it was looked at last. Nothing else can have come to light there.

// lateLimits says when looking behind is limited.
type lateLimits struct {
	// cheap is how long looking at everything may take.
	cheap time.Duration
	// window is how long ago a row was passed, at least, that is not looked at
	// each time. It is many times what passes between the moment in which a row is
	// given its id and that in which the database knows whose it is.
	window time.Duration
}

func defaultLateLimits() lateLimits {
	return lateLimits{cheap: 5 * time.Millisecond, window: 5 * time.Second}
}

// latePage is how many rows behind are read at once. Mostly they are held ones.
const latePage = 2000

// lateness remembers how far back to look.
type lateness struct {
	// above is where looking ends unless one of the open writes has ended.
	above int64
	open  store.OutboxWrites
	// marked is how far reading had got at that time: what above becomes when a
	// window has passed.
	marked int64
	at     time.Time
	// cost is how long it took to look at everything.
	cost time.Duration
}

// lateBelow returns the lowest id up to after of a row that has not been read
// yet, or 0.
func (p *partition) lateBelow(ctx context.Context, after int64) (lowest int64, err error) {
	if after <= 0 || p.f.store.Dialect() == store.SQLite {
		return 0, nil // one writer, whose ids are in order
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	everything, err := p.lookAtEverything(ctx, after)
	if err != nil {
		return 0, err
	}
	above, began := p.late.above, p.f.cfg.Clock.Now()
	if everything {
		above = beforeAll
	}
	lowest, err = p.lowestUnread(ctx, min(above, after), after)
	if err != nil {
		p.late = lateness{above: beforeAll} // what had ended was not looked at
		return 0, err
	}
	if everything {
		p.late.cost = p.f.cfg.Clock.Since(began)
	}
	return lowest, nil
}

// lookAtEverything decides how far to look. Where it moves the place up to which
// rows are skipped, it asks first who may still bring rows to light there, and
// then everything is looked at once more: rows of those who have ended by now are
// found at once, those of the others when they end.
func (p *partition) lookAtEverything(ctx context.Context, after int64) (bool, error) {
	l, now, pause := &p.late, p.f.cfg.Clock.Now(), p.f.late.window
	if l.above != beforeAll {
		pause = max(pause, 20*l.cost) // a twentieth of the time, however long it takes
	}
	if now.Sub(l.at) >= pause {
		l.above = beforeAll
		if l.cost > p.f.late.cheap && !l.at.IsZero() {
			open, err := p.f.store.OpenOutboxWrites(ctx, p.id, l.marked)
			if err != nil {
				return false, err
			}
			l.above, l.open = l.marked, open
		}
		l.marked, l.at = after, now
		return true, nil
	}
	if l.above == beforeAll {
		return true, nil
	}
	left, ended, err := p.f.store.EndedOutboxWrites(ctx, p.id, l.open)
	if err != nil {
		return false, err
	}
	l.open = left
	return ended, nil
}

func (p *partition) lowestUnread(ctx context.Context, above, upTo int64) (lowest int64, err error) {
	for {
		rows, err := p.f.store.OutboxBetween(ctx, p.id, above, upTo, latePage)
		if err != nil {
			return 0, err
		}
		for _, row := range rows {
			if !p.sent[row.ID] && !p.holds.held(row) {
				lowest = row.ID // they come newest first
			}
		}
		if len(rows) < latePage {
			return lowest, nil
		}
		upTo = rows[len(rows)-1].ID - 1
	}
}
