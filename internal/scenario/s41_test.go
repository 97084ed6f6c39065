package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Users change purchases that they have seen in some version; the changes go to a
// shop's API, which answers 409 unless they are based on the current one. By then one
// purchase has another note, two another quantity, and of one change the answer is
// lost. The service crashes behind each call. Without the protection a 409 is answered
// by the same change on the current version.
func TestS41_Conflict(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		c := newChanges41(t, open(t, p))
		c.start(protected)
		for _, id := range purchases41 {
			c.decide(change41{Purchase: id, Seen: purchase41{Version: 1, Quantity: seen41}, Quantity: wanted41})
		}
		if protected {
			c.reviewed()
		}
		c.told(protected)
		return c.damage(protected)
	})
}

// The purchases, and what befalls each.
const (
	plain    = "plain"
	noted    = "noted"    // somebody has changed its note
	unheard  = "unheard"  // the answer to its change is lost
	accepted = "accepted" // somebody has changed its quantity; a person has it changed all the same
	rejected = "rejected" // as before; a person leaves it
)

var purchases41 = []string{plain, noted, unheard, accepted, rejected}

const (
	seen41   = 10
	others41 = 12
	wanted41 = 50
)

type purchase41 struct {
	Version  int    `json:"version"`
	Quantity int    `json:"quantity"`
	Note     string `json:"note"`
}

// change41 is what a message says.
type change41 struct {
	Purchase string     `json:"purchase"`
	Seen     purchase41 `json:"seen"`
	Quantity int        `json:"quantity"`
}

// shop41 is a shop's API.
type shop41 struct {
	mu        sync.Mutex
	purchases map[string]purchase41
	lost      map[string]bool // whose next answer is lost
	changed   map[string]int
}

func newShop41() *shop41 {
	s := &shop41{purchases: map[string]purchase41{}, lost: map[string]bool{unheard: true}, changed: map[string]int{}}
	for _, id := range purchases41 {
		s.purchases[id] = purchase41{Version: 1, Quantity: seen41}
	}
	s.purchases[noted] = purchase41{Version: 3, Quantity: seen41, Note: "call first"}
	s.purchases[accepted] = purchase41{Version: 2, Quantity: others41}
	s.purchases[rejected] = purchase41{Version: 2, Quantity: others41}
	return s
}

func (s *shop41) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.URL.Path[1:]
	now := s.purchases[id]
	if r.Method == http.MethodPut {
		var wanted purchase41
		if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
			http.Error(w, "no purchase", http.StatusBadRequest)
			return
		}
		if r.Header.Get("If-Match") != strconv.Itoa(now.Version) {
			http.Error(w, "changed meanwhile", http.StatusConflict)
			return
		}
		now = purchase41{Version: now.Version + 1, Quantity: wanted.Quantity, Note: now.Note}
		s.purchases[id] = now
		s.changed[id]++
		if s.lost[id] {
			delete(s.lost, id)
			panic(http.ErrAbortHandler)
		}
	}
	if err := json.NewEncoder(w).Encode(now); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// changes41 is the service with its shop and its supplier.
type changes41 struct {
	*world

	shop               *shop41
	address            string
	changes, suppliers string // topics
	acked              *tally
}

func newChanges41(t *testing.T, w *world) *changes41 {
	t.Helper()
	c := &changes41{
		world: w, shop: newShop41(), changes: w.topic("changes"), suppliers: w.topic("suppliers"), acked: newTally(),
	}
	server := httptest.NewServer(c.shop)
	t.Cleanup(server.Close)
	c.address = server.URL
	w.must("CREATE TABLE actions (purchase varchar(50) NOT NULL, state varchar(50) NOT NULL)",
		"CREATE TABLE heard (purchase varchar(50) NOT NULL)")
	return c
}

// decide is a user's action, and its message.
func (c *changes41) decide(change change41) {
	c.t.Helper()
	c.must("INSERT INTO actions VALUES ('" + change.Purchase + "', 'decided')")
	payload, err := json.Marshal(change)
	require.NoError(c.t, err)
	msg := message.NewMessage("change-"+change.Purchase, payload)
	msgmeta.SetKey(msg, change.Purchase)
	require.NoError(c.t, c.bus.Publisher.Publish(c.changes, msg))
}

