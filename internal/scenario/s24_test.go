package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
)

// A batch updates all customers, and five consumers hear several notifications of each,
// that carry an id only, within the time of one call to the customer API. It is asked once
// for what is under way and once more for what has come meanwhile, it is left alone while
// it is down, and an answer that was held up overwrites nothing. Without the guard each
// notification is a call, and the late answer wins.
func TestS24_NotificationHerd(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), func(t *testing.T, p pair, protected bool) []string {
		h := newHerd(t, open(t, p), protected)
		return append(append(h.batch(), h.outage()...), h.heldUp()...)
	})
}

const (
	herdConsumers     = 5
	herdNotifications = 3 // of each customer
	herdAtOnce        = 10
	herdFailures      = 3 // in a row open the breaker
	// herdPerSecond is what the API lets each consumer have, herdBurst at once.
	herdPerSecond, herdBurst = 400, 40
)

// herd is the services that are notified.
type herd struct {
	*world

	api       *customerAPI
	protected bool
	consumers []message.HandlerFunc
}

func newHerd(t *testing.T, w *world, protected bool) *herd {
	t.Helper()
	w.db.SetMaxOpenConns(20)
	w.must("CREATE TABLE customers (consumer VARCHAR(20) NOT NULL, id VARCHAR(20) NOT NULL, version INT NOT NULL, " +
		"PRIMARY KEY (consumer, id))")
	h := &herd{world: w, api: newCustomerAPI(t), protected: protected}
	for n := range herdConsumers {
		h.consumers = append(h.consumers, h.process(fmt.Sprintf("consumer-%d", n)))
	}
	return h
}

type customer struct {
	ID      string `json:"id"`
	Version int64  `json:"version"`
}

// process is one process of a consumer.
func (h *herd) process(consumer string) message.HandlerFunc {
	h.t.Helper()
	dedupe, err := middleware.NewDedupe(h.st, middleware.DedupeConfig{Consumer: consumer, Logger: h.logger})
	require.NoError(h.t, err)
	arrives := func(inner message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			id := msg.Metadata.Get("customer")
			if h.protected {
				msg.SetContext(step.With(msg.Context(), func(_ context.Context, name string) {
					if name == step.FetchWaits {
						h.api.arrived(consumer, id)
					}
				}))
			} else {
				h.api.arrived(consumer, id)
			}
			return inner(msg)
		}
	}
	load := func(ctx context.Context, entity keys.Entity) (middleware.Current[customer], error) {
		got, err := h.api.get(ctx, consumer, entity.ID)
		return middleware.Current[customer]{Version: middleware.IntVersion(got.Version), Value: got}, err
	}
	if !h.protected {
		return arrives(func(msg *message.Message) ([]*message.Message, error) {
			got, err := load(msg.Context(), keys.Entity{ID: msg.Metadata.Get("customer")})
			if err != nil {
				return nil, err
			}
			return dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) {
				return nil, h.write(msg.Context(), consumer, got.Value)
			})(msg)
		})
	}
	fetch, err := middleware.NewFetch(middleware.FetchConfig[customer]{
		Entity: keys.OfType("customer", keys.FromMetadata("customer")), Load: load, MaxWait: patience,
		Limit:   middleware.Rate{PerSecond: herdPerSecond, Burst: herdBurst},
		Breaker: middleware.Breaker{Failures: herdFailures, Open: 200 * time.Millisecond},
	})
	require.NoError(h.t, err)
	skip, err := middleware.NewVersionSkip(h.st, middleware.VersionSkipConfig{States: fetch.States()})
	require.NoError(h.t, err)
	return arrives(fetch.Middleware(dedupe.Middleware(skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		got, _ := fetch.From(msg.Context())
		return nil, h.write(msg.Context(), consumer, got.Value)
	}))))
}

func (h *herd) write(ctx context.Context, consumer string, got customer) error {
	return h.exec(ctx, "UPDATE customers SET version = ? WHERE consumer = ? AND id = ?", got.Version, consumer, got.ID)
}

// know gives each consumer a customer.
func (h *herd) know(id string) {
	h.t.Helper()
	rows := make([]string, len(h.consumers))
	for n := range rows {
		rows[n] = fmt.Sprintf("('consumer-%d', '%s', 0)", n, id)
	}
	h.must("INSERT INTO customers VALUES " + strings.Join(rows, ", "))
}

func notification(customer string) *message.Message {
	msg := newMessage("")
	msg.Metadata.Set("customer", customer)
	return msg
}

// batch notifies all consumers of all customers, of some at once.
func (h *herd) batch() (damage []string) {
	customers := 100
	if os.Getenv("HEADRACE_FAULTS") == "full" {
		customers = 1000
	}
	h.api.herd.Store(true)
	for from := 0; from < customers; from += herdAtOnce {
		var all sync.WaitGroup
		for n := from; n < from+herdAtOnce; n++ {
			id := fmt.Sprintf("customer-%d", n)
			h.know(id)
			for range herdNotifications {
				h.api.update(id)
			}
			for _, consumer := range h.consumers {
				for range herdNotifications {
					all.Go(func() {
						if err := h.until(consumer, notification(id)); err != nil {
							h.t.Error(err)
						}
					})
				}
			}
		}
		all.Wait()
	}
	h.api.herd.Store(false)
	most, refused := h.api.calls()
	h.t.Logf("%d customers, %d consumers, %d notifications: at most %d calls each",
		customers, herdConsumers, herdNotifications, most)
	if most > 2 { //nolint:mnd // one under way, and one behind it
		damage = append(damage, fmt.Sprintf("%d calls for a customer and a consumer", most))
	}
	if h.protected {
		require.Zero(h.t, refused, "calls beyond what the API allows")
	}
	require.Equal(h.t, customers*herdConsumers,
		h.count(fmt.Sprintf("SELECT count(*) FROM customers WHERE version = %d", herdNotifications)), "all have the newest state")
	return damage
}

