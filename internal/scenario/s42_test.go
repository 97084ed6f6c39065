package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Changes of orders go to a shop's API, and what the shop has taken is told to the
// supplier. The shop fails for one order until long after its change's retries are
// used up, and refuses a change of another for good. Without the protection both are
// tried for ever.
func TestS42_OutOfRetries(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		c := newChanges42(t, open(t, p))
		c.start(protected)
		c.send(change42{ID: "down", Order: "order-1", Quantity: 50})
		c.send(change42{ID: "refused", Order: "order-2", Quantity: 5})
		c.usedUp(protected)
		c.send(change42{ID: "behind", Order: "order-1", Quantity: 60})
		if !protected {
			c.usedUp(protected)
			return c.damage()
		}
		c.send(change42{ID: "other", Order: "order-3", Quantity: 30})
		c.acked.wait(t, "told-other", 1)
		c.acked.wait(t, "behind", 1)                                  // which is to say that it waits
		testenv.Eventually(t, patience, tick, func() (bool, string) { // it may be handled before its sending has returned
			told := c.supplier.of("order-3")
			return slices.Equal(told, []string{"told-other"}), fmt.Sprintf("told is %q", told)
		})
		require.Empty(t, c.supplier.of("order-1"))
		require.Empty(t, c.supplier.of("order-2"))
		require.Equal(t, tries42, c.shop.calls("down"))
		require.Equal(t, 1, c.shop.calls("refused"))
		c.backedOff()
		c.byPeople()
		return c.damage()
	})
}

// What Parking is told to do, and how many calls that makes of a change.
var delays42 = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond}

const (
	immediate42 = 1
	tries42     = 1 + immediate42 + 2
	least42     = 10
	forEver42   = 2 * tries42
)

// change42 is what a message says.
type change42 struct {
	ID       string `json:"id"`
	Order    string `json:"order"`
	Quantity int    `json:"quantity"`
}

// shop42 is a shop's API. It remembers idempotency keys.
type shop42 struct {
	mu      sync.Mutex
	down    string // an order for which it fails
	called  map[string][]time.Time
	keys    map[string]bool
	changed map[string][]int // the quantities of an order
}

func (s *shop42) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c change42
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		http.Error(w, "no change", http.StatusBadRequest)
		return
	}
	s.called[c.ID] = append(s.called[c.ID], time.Now())
	switch key := r.Header.Get("Idempotency-Key"); {
	case c.Order == s.down:
		http.Error(w, "try later", http.StatusServiceUnavailable)
	case c.Quantity < least42:
		http.Error(w, fmt.Sprintf("below the least order of %d", least42), http.StatusBadRequest)
	case !s.keys[key]:
		s.keys[key] = true
		s.changed[c.Order] = append(s.changed[c.Order], c.Quantity)
	}
}

func (s *shop42) calls(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.called[id])
}

func (s *shop42) fails(order string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = order
}

// changes42 is the service with its shop and its supplier.
type changes42 struct {
	*world

	shop              *shop42
	address           string
	supplier          *sentLog
	changes, told     string // topics
	acked, deliveries *tally
}

func newChanges42(t *testing.T, w *world) *changes42 {
	t.Helper()
	c := &changes42{
		world: w, supplier: &sentLog{byKey: map[string][]string{}}, changes: w.topic("changes"), told: w.topic("told"),
		acked: newTally(), deliveries: newTally(),
		shop: &shop42{
			down: "order-1", called: map[string][]time.Time{}, keys: map[string]bool{}, changed: map[string][]int{},
		},
	}
	server := httptest.NewServer(c.shop)
	t.Cleanup(server.Close)
	c.address = server.URL
	w.must("CREATE TABLE accepted (id varchar(50) NOT NULL, quantity int NOT NULL)",
		"CREATE TABLE heard (id varchar(50) NOT NULL)")
	return c
}

// send publishes a change under its order's key.
func (c *changes42) send(change change42) {
	c.t.Helper()
	payload, err := json.Marshal(change)
	require.NoError(c.t, err)
	msg := message.NewMessage(change.ID, payload)
	msgmeta.SetKey(msg, change.Order)
	require.NoError(c.t, c.bus.Publisher.Publish(c.changes, msg))
}

func (c *changes42) start(protected bool) {
	c.t.Helper()
	parks, err := middleware.NewParking(c.st, middleware.ParkingConfig{
		Service: "shop", Logger: c.logger, Delays: delays42, Immediate: middleware.Immediate{Tries: immediate42},
	})
	require.NoError(c.t, err)
	s := subscription{
		service: "shop", topic: c.changes, publish: c.told, handle: c.accept,
		middlewares: chain(one(c.acked.acked), unlessOff(protected, parks.Middleware), one(c.stage()),
			one(c.dedupe("shop", func(cfg *middleware.DedupeConfig) { cfg.Outbox = c.outbox }))),
	}
	if protected {
		sub, err := c.bus.SubscriberFor("shop")
		require.NoError(c.t, err)
		s.subscriber, err = parking.NewSubscriber(c.st, sub, parking.SubscriberConfig{
			Consumer: "shop.handle", Valve: parks.Valve(), MaxPollInterval: 200 * time.Millisecond, Logger: c.logger,
		})
		require.NoError(c.t, err)
	}
	c.forward(forwarder.Config{}, c.supplier.decorate)
	c.serve(s, subscription{
		service: "supplier", handler: "hear", topic: c.told, middlewares: chain(one(c.acked.acked), one(c.dedupe("supplier"))),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			return nil, c.exec(msg.Context(), "INSERT INTO heard VALUES (?)", msg.UUID)
		},
	})
}