func (c *changes41) start(protected bool) {
	c.t.Helper()
	parks, err := middleware.NewParking(c.st, middleware.ParkingConfig{
		Service: "shop", Logger: c.logger, Delays: []time.Duration{50 * time.Millisecond, 200 * time.Millisecond},
		OnConflict: func(ctx context.Context, _ store.Tx, msg *message.Message, _ error) error {
			return c.exec(ctx, "UPDATE actions SET state = 'in review' WHERE purchase = ?", msgmeta.GetKey(msg))
		},
	})
	require.NoError(c.t, err)
	sub, err := c.bus.SubscriberFor("shop")
	require.NoError(c.t, err)
	sub, err = parking.NewSubscriber(c.st, sub, parking.SubscriberConfig{
		Consumer: "shop.handle", Valve: parks.Valve(), MaxPollInterval: 200 * time.Millisecond, Logger: c.logger,
	})
	require.NoError(c.t, err)
	c.forward(forwarder.Config{})
	c.serve(
		subscription{
			service: "shop", topic: c.changes, publish: c.suppliers, subscriber: sub, handle: c.book,
			middlewares: chain(one(c.acked.acked), one(parks.Middleware), one(crashAt(step.HandlerReturned)),
				one(c.stage(protected)), one(c.dedupe("shop", func(cfg *middleware.DedupeConfig) { cfg.Outbox = c.outbox }))),
		},
		subscription{
			service: "supplier", handler: "hear", topic: c.suppliers,
			middlewares: chain(one(c.acked.acked), one(c.dedupe("supplier"))),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				return nil, c.exec(msg.Context(), "INSERT INTO heard VALUES (?)", string(msg.Payload))
			},
		},
	)
}

// stage calls the shop. A change on another version is another call.
func (c *changes41) stage(protected bool) message.HandlerMiddleware {
	c.t.Helper()
	client, err := effects.New(c.st, effects.Config{
		Service: "shop", Provider: effects.Provider{Name: "shop", Conditional: true}, Logger: c.logger,
	})
	require.NoError(c.t, err)
	return client.Stage("change", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		var change change41
		if err := json.Unmarshal(msg.Payload, &change); err != nil {
			return effects.Response{}, err
		}
		reconcile := c.reconcile(client, msg.UUID, change)
		if !protected {
			reconcile.Critical = func(purchase41, purchase41) []parking.Change { return nil }
		}
		_, err := reconcile.Do(ctx, change.Seen)
		return effects.Response{}, err
	})
}

func (c *changes41) reconcile(client *effects.Client, id string, change change41) effects.Reconcile[purchase41] {
	address := c.address + "/" + change.Purchase
	return effects.Reconcile[purchase41]{
		Subject: "purchase " + change.Purchase,
		Version: func(p purchase41) string { return strconv.Itoa(p.Version) },
		Load:    func(ctx context.Context) (purchase41, error) { return load41(ctx, address) },
		Push: func(ctx context.Context, base purchase41) error {
			version := strconv.Itoa(base.Version)
			body := fmt.Appendf(nil, `{"quantity":%d}`, change.Quantity)
			_, err := client.Do(ctx, "change", id+"@"+version, body, effects.HTTP{}.Call(
				func(ctx context.Context, body []byte) (*http.Request, error) {
					request, err := http.NewRequestWithContext(ctx, http.MethodPut, address, bytes.NewReader(body))
					if err == nil {
						request.Header.Set("If-Match", version)
					}
					return request, err
				}))
			return err
		},
		Done: func(current purchase41) bool { return current.Quantity == change.Quantity },
		Critical: func(seen, current purchase41) []parking.Change {
			if seen.Quantity == current.Quantity {
				return nil
			}
			number := func(n int) json.RawMessage { return json.RawMessage(strconv.Itoa(n)) }
			return []parking.Change{{
				Field: "quantity", Was: number(seen.Quantity), Is: number(current.Quantity), Wanted: number(change.Quantity),
			}}
		},
	}
}

func load41(ctx context.Context, address string) (current purchase41, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return current, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return current, err
	}
	defer answer.Body.Close() //nolint:errcheck // what was read stands
	return current, json.NewDecoder(answer.Body).Decode(&current)
}

