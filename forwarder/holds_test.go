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