// until delivers a message again while the API refuses calls because there are too many.
func (h *herd) until(consumer message.HandlerFunc, msg *message.Message) (err error) {
	for range 1000 {
		if _, err = consumer(msg); !errors.Is(err, errTooMany) {
			return err
		}
	}
	return err
}

// outage has notifications come while the API is down, and again when it is back.
func (h *herd) outage() (damage []string) {
	h.know("down")
	h.api.update("down")
	h.api.down.Store(true)
	msg := notification("down")
	before := h.api.asked.Load()
	const tries = 30
	for range tries {
		_, err := h.consumers[0](msg)
		require.Error(h.t, err)
	}
	// The breaker lets one through now and then.
	if asked := h.api.asked.Load() - before; asked > tries/2 {
		damage = append(damage, fmt.Sprintf("the API was asked %d times while it was down", asked))
	}
	h.api.down.Store(false)
	testenv.Eventually(h.t, patience, tick, func() (bool, string) {
		_, err := h.consumers[0](msg)
		return err == nil, fmt.Sprint(err)
	})
	require.Equal(h.t, 1, h.count("SELECT version FROM customers WHERE consumer = 'consumer-0' AND id = 'down'"))
	return damage
}

// heldUp has an answer come late to one process, when another has taken a newer one.
func (h *herd) heldUp() (damage []string) {
	h.know("held")
	h.api.update("held")
	gate := h.api.hold()
	done := make(chan error, 1)
	go func() {
		_, err := h.process("consumer-0")(notification("held"))
		done <- err
	}()
	receive(h.t, gate.asked, "the first call")
	h.api.update("held")
	_, err := h.consumers[0](notification("held"))
	require.NoError(h.t, err)
	close(gate.goOn)
	require.NoError(h.t, receive(h.t, done, "the answer that was held up"))
	if got := h.count("SELECT version FROM customers WHERE consumer = 'consumer-0' AND id = 'held'"); got != 2 {
		damage = append(damage, fmt.Sprintf("the state went back to version %d", got))
	}
	return damage
}

// customerAPI knows customers.
type customerAPI struct {
	address string
	asked   atomic.Int64
	down    atomic.Bool
	// herd has the first call about a customer take until all its notifications are there.
	herd atomic.Bool

	mu       sync.Mutex
	versions map[string]int64
	byWhom   map[string]int // calls, by consumer and customer
	recent   map[string][]time.Time
	refused  int
	came     *tally
	held     *held
}

type held struct{ asked, goOn chan struct{} }

func newCustomerAPI(t *testing.T) *customerAPI {
	t.Helper()
	a := &customerAPI{versions: map[string]int64{}, byWhom: map[string]int{}, recent: map[string][]time.Time{}, came: newTally()}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.address = server.URL
	return a
}

func (a *customerAPI) update(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions[id]++
}

// hold holds up the next call behind what it has read.
func (a *customerAPI) hold() *held {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = &held{make(chan struct{}, 1), make(chan struct{})}
	return a.held
}

func (a *customerAPI) arrived(consumer, id string) { a.came.add(consumer + "/" + id) }

func (a *customerAPI) calls() (most, refused int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.byWhom {
		most = max(most, n)
	}
	return most, a.refused
}

func (a *customerAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	who := strings.TrimPrefix(r.URL.Path, "/")
	consumer, id, _ := strings.Cut(who, "/")
	a.mu.Lock()
	got, hold := customer{id, a.versions[id]}, a.held
	a.held = nil
	tooMany := a.tooMany(consumer)
	if tooMany {
		a.refused++
	} else {
		a.byWhom[who]++
	}
	first := a.byWhom[who] == 1
	a.mu.Unlock()
	switch {
	case a.down.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case tooMany:
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case hold != nil:
		hold.asked <- struct{}{}
		select {
		case <-hold.goOn:
		case <-r.Context().Done():
		}
	case a.herd.Load() && first:
		for came, changed := a.came.get(who); came < herdNotifications; came, changed = a.came.get(who) {
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	}
	_, _ = fmt.Fprintf(w, `{"id":%q,"version":%d}`, got.ID, got.Version) // who has gone needs none
}

// tooMany counts calls of a period as long as a burst may be, and of the one before it.
func (a *customerAPI) tooMany(consumer string) bool {
	const period = time.Second * herdBurst / herdPerSecond
	now := time.Now()
	var recent []time.Time
	for _, at := range a.recent[consumer] {
		if now.Sub(at) < period {
			recent = append(recent, at)
		}
	}
	a.recent[consumer] = append(recent, now)
	return len(recent) >= 2*herdBurst
}

var errTooMany = errors.New("too many requests")

func (a *customerAPI) get(ctx context.Context, consumer, id string) (got customer, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.address+"/"+consumer+"/"+id, nil)
	if err != nil {
		return got, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return got, err
	}
	body, err := io.ReadAll(response.Body)
	err = errors.Join(err, response.Body.Close())
	switch {
	case err != nil:
		return got, err
	case response.StatusCode == http.StatusTooManyRequests:
		return got, errTooMany
	case response.StatusCode != http.StatusOK:
		return got, parking.AsTransient(errors.New(response.Status))
	}
	return got, json.Unmarshal(body, &got)
}
