package forwarder

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/store"
)

// partition relays the rows of one partition for as long as its lease lasts. One
// goroutine runs it.
type partition struct {
	f     *Forwarder
	id    store.Partition
	lease store.Lease
	// until is the end of the lease by this machine's monotonic clock, counted
	// from before the renewal was asked for, so never later than the database's.
	until atomic.Pointer[time.Time]

	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	holds *holds
	// cursor is the highest id read. Rows above it are new; rows below it come
	// from transactions that committed late, or are held.
	cursor     int64
	rescanned  time.Time
	rescanCost time.Duration
	// reading is how long the scan under way has been reading: what is published
	// meanwhile is no cost of looking again.
	reading time.Duration
	// moved: something was published since the scan began.
	moved bool
	// judged is when it was asked last whether parked rows still are.
	judged     time.Time
	confirming sync.WaitGroup
	unsettled  atomic.Bool
	// sent are the rows that are published and perhaps not yet confirmed.
	sent map[int64]bool
	late lateness
	// limit is how many rows are asked for.
	limit readLimit
}

func (f *Forwarder) startPartition(ctx context.Context, id store.Partition, lease store.Lease, until time.Time) *partition {
	ctx, stop := context.WithCancel(ctx)
	p := &partition{
		f: f, id: id, lease: lease,
		wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{}),
		holds: newHolds(f.cfg.RetryBackoff, f.cfg.MaxRetryBackoff),
		late:  lateness{above: beforeAll},
		limit: readLimit{rows: f.cfg.BatchSize, most: f.cfg.BatchSize, bytes: f.cfg.BatchBytes},
	}
	p.until.Store(&until)
	p.signal()
	go func() {
		defer close(p.done)
		defer p.confirming.Wait()
		p.run(ctx)
	}()
	return p
}

func (p *partition) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// owned reports whether the lease still lasts. On SQLite a lease that could not
// be renewed in time is kept until somebody takes it: there a long write
// transaction keeps this forwarder from renewing, and others from taking.
func (p *partition) owned() bool {
	return p.f.store.Dialect() == store.SQLite || p.f.cfg.Clock.Now().Before(*p.until.Load())
}

func (p *partition) run(ctx context.Context) {
	for failures := 0; ; {
		now := p.f.cfg.Clock.Now()
		_, next := p.holds.due(now)
		var retry <-chan time.Time
		if !next.IsZero() {
			retry = p.f.cfg.Clock.After(next.Sub(now))
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-retry:
		}
		if err := p.drain(ctx); err == nil || ctx.Err() != nil {
			failures = 0
		} else {
			failures++
			p.f.cfg.Logger.Error("Reading the outbox failed, trying again", err, watermill.LogFields{"partition": p.id.Number})
			p.pause(ctx, min(p.holds.pause(failures), p.f.cfg.MaxPollInterval))
			p.signal()
		}
	}
}

// pause waits, or returns when the context ends.
func (p *partition) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-p.f.cfg.Clock.After(d):
	}
}

// drain relays until no row is left that is not held.
func (p *partition) drain(ctx context.Context) error {
	began := p.f.cfg.Clock.Now()
	if err := p.findJudged(ctx, began); err != nil {
		return err
	}
	after, whole := p.startFrom(p.cursor, began)
	// A scan that ends early has opened holds whose rows it may not have read: the
	// next one begins at the beginning, or later rows of theirs would overtake.
	complete := false
	defer func() {
		if !complete {
			p.rescanned = time.Time{}
		}
	}()
	for ctx.Err() == nil && p.owned() {
		rows, err := p.read(ctx, after)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			complete = true
			p.holds.scanned()
			if whole {
				p.rescanCost = p.reading
			}
			return nil
		}
		step.Reach(ctx, step.RelayRead)
		if late, err := p.lateBelow(ctx, after); err != nil {
			return err
		} else if late > 0 {
			after = late - 1
			p.holds.scan(after, p.f.cfg.Clock.Now())
			continue
		}
		after = rows[len(rows)-1].ID
		p.cursor = max(p.cursor, after)
		if unsent := p.relay(ctx, rows); unsent > 0 {
			// Told to stop in mid-batch. Should the lease be renewed after all, what
			// comes next must not overtake it.
			p.cursor = unsent - 1
			return nil
		}
		if now := p.f.cfg.Clock.Now(); now.Sub(began) > p.f.cfg.RescanInterval && p.moved {
			// A long drain must not put off late commits and due retries. One that only
			// reads what is held would begin again and again, and never come to its end.
			began = now
			next, again := p.startFrom(after, now)
			after, whole = next, again || whole && next == after
		}
	}
	return nil
}

