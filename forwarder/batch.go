package forwarder

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// ErrNoDestination says that a row names a destination which this forwarder
// wasn't given. The row is kept.
var ErrNoDestination = errors.New("destination isn't configured in forwarder.New")

// sender publishes batches: lines side by side, each line in order.
type sender struct {
	destinations map[string]message.Publisher
	inFlight     chan struct{}
	// refused reports whether a row that failed with an error is to be parked at once.
	refused func(err error) bool
}

// outcome is what became of a batch's rows. Those that are in none of its lists
// wait behind one of their line that failed.
type outcome struct {
	published []store.OutboxRow
	failed    []failure
	// putOff rows were not tried, because their route failed.
	putOff []store.OutboxRow
	// stopped rows were not tried, because the sender was told to stop.
	stopped []store.OutboxRow
}

// collected is the outcome of lines that are sent side by side.
type collected struct {
	outcome

	mu sync.Mutex
}

type failure struct {
	row store.OutboxRow
	err error
	// refused: the broker is there, and trying again can't help.
	refused bool
}

// send publishes rows, which must be of one partition and in order. goOn is asked
// before each publish: a forwarder that is told to stop, lost its lease or slept
// past it must not send on.
func (s *sender) send(ctx context.Context, rows []store.OutboxRow, held *holds, goOn func() bool) outcome {
	order, lines := splitLines(rows)
	held.sortLines(order)
	out := &collected{outcome: outcome{published: make([]store.OutboxRow, 0, len(rows))}}
	broken := newBreaks()
	var wg sync.WaitGroup
	for _, l := range order {
		s.inFlight <- struct{}{}
		wg.Go(func() {
			defer func() { <-s.inFlight }()
			s.sendLine(ctx, lines[l], broken.of(l.route), held, goOn, out)
		})
	}
	wg.Wait()
	return out.outcome
}

func splitLines(rows []store.OutboxRow) (order []line, lines map[line][]store.OutboxRow) {
	lines = make(map[line][]store.OutboxRow)
	for _, row := range rows {
		l := lineOf(row)
		if _, seen := lines[l]; !seen {
			order = append(order, l)
		}
		lines[l] = append(lines[l], row)
	}
	return order, lines
}

func (s *sender) sendLine(
	ctx context.Context, rows []store.OutboxRow, broken *atomic.Int32, held *holds, goOn func() bool, out *collected,
) {
	for i, row := range rows {
		if !goOn() {
			out.add(outcome{published: rows[:i], stopped: rows[i:]})
			return
		}
		if broken.Load() >= routeHoldAfter && row.Problem == nil {
			out.add(outcome{published: rows[:i], putOff: rows[i:]})
			return
		}
		if err := s.sendRow(ctx, row); err != nil {
			refused := s.refused(err)
			if !refused && !held.ownFault(row) {
				broken.Add(1)
			}
			out.add(outcome{published: rows[:i], failed: []failure{{row, err, refused}}})
			return
		}
		broken.Store(0)
	}
	out.add(outcome{published: rows})
}

func (o *collected) add(part outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.published = append(o.published, part.published...)
	o.failed = append(o.failed, part.failed...)
	o.putOff = append(o.putOff, part.putOff...)
	o.stopped = append(o.stopped, part.stopped...)
}

func (s *sender) sendRow(ctx context.Context, row store.OutboxRow) (err error) {
	publisher, ok := s.destinations[row.Destination]
	if !ok {
		return fmt.Errorf("%w: %q", ErrNoDestination, row.Destination)
	}
	if row.Problem != nil {
		return row.Problem
	}
	// A publish that was begun is finished: cut off, it may or may not have taken
	// effect.
	msg := message.NewMessageWithContext(context.WithoutCancel(ctx), row.MessageID, row.Payload)
	maps.Copy(msg.Metadata, row.Metadata)
	// The row is the decision to send: tries after a crash carry the same id, so
	// that a broker which drops repeats drops just those.
	msgmeta.SetSendID(msg, row.MessageID+"."+strconv.FormatInt(row.ID, 10))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("publisher panicked: %v\n%s", p, debug.Stack())
		}
	}()
	step.Reach(ctx, step.RelayBeforePublish)
	if err := publisher.Publish(row.Topic, msg); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	step.Reach(ctx, step.RelayAfterPublish)
	return nil
}

// breaks counts the failures of each route since its last success.
type breaks struct {
	mu     sync.Mutex
	routes map[route]*atomic.Int32
}

func newBreaks() *breaks { return &breaks{routes: map[route]*atomic.Int32{}} }

func (b *breaks) of(r route) *atomic.Int32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.routes[r] == nil {
		b.routes[r] = new(atomic.Int32)
	}
	return b.routes[r]
}
