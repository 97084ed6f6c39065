package forwarder

import (
	"cmp"
	"math/rand/v2"
	"slices"
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
	until time.Time
	// failures counts those of a line, or of all lines of a route since its last
	// success.
	failures int
	// rounds is how often in a row a route was held.
	rounds int
	// from is the lowest id that waits.
	from int64
	// since is, of a line, the count of its route's wins when it failed first.
	since int
	// open is set by the scan that reads from there.
	open bool
	// parked: a row of the line is, and no pause ends that. Every scan that will read
	// the row opens the hold, and the row, if it is parked still, renews it.
	parked bool
	// own counts the failures of a line that were no sign that its route was down.
	own int
}

// holds remembers what failed in one partition. Only the partition's own
// goroutine uses it.
type holds struct {
	lines  map[line]hold
	routes map[route]hold
	// wins counts the batches of which a route took any row, while lines are held.
	wins  map[route]int
	base  time.Duration
	limit time.Duration
}

// A whole route is held when this many lines failed with no success between:
// then it is the broker that is down, and trying every key would only fill the
// memory with holds. A line that failed while its route took others says nothing
// more about the route: else so many lines whose messages the broker refuses, one
// by one, would hold up all others of their topic.
const routeHoldAfter = 8

func newHolds(base, limit time.Duration) *holds {
	return &holds{lines: map[line]hold{}, routes: map[route]hold{}, wins: map[route]int{}, base: base, limit: limit}
}

// held reports whether a row has to wait.
func (h *holds) held(row store.OutboxRow) bool {
	if h.closed(routeOf(row)) {
		return true
	}
	l, ok := h.lines[lineOf(row)]
	return ok && !l.open
}

func (h *holds) closed(key route) bool {
	r, ok := h.routes[key]
	return ok && r.failures >= routeHoldAfter && !r.open
}

// scan opens the holds whose pause is over and whose rows will all be read by a
// scan that begins after an id. A line stays closed while its route is: its rows
// would be read and not tried, and its next ones tried before them when the route
// opens with a scan that begins above them.
func (h *holds) scan(after int64, now time.Time) {
	for key, r := range h.routes {
		if r.from > after && !now.Before(r.until) {
			r.open = true
			h.routes[key] = r
		}
	}
	for key, l := range h.lines {
		if l.from > after && (l.parked || !now.Before(l.until)) && !h.closed(key.route) {
			l.open = true
			h.lines[key] = l
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

// ownFault reports whether a failure of the row is no sign that its route is down.
// It may be called side by side with itself.
func (h *holds) ownFault(row store.OutboxRow) bool {
	if row.Problem != nil {
		return true
	}
	l, ok := h.lines[lineOf(row)]
	return ok && h.wins[routeOf(row)] > l.since
}

// note takes in what became of a batch: successes first, because a route with any
// success is not down.
func (h *holds) note(out outcome, now time.Time) {
	won := map[route]bool{}
	for _, row := range out.published {
		won[routeOf(row)] = true
		if l := h.lines[lineOf(row)]; !l.parked || l.open { // else it is one before the parked one
			delete(h.lines, lineOf(row))
		}
	}
	for r := range won {
		delete(h.routes, r)
		h.wins[r]++
	}
	down := map[route]bool{}
	for _, f := range out.failed {
		h.failed(f, now, won[routeOf(f.row)])
		down[routeOf(f.row)] = true
	}
	for _, row := range out.putOff {
		h.routeFailed(row, routeHoldAfter)
		down[routeOf(row)] = true
		if l, ok := h.lines[lineOf(row)]; ok {
			l.open = false // it keeps its count
			h.lines[lineOf(row)] = l
		}
	}
	for r := range down {
		h.holdRoute(r, now)
	}
	if len(h.lines) == 0 {
		clear(h.wins)
	}
}

func (h *holds) failed(f failure, now time.Time, routeWon bool) {
	row := f.row
	l, known := h.lines[lineOf(row)]
	if !known {
		l.since = h.wins[routeOf(row)]
		if routeWon {
			l.since--
		}
	}
	l.failures++
	l.from, l.open, l.parked = row.ID, false, false
	l.until = now.Add(h.pause(l.failures))
	if row.Problem != nil {
		l.until = now.Add(h.limit) // it stays as it is until somebody changes it
	}
	h.lines[lineOf(row)] = l
	if f.refused || h.ownFault(row) {
		l.own++
		h.lines[lineOf(row)] = l
	} else {
		h.routeFailed(row, h.routes[routeOf(row)].failures+1)
	}
}

// park holds the line of a row that is parked.
func (h *holds) park(row store.OutboxRow) {
	l, known := h.lines[lineOf(row)]
	if !known {
		l.since = h.wins[routeOf(row)]
	}
	if known && !l.open && !l.parked && l.from < row.ID {
		return // one before it has failed, and is tried again after its pause
	}
	if !known || l.open || row.ID < l.from {
		l.from = row.ID
	}
	l.parked, l.open, l.own = true, false, 0
	h.lines[lineOf(row)] = l
}

// parked returns the rows that hold their lines because they are parked.
func (h *holds) parked() (ids []int64) {
	for _, l := range h.lines {
		if l.parked {
			ids = append(ids, l.from)
		}
	}
	return ids
}

// judge ends the holds of parked rows that still does not have any more: their lines
// are read again from there.
func (h *holds) judge(still map[int64]bool) {
	for key, l := range h.lines {
		if l.parked && !l.open && !still[l.from] {
			l.parked, l.until = false, time.Time{}
			h.lines[key] = l
		}
	}
}

// routeFailed notes a row that failed, or was not tried because others of its
// route did.
func (h *holds) routeFailed(row store.OutboxRow, failures int) {
	r := h.routes[routeOf(row)]
	if r.from == 0 || r.open || row.ID < r.from {
		r.from = row.ID
	}
	r.failures, r.open = max(r.failures, failures), false
	h.routes[routeOf(row)] = r
}

// holdRoute begins a route's pause if enough of its lines have failed. The pause
// doubles with each time, not with each line: hundreds may fail at one moment.
func (h *holds) holdRoute(key route, now time.Time) {
	r := h.routes[key]
	if r.failures < routeHoldAfter || r.open {
		return
	}
	r.rounds++
	r.until = now.Add(h.pause(r.rounds))
	h.routes[key] = r
}

// sortLines puts lines first that have not failed, in any order where their route
// has: after a pause it is others that are tried, and one of them may show that it
// isn't the route that is at fault.
func (h *holds) sortLines(order []line) {
	if len(h.lines) == 0 {
		return
	}
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	slices.SortStableFunc(order, func(a, b line) int { return cmp.Compare(h.lines[a].failures, h.lines[b].failures) })
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
	for key, l := range h.lines {
		if !l.parked && !h.closed(key.route) {
			look(l)
		}
	}
	for key, r := range h.routes {
		if h.closed(key) {
			look(r)
		}
	}
	return from, next
}
