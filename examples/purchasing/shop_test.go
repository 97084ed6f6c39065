package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// trade is the service with a shop and a mail server.
type trade struct {
	bundle

	shop     *shop.Shop
	database string
	desk     *parking.Desk
	server   *testenv.MailServer
}

func startTrade(t *testing.T) trade {
	t.Helper()
	api := newShop()
	api.Least = 2
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	mails, database := testenv.StartMailServer(t, nil), testenv.SQLite(t)
	b := start(t, mails, database, func(cfg *config) { cfg.Shop = server.URL })
	st, err := store.Open(t.Context(), testenv.Open(t, database), store.Config{Dialect: store.SQLite})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return trade{b, api, database, parking.NewDesk(st, parking.DeskConfig{Actor: "anna"}), mails}
}

func (b trade) order(id string, quantity int) {
	b.t.Helper()
	status, answer := b.request(http.MethodPut, "/recommendations/"+id+"/order", fmt.Sprintf(`{"quantity": %d}`, quantity))
	require.Equal(b.t, http.StatusOK, status, answer)
}

// is waits until a recommendation is in a state.
func (b trade) is(id int64, state string) (r buying.Recommendation) {
	b.t.Helper()
	testenv.Eventually(b.t, patience, 20*time.Millisecond, func() (bool, string) {
		status, answer := b.request(http.MethodGet, "/recommendations", "")
		require.Equal(b.t, http.StatusOK, status, answer)
		var all []buying.Recommendation
		require.NoError(b.t, json.Unmarshal([]byte(answer), &all))
		r = all[id-1]
		return r.State == state, fmt.Sprintf("recommendation %d is %s", id, r.State)
	})
	return r
}

// waits returns the one message that waits for a person in this status.
func (b trade) waits(status store.ParkedStatus) (item parking.Item) {
	b.t.Helper()
	testenv.Eventually(b.t, patience, 20*time.Millisecond, func() (bool, string) {
		items, err := b.desk.List(b.t.Context(), store.ParkedFilter{Status: []store.ParkedStatus{status}}, 0, 2)
		require.NoError(b.t, err)
		if len(items) == 1 {
			item = items[0]
		}
		return len(items) == 1, fmt.Sprintf("%d wait", len(items))
	})
	return item
}

// mailed strikes five and returns the mails that were sent, by supplier.
func (b trade) mailed(n int) (contents map[string]string) {
	b.t.Helper()
	_, err := testenv.Open(b.t, b.database).ExecContext(b.t.Context(), "UPDATE headrace_scheduled SET due_at = 0")
	require.NoError(b.t, err)
	testenv.Eventually(b.t, patience, 20*time.Millisecond, func() (bool, string) {
		taken := b.server.Taken()
		contents = map[string]string{}
		for _, m := range taken {
			contents[m.To] = m.Content
		}
		return len(taken) == n, fmt.Sprintf("%d mails", len(taken))
	})
	return contents
}

// What users order is changed in the shop on the version that they have seen. Where
// somebody else has changed the quantity meanwhile, a person decides, and until then
// nothing goes to the supplier.
func TestWhatSomebodyElseHasChangedInTheShopWaitsForAPerson(t *testing.T) {
	t.Parallel()
	b := startTrade(t)
	b.shop.Change("1", func(p *shop.Purchase) { p.Note = "call first" })
	b.shop.Change("2", func(p *shop.Purchase) { p.Quantity = 12 })
	b.shop.Change("3", func(p *shop.Purchase) { p.Quantity = 5 })
	b.order("1", 20)
	b.is(1, buying.Ordered)
	p, changes := b.shop.Purchase("1")
	require.Equal(t, shop.Purchase{Version: 3, Quantity: 20, Note: "call first"}, p)
	require.Equal(t, 1, changes)

	b.order("2", 4)
	disputed := b.is(2, buying.Review)
	require.Equal(t, int64(12), disputed.SeenQuantity, "the next user sees what the shop has")
	review, err := b.desk.Get(t.Context(), b.waits(store.StatusReview).ID)
	require.NoError(t, err)
	require.Equal(t, "purchase 2", review.Subject)
	require.Contains(t, string(review.Diff), `{"field":"quantity","was":4,"is":12,"wanted":4}`)
	require.NoError(t, b.desk.Accept(t.Context(), review.ID, parking.Accepted))
	b.is(2, buying.Ordered)
	p, _ = b.shop.Purchase("2")
	require.Equal(t, int64(4), p.Quantity)

	b.order("3", 2)
	b.is(3, buying.Review)
	require.NoError(t, b.desk.Reject(t.Context(), b.waits(store.StatusReview).ID, "5 are enough"))
	p, changes = b.shop.Purchase("3")
	require.Equal(t, shop.Purchase{Version: 2, Quantity: 5}, p)
	require.Zero(t, changes)

	mails := b.mailed(1)
	require.Contains(t, mails["valves@localhost"], "1: 20 of Penstock valve\r\n2: 4 of Butterfly valve\r\n")
	b.order("3", 9)
	b.is(3, buying.Ordered)
	require.Contains(t, b.mailed(2)["gates@localhost"], "3: 9 of Sluice gate")
}