// book is the handler, behind the call.
func (c *changes41) book(msg *message.Message) ([]*message.Message, error) {
	purchase := msgmeta.GetKey(msg)
	if err := c.exec(msg.Context(), "UPDATE actions SET state = 'done' WHERE purchase = ?", purchase); err != nil {
		return nil, err
	}
	tell := message.NewMessage("told-"+purchase, []byte(purchase))
	msgmeta.SetKey(tell, purchase)
	return []*message.Message{tell}, nil
}

// reviewed is what a person does with the two conflicts.
func (c *changes41) reviewed() {
	c.t.Helper()
	ctx := c.t.Context()
	desk := parking.NewDesk(c.st, parking.DeskConfig{Actor: "anna"})
	var reviews []parking.Item
	testenv.Eventually(c.t, patience, tick, func() (bool, string) {
		var err error
		reviews, err = desk.List(ctx, store.ParkedFilter{Status: []store.ParkedStatus{store.StatusReview}}, 0, 10)
		require.NoError(c.t, err)
		return len(reviews) == 2, fmt.Sprintf("%d reviews", len(reviews))
	})
	for _, review := range reviews {
		whole, err := desk.Get(ctx, review.ID)
		require.NoError(c.t, err)
		require.Equal(c.t, "purchase "+review.Key, whole.Subject)
		require.Contains(c.t, string(whole.Diff), `{"field":"quantity","was":10,"is":12,"wanted":50}`)
		require.Equal(c.t, 1, c.count("SELECT count(*) FROM actions WHERE state = 'in review' AND purchase = ?", review.Key),
			"the user's action is taken back with the review")
		require.Zero(c.t, c.count("SELECT count(*) FROM heard WHERE purchase = ?", review.Key))
		if review.Key == accepted {
			require.NoError(c.t, desk.Accept(ctx, review.ID, parking.Accepted))
		} else {
			require.NoError(c.t, desk.Reject(ctx, review.ID, "12 are enough"))
		}
	}
}

// told waits until the supplier has heard of what was changed.
func (c *changes41) told(protected bool) {
	c.t.Helper()
	for _, id := range purchases41 {
		if id != rejected || !protected {
			c.acked.wait(c.t, "told-"+id, 1)
		}
	}
	c.settled(c.changes, "shop")
	c.settled(c.suppliers, "supplier")
}

// damage: each change is made and heard of once, but for the one that was rejected.
// What others have changed is only overwritten by a person's word.
func (c *changes41) damage(protected bool) (found []string) {
	c.t.Helper()
	c.shop.mu.Lock()
	defer c.shop.mu.Unlock()
	for _, id := range purchases41 {
		changed, quantity, state := 1, wanted41, "done"
		if id == rejected {
			changed, quantity, state = 0, others41, "in review"
		}
		heard := c.count("SELECT count(*) FROM heard WHERE purchase = ?", id)
		as := c.count("SELECT count(*) FROM actions WHERE purchase = ? AND state = ?", id, state)
		now := c.shop.purchases[id]
		if c.shop.changed[id] != changed || now.Quantity != quantity || heard != changed || as != 1 {
			found = append(found, fmt.Sprintf("%s was changed %d times to %d, heard of %d times", id, c.shop.changed[id],
				now.Quantity, heard))
		}
	}
	if !protected {
		return found
	}
	require.Equal(c.t, "call first", c.shop.purchases[noted].Note)
	for id, verdict := range map[string]string{
		plain: "applied", noted: "applied", unheard: "applied", accepted: "applied", rejected: "discarded",
	} {
		require.Equal(c.t, 1, c.count("SELECT count(*) FROM headrace_inbox WHERE message_id = ? AND verdict = ?",
			"change-"+id, verdict), "%s is %s", id, verdict)
	}
	for _, id := range []string{noted, unheard} { // the service has crashed since: it found the change made
		require.Equal(c.t, 1, c.count("SELECT count(*) FROM headrace_inbox WHERE message_id = ? AND reason LIKE ?",
			"change-"+id, "purchase "+id+" was as wanted already, in version%"), "the reason of %s", id)
	}
	return found
}