// stage calls the shop. A change that a person has edited is another call.
func (c *changes42) stage() message.HandlerMiddleware {
	c.t.Helper()
	client, err := effects.New(c.st, effects.Config{
		Service: "shop", Provider: effects.Provider{Name: "shop", Keys: true}, Logger: c.logger,
	})
	require.NoError(c.t, err)
	call := effects.HTTP{Reason: func(r effects.Response) string { return string(r.Body) }}.Call(
		func(ctx context.Context, body []byte) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPut, c.address, bytes.NewReader(body))
		})
	return client.Stage("change", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		c.deliveries.add(msg.UUID)
		content := sha256.Sum256(msg.Payload)
		return client.Do(ctx, "change", msg.UUID+"/"+hex.EncodeToString(content[:4]), msg.Payload, call)
	})
}

// accept is the handler, behind the call.
func (c *changes42) accept(msg *message.Message) ([]*message.Message, error) {
	var change change42
	if err := json.Unmarshal(msg.Payload, &change); err != nil {
		return nil, err
	}
	if err := c.exec(msg.Context(), "INSERT INTO accepted VALUES (?, ?)", msg.UUID, change.Quantity); err != nil {
		return nil, err
	}
	tell := message.NewMessage("told-"+msg.UUID, msg.Payload)
	msgmeta.SetKey(tell, change.Order)
	return []*message.Message{tell}, nil
}

// usedUp waits until both changes wait for a person or, without the protection, until
// one of them was tried more often than anybody has allowed.
func (c *changes42) usedUp(protected bool) {
	c.t.Helper()
	testenv.Eventually(c.t, patience, tick, func() (bool, string) {
		down, _ := c.deliveries.get("down")
		refused, _ := c.deliveries.get("refused")
		state := fmt.Sprintf("tried %d and %d times", down, refused)
		if !protected {
			return max(down, refused) >= forEver42, state
		}
		return c.count("SELECT count(*) FROM headrace_parked WHERE status = 'parked'") == 2, state
	})
}

// backedOff looks at the times of the calls that have failed.
func (c *changes42) backedOff() {
	c.t.Helper()
	c.shop.mu.Lock()
	defer c.shop.mu.Unlock()
	const shortest = 0.75 // of the delay, which varies by a fifth
	at := c.shop.called["down"]
	for i, delay := range delays42 {
		pause := at[i+1+immediate42].Sub(at[i+immediate42])
		require.GreaterOrEqual(c.t, pause, time.Duration(shortest*float64(delay)), "the pause before try %d", i+2+immediate42)
	}
}

// byPeople is what is done when the shop is well again.
func (c *changes42) byPeople() {
	c.t.Helper()
	ctx := c.t.Context()
	desk := parking.NewDesk(c.st, parking.DeskConfig{Actor: "anna"})
	items, err := desk.List(ctx, store.ParkedFilter{Status: []store.ParkedStatus{store.StatusParked}}, 0, 10)
	require.NoError(c.t, err)
	require.Len(c.t, items, 2)
	waiting := map[string]parking.Whole{}
	for _, item := range items {
		waiting[item.MessageID], err = desk.Get(ctx, item.ID)
		require.NoError(c.t, err)
	}
	down, refused := waiting["down"], waiting["refused"]
	require.Equal(c.t, string(parking.Transient), down.Class)
	require.Equal(c.t, tries42, down.Attempts)
	require.Contains(c.t, down.Reason, "try later")
	require.Len(c.t, down.History, tries42)
	require.Equal(c.t, 1, down.Behind)
	require.Equal(c.t, string(parking.Permanent), refused.Class)
	require.Contains(c.t, refused.Reason, "below the least order of 10")

	c.shop.fails("")
	require.NoError(c.t, desk.Retry(ctx, down.ID, parking.RetryOptions{}))
	c.acked.wait(c.t, "told-down", 1)
	c.acked.wait(c.t, "told-behind", 1)
	require.ErrorIs(c.t, desk.Retry(ctx, refused.ID, parking.RetryOptions{}), parking.ErrNeedsEdit)
	require.Equal(c.t, 1, c.shop.calls("refused"))
	mended, err := json.Marshal(change42{ID: "refused", Order: "order-2", Quantity: 20})
	require.NoError(c.t, err)
	require.NoError(c.t, desk.Edit(ctx, refused.ID, parking.Edit{Payload: &mended, Retry: true}))
	c.acked.wait(c.t, "told-refused", 1)
	c.settled(c.changes, "shop")
	c.settled(c.told, "supplier")
}

// damage: nothing was tried more often than allowed, every change was made once, in
// order, and heard of once.
func (c *changes42) damage() (found []string) {
	c.t.Helper()
	for id, most := range map[string]int{"down": tries42 + 1, "refused": 2} {
		if n, _ := c.deliveries.get(id); n > most {
			found = append(found, fmt.Sprintf("%s was tried %d times", id, n))
		}
	}
	c.shop.mu.Lock()
	defer c.shop.mu.Unlock()
	for order, want := range map[string][]int{"order-1": {50, 60}, "order-2": {20}, "order-3": {30}} {
		if got := c.shop.changed[order]; !slices.Equal(got, want) {
			found = append(found, fmt.Sprintf("the shop has taken %v for %s instead of %v", got, order, want))
		}
	}
	for _, id := range []string{"down", "behind", "refused", "other"} {
		accepted := c.count("SELECT count(*) FROM accepted WHERE id = ?", id)
		heard := c.count("SELECT count(*) FROM heard WHERE id = ?", "told-"+id)
		if accepted != 1 || heard != 1 {
			found = append(found, fmt.Sprintf("%s was accepted %d times and heard of %d times", id, accepted, heard))
		}
	}
	return found
}
