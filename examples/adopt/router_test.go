package adopt_test

import (
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

// The way of an order through the warehouse.
var routerStages = []stage{
	{"orders_placed", "warehouse_reserve"},
	{"stock_reserved", tapGroup},
	{"stock_reserved", "warehouse_points"},
	{"stock_reserved", "warehouse_invoice"},
	{"points_earned", tapGroup},
	{"invoices_issued", tapGroup},
}

// The orders of the story, and what befalls them.
var routerOrders = []string{"plain", "dup", "fail-book", "crash-book", "fail-credit", "crash-credit", "copied"}

const (
	quantity  = 3
	fullStock = 1_000_000
)

func newOrder(id, customer string) *message.Message {
	payload := fmt.Sprintf(`{"order": %q, "product": "mill", "quantity": %d, "customer": %q}`, id, quantity, customer)
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

// The same program, the same deliveries, the same failures and crashes: before
// the patch the tables are damaged.
func TestS71_AnOrdinaryRouterIsDamagedBefore(t *testing.T) {
	inTheLongRun(t)
	eachParts(t, func(t *testing.T, p parts) {
		t.Helper()
		got := playRouter(t, p, false)
		want := routerLedger(t)
		for _, damaged := range []string{
			"reservation/dup", "reservation/fail-book", "reservation/crash-book",
			"points/fail-credit", "points/crash-credit", "invoice/copied",
		} {
			require.Greater(t, got[damaged], want[damaged], "%s should be doubled without Headrace", damaged)
		}
	})
}

// After the patch they are right.
func TestS71_AnOrdinaryRouterIsRightAfter(t *testing.T) {
	eachParts(t, func(t *testing.T, p parts) {
		t.Helper()
		require.Equal(t, routerLedger(t), playRouter(t, p, true))
	})
}

// routerLedger is what should be in the tables and on the topics.
func routerLedger(t *testing.T) map[string]int {
	t.Helper()
	ledger := map[string]int{"stock/mill": fullStock - quantity*len(routerOrders)}
	for _, id := range routerOrders {
		ledger["reservation/"+id] = 1
		ledger["points/"+id] = quantity
		ledger["credit/"+id] = 1
		ledger["invoice/"+id] = 1
		ledger["message stock_reserved/"+id] = 1
		ledger["message points_earned/"+id] = 1
		ledger["message invoices_issued/"+id] = 1
	}
	return ledger
}

// playRouter sends the orders and returns what became of them.
func playRouter(t *testing.T, p parts, patched bool) map[string]int {
	t.Helper()
	e := newEnvironment(t, "router", p)
	for _, id := range routerOrders {
		e.exec(t, "INSERT INTO customers VALUES (?, 0)", id)
	}
	heard := e.tap(t, func(about string) bool { return about == "copied" },
		"stock_reserved", "points_earned", "invoices_issued")
	service := e.supervise(t, build(t, "router", patched, p))
	e.partners.once("/book/fail-book", func() {})
	e.partners.once("/credit/fail-credit", func() {})
	e.partners.once("/book/crash-book", service.crash)
	e.partners.once("/credit/crash-credit", service.crash)
	for _, id := range routerOrders {
		msg := newOrder(id, id)
		copies := 1
		if id == "dup" {
			copies = 3
		}
		for range copies {
			require.NoError(t, e.opened.Publisher.Publish(e.topics+"orders_placed", msg.Copy()))
		}
	}
	e.drained(t, routerStages...)
	require.True(t, e.partners.untroubled(), "every trouble must have happened")
	service.stop(t)

	ledger := map[string]int{}
	ctx := t.Context()
	e.sums(ctx, t, ledger, "stock/", "SELECT product, stock FROM products")
	e.sums(ctx, t, ledger, "points/", "SELECT customer, points FROM customers")
	e.sums(ctx, t, ledger, "reservation/", "SELECT order_id, count(*) FROM reservations GROUP BY order_id")
	e.sums(ctx, t, ledger, "credit/", "SELECT order_id, count(*) FROM credits GROUP BY order_id")
	e.sums(ctx, t, ledger, "invoice/", "SELECT order_id, count(*) FROM invoices GROUP BY order_id")
	heard.count(ledger)
	return ledger
}
