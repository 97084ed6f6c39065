package forwarder

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// A line's pause ends while its whole route is held, and the route opens later,
// with a scan that begins above the line's failed row.
func TestALineStaysHeldWhileItsRouteIs(t *testing.T) {
	t.Parallel()
	now := time.Now()
	failed := store.OutboxRow{ID: 5, Destination: "d", Topic: "t", Key: "k"}
	next := failed
	next.ID = 20
	h := newHolds(time.Second, time.Minute)
	h.lines[lineOf(failed)] = hold{from: failed.ID, failures: 3, until: now}
	h.routes[routeOf(failed)] = hold{from: 7, failures: routeHoldAfter, rounds: 1, until: now.Add(time.Minute)}

	from, _ := h.due(now.Add(time.Second))
	require.Zero(t, from, "nothing can be tried yet")
	h.scan(beforeAll, now.Add(time.Second)) // a rescan
	require.True(t, h.held(failed))
	h.scanned()

	now = now.Add(2 * time.Minute)
	from, _ = h.due(now)
	require.EqualValues(t, 7, from)
	h.scan(from-1, now)
	require.True(t, h.held(next), "it would overtake the failed row")
	h.scanned()
	from, _ = h.due(now)
	require.EqualValues(t, 5, from)
	h.scan(from-1, now)
	require.False(t, h.held(failed))
	require.False(t, h.held(next))
}

// A row whose transaction committed late has a lower id than the parked one of its
// line: it is sent, and what follows the parked one still waits.
func TestAParkedRowStaysHeldWhenAnEarlierOneIsSent(t *testing.T) {
	t.Parallel()
	now := time.Now()
	row := func(id int64) store.OutboxRow {
		return store.OutboxRow{ID: id, Destination: "d", Topic: "t", Key: "k"}
	}
	h := newHolds(time.Second, time.Minute)
	h.park(row(5))
	require.True(t, h.held(row(6)))
	from, next := h.due(now.Add(time.Hour))
	require.Zero(t, from, "no pause ends it")
	require.Zero(t, next)
	h.scan(4, now)
	require.False(t, h.held(row(3)))
	h.park(row(5)) // it was read again
	h.note(outcome{published: []store.OutboxRow{row(3)}}, now)
	require.True(t, h.held(row(6)))

	// The earlier one fails: it is tried again after its pause, and then the parked one
	// is read again behind it.
	h.scan(1, now)
	h.park(row(5))
	h.note(outcome{failed: []failure{{row: row(3)}}}, now)
	h.park(row(5))
	from, _ = h.due(now.Add(time.Hour))
	require.EqualValues(t, 3, from)

	// A scan that begins above the parked row doesn't open its line, one that has not
	// found it drops it.
	h = newHolds(time.Second, time.Minute)
	h.park(row(5))
	h.scan(5, now)
	require.True(t, h.held(row(6)))
	h.scanned()
	require.True(t, h.held(row(6)))
	h.scan(beforeAll, now)
	h.scanned()
	require.Empty(t, h.lines)
}
