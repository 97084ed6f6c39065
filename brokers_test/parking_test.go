package brokers_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// With Parking a message that can't be handled stops nothing but its own key, whatever
// the broker does, and its key goes on in order when a person has let it go.
func TestAPoisonMessageStopsNoOtherKey(t *testing.T) {
	t.Parallel()
	onPoison(t, func(t *testing.T, p *poisoned) {
		t.Helper()
		p.serve(t, true)
		p.send(t, func() bool { return p.kept(t, store.StatusParked) == 1 })

		p.await(t, "all of the other keys", func() bool { return p.others() == otherKeys*perKey })
		p.await(t, "those behind it in its line", func() bool { return p.kept(t, store.StatusWaiting) == perKey-1 })
		require.Empty(t, p.handled(poisonKey))

		p.mend()
		desk := parking.NewDesk(p.st, parking.DeskConfig{Actor: "anna"})
		items, err := desk.List(t.Context(), store.ParkedFilter{Status: []store.ParkedStatus{store.StatusParked}}, 0, 2)
		require.NoError(t, err)
		require.Len(t, items, 1)
		require.NoError(t, desk.Retry(t.Context(), items[0].ID, parking.RetryOptions{}))
		p.await(t, "its key", func() bool { return len(p.handled(poisonKey)) == perKey })
		require.ElementsMatch(t, payloadsOf(newMessages(poisonKey, perKey)), p.handled(poisonKey))
		require.Equal(t, poisonKey+"-0", p.handled(poisonKey)[0], "those behind it waited")
		if p.Capabilities.KeyOrder { // else they are in a line as they came
			require.Equal(t, payloadsOf(newMessages(poisonKey, perKey)), p.handled(poisonKey))
			for key := range otherKeys {
				require.Equal(t, payloadsOf(newMessages(otherKey(key), perKey)), p.handled(otherKey(key)))
			}
		}
	})
}

// Without Parking it depends on the broker what a message holds up that is nacked again
// and again: everything behind it, its partition, its key, or nothing, and then it is
// overtaken by its own key.
func TestAPoisonMessageWithoutParkingHoldsUpWhatItsBrokerKeepsInOrder(t *testing.T) {
	t.Parallel()
	onPoison(t, func(t *testing.T, p *poisoned) {
		t.Helper()
		p.serve(t, false)
		const often = 6
		p.send(t, func() bool { return p.attempts() > 1 })

		all := otherKeys * perKey
		switch c := p.Capabilities; {
		case c.Lanes && c.KeyOrder:
			p.await(t, "all of the other keys", func() bool { return p.others() == all })
			p.await(t, "its nacks", func() bool { return p.attempts() >= often })
			require.Empty(t, p.handled(poisonKey))
		case c.Lanes:
			p.await(t, "all but itself", func() bool { return p.others() == all && len(p.handled(poisonKey)) == perKey-1 })
		case c.TotalOrder:
			p.await(t, "its nacks", func() bool { return p.attempts() >= often })
			require.Zero(t, p.others(), "everything is behind it")
			require.Empty(t, p.handled(poisonKey))
		default: // partitions
			p.await(t, "other partitions", func() bool { return p.others() > 0 })
			p.await(t, "its nacks", func() bool { return p.attempts() >= often })
			require.Less(t, p.others(), all, "some keys are in its partition")
			require.Empty(t, p.handled(poisonKey))
		}

		p.mend()
		p.await(t, "everything", func() bool { return p.others() == all && len(p.handled(poisonKey)) == perKey })
	})
}

const (
	poisonKey = "poison"
	otherKeys = 20
	perKey    = 3
)

func otherKey(n int) string { return fmt.Sprintf("key-%d", n) }

var errPoison = errors.New("can't be handled")

// poisoned is a service on a broker to which one message is poison.
type poisoned struct {
	*bundle

	st *store.Store

	mu     sync.Mutex
	mended bool
	tried  int
	done   map[string][]string // payloads by key
}

