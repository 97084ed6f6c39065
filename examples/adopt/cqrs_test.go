package adopt_test

import (
	"encoding/json"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// The way of a booking through the hotel: the topic of the events is passed
// twice, for the room and for the beer.
var cqrsStages = []stage{
	{"BookRoom", "hotel_book_room"},
	{"events", tapGroup},
	{"events", "hotel_serve_beer"},
	{"OrderBeer", tapGroup},
	{"OrderBeer", "hotel_order_beer"},
	{"events", tapGroup},
	{"events", "hotel_serve_beer"},
	{"events", "hotel_report"},
}

// The bookings of the story, and what befalls them.
var cqrsBookings = []string{
	"plain", "dup", "fail-pay", "crash-pay", "fail-brew", "crash-brew", "fail-audit", "crash-audit", "copied",
}

const (
	roomPrice = 90
	beers     = 2
)

func booking(t *testing.T, id string) *message.Message {
	t.Helper()
	payload, err := json.Marshal(map[string]any{"booking": id, "room": id, "price": roomPrice})
	require.NoError(t, err)
	msg := message.NewMessage(watermill.NewUUID(), payload)
	msg.Metadata.Set("name", "BookRoom")
	return msg
}

// The same program, the same deliveries, the same failures and crashes: before
// the patch the tables are damaged.
func TestS71_ACQRSApplicationIsDamagedBefore(t *testing.T) {
	inTheLongRun(t)
	eachParts(t, func(t *testing.T, p parts) {
		t.Helper()
		got := playCQRS(t, p, false)
		want := cqrsLedger()
		for _, damaged := range []string{
			"room/dup", "booking/fail-pay", "booking/crash-pay", "beer/fail-brew", "beer/crash-brew",
			"report/revenue", "message OrderBeerOrderBeer/copied",
		} {
			require.Greater(t, got[damaged], want[damaged], "%s should be doubled without Headrace", damaged)
		}
	})
}

// After the patch they are right.
func TestS71_ACQRSApplicationIsRightAfter(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		t.Helper()
		require.Equal(t, cqrsLedger(), playCQRS(t, p, true))
	})
}

// cqrsLedger is what should be in the tables and on the topics.
func cqrsLedger() map[string]int {
	n := len(cqrsBookings)
	ledger := map[string]int{
		"report/revenue": n * roomPrice, "report/beers": n * beers, "bar/beers": fullStock - n*beers,
	}
	for _, id := range cqrsBookings {
		ledger["room/"+id] = 1
		ledger["booking/"+id] = 1
		ledger["beer/"+id] = 1
		ledger["audit/"+id] = 1
		ledger["message eventsRoomBooked/"+id] = 1
		ledger["message eventsBeerOrdered/"+id] = 1
		ledger["message OrderBeerOrderBeer/"+id] = 1
	}
	return ledger
}

// playCQRS sends the commands and returns what became of them.
func playCQRS(t *testing.T, p parts, patched bool) map[string]int {
	t.Helper()
	e := newEnvironment(t, "cqrs", p)
	for _, id := range cqrsBookings {
		e.exec(t, "INSERT INTO rooms VALUES (?, 0)", id)
	}
	heard := e.tap(t, func(about string) bool { return about == "copied" }, "events", "OrderBeer")
	service := e.supervise(t, build(t, "cqrs", patched, p))
	for _, failing := range []string{"/pay/fail-pay", "/brew/fail-brew", "/audit/fail-audit"} {
		e.partners.once(failing, func() {})
	}
	for _, crashing := range []string{"/pay/crash-pay", "/brew/crash-brew", "/audit/crash-audit"} {
		e.partners.once(crashing, service.crash)
	}
	for _, id := range cqrsBookings {
		msg := booking(t, id)
		copies := 1
		if id == "dup" {
			copies = 3
		}
		for range copies {
			require.NoError(t, e.opened.Publisher.Publish(e.topics+"BookRoom", msg.Copy()))
		}
	}
	e.drained(t, cqrsStages...)
	require.True(t, e.partners.untroubled(), "every trouble must have happened")
	service.stop(t)

	ledger := map[string]int{}
	ctx := t.Context()
	e.sums(ctx, t, ledger, "room/", "SELECT room, bookings FROM rooms")
	e.sums(ctx, t, ledger, "booking/", "SELECT booking_id, count(*) FROM bookings GROUP BY booking_id")
	e.sums(ctx, t, ledger, "beer/", "SELECT booking_id, count(*) FROM beer_orders GROUP BY booking_id")
	e.sums(ctx, t, ledger, "audit/", "SELECT booking_id, count(*) FROM audits GROUP BY booking_id")
	e.sums(ctx, t, ledger, "report/", "SELECT 'revenue', revenue FROM report UNION ALL SELECT 'beers', beers FROM report")
	e.sums(ctx, t, ledger, "bar/", "SELECT 'beers', beers FROM bar")
	heard.count(ledger)
	return ledger
}