// beforeAll is below every id, those of rows that foreign SQL numbered by hand
// included.
const beforeAll = math.MinInt64

// readTimeout bounds one reading of rows. It is for connections that have died
// without a word, on which a reader would wait for a quarter of an hour.
const readTimeout = time.Minute

func (p *partition) read(ctx context.Context, after int64) ([]store.OutboxRow, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	began := p.f.cfg.Clock.Now()
	rows, err := p.f.store.ReadOutbox(ctx, p.id, after, p.limit.rows, p.f.cfg.BatchBytes)
	p.reading += p.f.cfg.Clock.Since(began)
	p.limit.learn(rows, err)
	return rows, err
}

// startFrom returns the id to read after: the beginning when a rescan is due, the
// first failed row when its pause is over, otherwise where reading has got to.
func (p *partition) startFrom(cursor int64, now time.Time) (after int64, whole bool) {
	p.moved = false
	// A rescan may take a twentieth of the time, however long it takes.
	interval := max(p.f.cfg.RescanInterval, 20*p.rescanCost)
	if p.rescanned.IsZero() || now.Sub(p.rescanned) >= interval || p.unsettled.Load() {
		p.settle()
		p.rescanned, p.reading = now, 0
		p.holds.scan(beforeAll, now)
		return beforeAll, true
	}
	if from, _ := p.holds.due(now); from > 0 && from <= cursor {
		p.settle()
		p.holds.scan(from-1, now)
		return from - 1, false
	}
	return cursor, false
}

// settle waits for the confirmation under way, so that its rows aren't read and
// published again.
func (p *partition) settle() {
	p.confirming.Wait()
	p.unsettled.Store(false)
	p.sent = nil
}

// slowBatch is how long publishing a batch takes before it is reported: nothing
// else would tell of a publisher that never returns.
const slowBatch = 30 * time.Second

func (p *partition) reportSlow(rows []store.OutboxRow) {
	var destinations []string
	for _, row := range rows {
		if !slices.Contains(destinations, row.Destination) {
			destinations = append(destinations, row.Destination)
		}
	}
	p.f.cfg.Logger.Error("Publishing takes long", errSlow, watermill.LogFields{
		"partition": p.id.Number, "rows": len(rows), "destinations": destinations,
	})
}

var errSlow = fmt.Errorf(
	"a batch is not published after %s: its partition waits for a slow or hanging publisher", slowBatch)

// relay publishes the rows that need not wait and confirms them while the next
// batch is read. It returns the lowest id that was not sent because the partition
// was told to stop, or 0.
func (p *partition) relay(ctx context.Context, rows []store.OutboxRow) (unsent int64) {
	began := p.f.cfg.Clock.Now()
	ready := make([]store.OutboxRow, 0, len(rows))
	for _, row := range rows {
		switch {
		case row.Parked != 0:
			p.holds.park(row)
		case !p.sent[row.ID] && !p.holds.held(row):
			ready = append(ready, row)
		}
	}
	slow := p.f.cfg.Clock.AfterFunc(slowBatch, func() { p.reportSlow(ready) })
	defer slow.Stop()
	out := p.f.sender.send(ctx, ready, p.holds, func() bool { return ctx.Err() == nil && p.owned() })
	parked := p.remember(ctx, out)
	p.confirm(ctx, out.published)
	p.moved = p.moved || len(out.published) > 0
	stats := PublishStats{
		Partition: p.id.Number, Published: len(out.published), Failed: len(out.failed), Parked: parked,
		Held: len(rows) - len(out.published) - len(out.failed),
		Took: p.f.cfg.Clock.Since(began),
	}
	if written := rows[0].CreatedAt; !written.IsZero() {
		stats.OldestAge = began.Sub(written)
	}
	for _, hook := range p.f.hooks {
		hook.OnPublish(stats)
	}
	for _, row := range out.stopped {
		if unsent == 0 || row.ID < unsent {
			unsent = row.ID
		}
	}
	return unsent
}