// What the shop can't take now is tried again, and waits for a person at last; what it
// refuses waits at once, with its reason. Later changes wait behind that, and nothing
// goes to the supplier.
func TestWhatTheShopDoesNotTakeWaitsAndGoesToNoSupplier(t *testing.T) {
	t.Parallel()
	b := startTrade(t)
	b.shop.BeforeChange(func(id string) int {
		if id == "1" {
			return http.StatusServiceUnavailable
		}
		return 0
	})
	b.order("1", 20)
	down := b.waits(store.StatusParked)
	require.Equal(t, string(parking.Transient), down.Class)
	require.Contains(t, down.Reason, "Service Unavailable")
	b.order("1", 21)
	b.waits(store.StatusWaiting)
	require.Equal(t, buying.Booking, b.is(1, buying.Booking).State)
	b.order("3", 9)
	b.is(3, buying.Ordered)
	require.Len(t, b.mailed(1), 1, "to the other supplier")

	b.shop.BeforeChange(nil)
	require.NoError(t, b.desk.Retry(t.Context(), down.ID, parking.RetryOptions{}))
	require.Equal(t, int64(21), b.is(1, buying.Ordered).Quantity)

	b.order("2", 1)
	refused := b.waits(store.StatusParked)
	require.Equal(t, string(parking.Permanent), refused.Class)
	require.Contains(t, refused.Reason, "the least order is 2")
	require.ErrorIs(t, b.desk.Retry(t.Context(), refused.ID, parking.RetryOptions{}), parking.ErrNeedsEdit)
	whole, err := b.desk.Get(t.Context(), refused.ID)
	require.NoError(t, err)
	mended := []byte(strings.Replace(string(whole.Payload), `"quantity":1,`, `"quantity":2,`, 1))
	require.NoError(t, b.desk.Edit(t.Context(), refused.ID, parking.Edit{Payload: &mended, Retry: true}))
	require.Equal(t, int64(2), b.is(2, buying.Ordered).Quantity)
	mails := b.mailed(2)
	require.Contains(t, mails["valves@localhost"], "1: 21 of Penstock valve\r\n2: 2 of Butterfly valve\r\n")
}

func TestAnOrderIsWithdrawnInTheShop(t *testing.T) {
	t.Parallel()
	b := startTrade(t)
	status, answer := b.request(http.MethodDelete, "/recommendations/1/order", "")
	require.Equal(t, http.StatusConflict, status, answer)
	b.order("1", 20)
	b.order("1", 30)
	status, answer = b.request(http.MethodDelete, "/recommendations/1/order", "")
	require.Equal(t, http.StatusOK, status, answer)
	b.is(1, buying.Open)
	p, _ := b.shop.Purchase("1")
	require.Zero(t, p.Quantity, "and no change of the user's own was a conflict")
	b.order("1", 10)
	b.is(1, buying.Ordered)
	require.Contains(t, b.mailed(1)["valves@localhost"], "1: 10 of")
	status, answer = b.request(http.MethodDelete, "/recommendations/1/order", "")
	require.Equal(t, http.StatusConflict, status, answer)
	require.Contains(t, answer, "mailed")
}