// onPoison runs a test on every kind of broker, with a database of some kind, and on
// the SQL brokers also in their transactions.
func onPoison(t *testing.T, test func(t *testing.T, p *poisoned)) {
	t.Helper()
	databases := map[string]string{
		"postgres": "postgres", "kafka": "postgres", "sqs-fifo": "postgres", "mariadb": "mariadb", "sqs": "mariadb",
	}
	for _, c := range cases(t) {
		if c.name == "kafka" { // such that the poison shares its partition with some
			c.quick = maps.Clone(c.quick)
			c.quick["partitions"] = "2"
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, c)
			kind, dialect := databases[c.name], store.SQLite
			switch kind {
			case "":
				kind = "sqlite"
			case "postgres":
				dialect = store.Postgres
			case "mariadb":
				dialect = store.MySQL
			}
			db := testenv.Open(t, testenv.Database(t, kind))
			st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true, WarnTxLonger: -1})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			test(t, &poisoned{bundle: b, st: st, done: map[string][]string{}})
		})
	}
	t.Run("joined", func(t *testing.T) {
		t.Parallel()
		onJoined(t, func(t *testing.T, j *joined) {
			t.Helper()
			test(t, &poisoned{bundle: j.bundle, st: j.st, done: map[string][]string{}})
		})
	})
}

// serve runs the service behind Dedupe, until the test ends.
func (p *poisoned) serve(t *testing.T, parks bool) {
	t.Helper()
	const consumer = "service.handler"
	dedupe, err := middleware.NewDedupe(p.st, middleware.DedupeConfig{Service: "service", Logger: testLogger{t}})
	require.NoError(t, err)
	middlewares := []message.HandlerMiddleware{dedupe.Middleware}
	sub, err := p.SubscriberFor("one")
	require.NoError(t, err)
	if parks {
		parked, err := middleware.NewParking(p.st, middleware.ParkingConfig{Service: "service", Delays: []time.Duration{}})
		require.NoError(t, err)
		middlewares = []message.HandlerMiddleware{parked.Middleware, dedupe.Middleware}
		sub, err = parking.NewSubscriber(p.st, sub, parking.SubscriberConfig{Consumer: consumer, Valve: parked.Valve()})
		require.NoError(t, err)
	}
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, nil)
	require.NoError(t, err)
	router.AddConsumerHandler("handler", p.topic, sub, p.handle).AddMiddleware(middlewares...)
	ended := make(chan error, 1)
	go func() { ended <- router.Run(t.Context()) }()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, <-ended)
	})
	select {
	case <-router.Running():
	case err := <-ended:
		require.NoError(t, err)
	}
}

func (p *poisoned) handle(msg *message.Message) error {
	payload, key := string(msg.Payload), msgmeta.GetKey(msg)
	p.mu.Lock()
	defer p.mu.Unlock()
	if payload == poisonKey+"-0" && !p.mended {
		p.tried++
		return errPoison
	}
	// A commit that fails has the handler run again.
	p.done[key] = append(slices.DeleteFunc(p.done[key], func(other string) bool { return other == payload }), payload)
	return nil
}

// send publishes the poison first, and the other messages of its key when it has
// failed.
func (p *poisoned) send(t *testing.T, failed func() bool) {
	t.Helper()
	poison := newMessages(poisonKey, perKey)
	p.publish(t, poison[0])
	publish := func(from, to int) {
		for key := range otherKeys {
			p.publish(t, newMessages(otherKey(key), to)[from:]...)
		}
	}
	publish(0, 1)
	p.await(t, "the failure", failed)
	p.publish(t, poison[1:]...)
	publish(1, perKey)
}

func (p *poisoned) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mended = true
}

func (p *poisoned) attempts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tried
}

func (p *poisoned) handled(key string) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.done[key])
}

// others counts what was handled of the other keys.
func (p *poisoned) others() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, payloads := range p.done {
		if key != poisonKey {
			n += len(payloads)
		}
	}
	return n
}

// kept counts the messages that Parking has in a status.
func (p *poisoned) kept(t *testing.T, status store.ParkedStatus) int {
	t.Helper()
	rows, err := p.st.ListParked(t.Context(), store.ParkedFilter{Status: []store.ParkedStatus{status}}, 0, perKey+1)
	require.NoError(t, err)
	return len(rows)
}

func (p *poisoned) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	testenv.Eventually(t, patience, 10*time.Millisecond, func() (bool, string) {
		return done(), fmt.Sprintf("waiting for %s: the poison was tried %d times, %d of other keys are handled, %v of its own",
			what, p.attempts(), p.others(), p.handled(poisonKey))
	})
}
