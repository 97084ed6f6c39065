package forwarder

import (
	"math/rand/v2"
	"time"

	"github.com/headrace-go/headrace/store"
)

// route is where rows go. Rows of one route and key are sent in order.
type route struct{ destination, topic string }

// line is the rows that must stay in order. A row without a key is a line of its
// own.
type line struct {
	route

	key string
	// id is 0 for lines with a key.
	id int64
}

func routeOf(row store.OutboxRow) route { return route{row.Destination, row.Topic} }

func lineOf(row store.OutboxRow) line {
	if row.Key == "" {
		return line{route: routeOf(row), id: row.ID}
	}
	return line{route: routeOf(row), key: row.Key}
}

// hold is why rows wait: a publish failed and its pause isn't over, or it is over
// but the rows haven't been read again from the one that failed. That it is over
// is not enough: reading has gone on past the failed row meanwhile, and what comes
// next would overtake it.
type hold struct {
	until    time.Time
	failures int
	// from is the lowest id that waits.
	from int64
	// open is set by the scan that reads from there.
	open bool
}

// holds remembers what failed in one partition. Only the partition's own
// goroutine uses it.
type holds struct {
	lines  map[line]hold
	routes map[route]hold
	base   time.Duration
	limit  time.Duration
}

// A whole route is held when this many lines failed with no success between:
// then it is the broker that is down, and trying every key would only fill the
// memory with holds.
const routeHoldAfter = 8

func newHolds(base, limit time.Duration) *holds {
	return &holds{lines: map[line]hold{}, routes: map[route]hold{}, base: base, limit: limit}
}

// held reports whether a row has to wait.
func (h *holds) held(row store.OutboxRow) bool {
	if r, ok := h.routes[routeOf(row)]; ok && r.failures >= routeHoldAfter && !r.open {
		return true
	}
	l, ok := h.lines[lineOf(row)]
	return ok && !l.open
}

// scan opens the holds whose pause is over and whose rows will all be read by a
// scan that begins after an id.
func (h *holds) scan(after int64, now time.Time) {
	for key, l := range h.lines {
		if l.from > after && !now.Before(l.until) {
			l.open = true
			h.lines[key] = l
		}
	}
	for key, r := range h.routes {
		if r.from > after && !now.Before(r.until) {
			r.open = true
			h.routes[key] = r
		}
	}
}

// scanned drops the holds that were opened by a scan which has read everything
// and that nothing renewed: their rows are gone, discarded by an operator perhaps.
func (h *holds) scanned() {
	for key, l := range h.lines {
		if l.open {
			delete(h.lines, key)
		}
	}
	for key, r := range h.routes {
		if r.open {
			delete(h.routes, key)
		}
	}
}

func (h *holds) failed(row store.OutboxRow, now time.Time) {
	l := h.lines[lineOf(row)]
	l.failures++
	l.from, l.open = row.ID, false
	l.until = now.Add(h.pause(l.failures))
	h.lines[lineOf(row)] = l
	if row.Problem != nil {
		return // the row's own fault, whatever its route is like
	}

	r := h.routes[routeOf(row)]
	r.failures++
	if r.from == 0 || r.open || row.ID < r.from {
		r.from = row.ID
	}
	r.open = false
	r.until = now.Add(h.pause(r.failures - routeHoldAfter + 1))
	h.routes[routeOf(row)] = r
}

// skipped notes a row that was not tried because its route failed meanwhile.
func (h *holds) skipped(row store.OutboxRow) {
	if r, ok := h.routes[routeOf(row)]; ok && row.ID < r.from {
		r.from = row.ID
		h.routes[routeOf(row)] = r
	}
}

func (h *holds) succeeded(row store.OutboxRow) {
	delete(h.lines, lineOf(row))
	delete(h.routes, routeOf(row))
}

// pause doubles with each failure and varies by a quarter, so that forwarders
// don't come back at the same instant.
func (h *holds) pause(failures int) time.Duration {
	d := h.base
	for range min(max(failures-1, 0), 20) {
		d = min(2*d, h.limit)
	}
	return d + time.Duration((rand.Float64()-0.5)*0.5*float64(d))
}

// due returns the id from which rows have to be read again because a pause is
// over, and when the next one will be. Holds that are over stay, with their count
// of failures, until a publish succeeds.
func (h *holds) due(now time.Time) (from int64, next time.Time) {
	look := func(x hold) {
		if x.open {
			return
		}
		if !now.Before(x.until) {
			if from == 0 || x.from < from {
				from = x.from
			}
			return
		}
		if next.IsZero() || x.until.Before(next) {
			next = x.until
		}
	}
	for _, l := range h.lines {
		look(l)
	}
	for _, r := range h.routes {
		if r.failures >= routeHoldAfter {
			look(r)
		}
	}
	return from, next
}