// remember updates the holds and records what failed. A row that can't be sent as
// it is, is reported once: each time would be a write for each such row. It returns
// how many were parked.
func (p *partition) remember(ctx context.Context, out outcome) (parked int) {
	p.holds.note(out, p.f.cfg.Clock.Now())
	for _, f := range out.failed {
		if p.park(ctx, f) {
			parked++
			continue
		}
		if f.row.Problem != nil && f.row.Attempts > 0 {
			continue
		}
		p.f.cfg.Logger.Error("Publish failed: its key waits, others go on", f.err, watermill.LogFields{
			"message_id": f.row.MessageID, "destination": f.row.Destination, "topic": f.row.Topic,
			"key": f.row.Key, "attempts": f.row.Attempts + 1,
		})
		if err := p.f.store.FailOutbox(context.WithoutCancel(ctx), p.id, f.row.ID, f.err); err != nil {
			p.f.cfg.Logger.Error("Recording a failed publish failed", err, watermill.LogFields{"partition": p.id.Number})
		}
	}
	return parked
}

// confirm removes published rows. It goes on when the forwarder is told to stop:
// what was published should not be published again.
func (p *partition) confirm(ctx context.Context, rows []store.OutboxRow) {
	if len(rows) == 0 {
		return
	}
	p.confirming.Wait()
	ids := make([]int64, 0, len(rows))
	var released []store.OutboxRow
	p.sent = make(map[int64]bool, len(rows))
	for _, row := range rows {
		p.sent[row.ID] = true
		if row.Released != 0 {
			released = append(released, row)
		} else {
			ids = append(ids, row.ID)
		}
	}
	ctx = context.WithoutCancel(ctx)
	p.confirming.Go(func() {
		step.Reach(ctx, step.RelayBeforeConfirm)
		bounded, cancel := context.WithTimeout(ctx, p.f.cfg.CloseTimeout)
		defer cancel()
		n, again, err := p.tryConfirm(bounded, ids, released)
		step.Reach(ctx, step.RelayAfterConfirm)
		fields := watermill.LogFields{"partition": p.id.Number, "published": len(rows), "confirmed": n}
		if err != nil {
			p.unsettled.Store(true)
			p.f.cfg.Logger.Error("Confirming published rows failed: they will be published again", err, fields)
			return
		}
		if n < int64(len(rows)) && !again {
			p.f.cfg.Logger.Info("Some published rows were not there to confirm: the partition has changed hands", fields)
		}
	})
}

// tryConfirm tries again while the lease lasts: a database that is away for a
// moment should not have everything published twice. again says that an earlier
// try may have removed the rows.
func (p *partition) tryConfirm(
	ctx context.Context, ids []int64, released []store.OutboxRow,
) (n int64, again bool, err error) {
	for failures := 1; ; failures++ {
		n, err = p.f.store.ConfirmOutbox(ctx, p.lease, p.id, ids)
		for i := 0; i < len(released) && err == nil; i++ {
			var removed bool
			if removed, err = p.f.store.ConfirmReleased(ctx, p.lease, released[i]); removed {
				n++
			}
		}
		if err == nil || ctx.Err() != nil || !p.owned() {
			return n, failures > 1, err
		}
		p.pause(ctx, p.holds.pause(failures))
	}
}
