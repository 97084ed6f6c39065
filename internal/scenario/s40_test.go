package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/payments/bank"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
)

// An order comes in, is charged at a bank, written to the database, and an event goes
// out. The service crashes after the charge, before it is recorded, and again after
// its statements. Without the protection the call is made in the handler: within
// Dedupe's transaction, and on Kafka within its own transactions, with idempotence.
func TestS40_ExactlyOnceStopsAtTheBroker(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		c := newCheckout40(t, open(t, p))
		switch {
		case protected:
			c.staged()
		case p.broker == kafka:
			c.transactional()
		default:
			c.inTheHandler()
		}
		if !protected { // docs/processing-contract.md gives these figures
			for _, id := range orders40 {
				require.Equal(t, 2, c.bank.Called(id), id)
				require.Equal(t, 2, c.bank.Charged(id), id)
			}
		}
		return c.damage()
	})
}

// Orders, named after what the bank can do for them.
const (
	known   = "known"   // by its key
	asked   = "asked"   // what became of it
	neither = "neither" // of the two
)

var orders40 = []string{known, asked, neither}

// checkout40 is the service's parts.
type checkout40 struct {
	*world

	bank           *bank.Bank
	address        string
	orders, events string // topics
	acked          *tally
}

func newCheckout40(t *testing.T, w *world) *checkout40 {
	t.Helper()
	c := &checkout40{
		world: w, bank: &bank.Bank{LookUp: true, Keys: func(order string) bool { return order == known }},
		orders: w.topic("orders"), events: w.topic("paid"), acked: newTally(),
	}
	server := httptest.NewServer(c.bank)
	t.Cleanup(server.Close)
	c.address = server.URL
	w.must("CREATE TABLE payments (id varchar(50) NOT NULL, receipt varchar(50) NOT NULL)",
		"CREATE TABLE heard (id varchar(50) NOT NULL)")
	return c
}

// order sends one message for each order.
func (c *checkout40) order() {
	c.t.Helper()
	for _, id := range orders40 {
		payload, err := json.Marshal(bank.Order{Order: id, Cents: 4200})
		require.NoError(c.t, err)
		require.NoError(c.t, c.bus.Publisher.Publish(c.orders, message.NewMessage(id, payload)))
	}
}

// book is the handler's part in the database, and its event.
func (c *checkout40) book(msg *message.Message, receipt effects.Response) ([]*message.Message, error) {
	read, err := bank.Read(receipt)
	if err != nil {
		return nil, err
	}
	if err := c.exec(msg.Context(), "INSERT INTO payments VALUES (?, ?)", msg.UUID, read.Receipt); err != nil {
		return nil, err
	}
	return []*message.Message{message.NewMessage("paid-"+msg.UUID, []byte(msg.UUID))}, nil
}

// staged makes the call by effects.
func (c *checkout40) staged() {
	c.t.Helper()
	crashed := newTally()
	clients := map[string]*effects.Client{}
	for id, provider := range map[string]effects.Provider{
		known: {Keys: true}, asked: {Lookup: bank.LookUp(c.address)}, neither: {},
	} {
		provider.Name = "bank"
		client, err := effects.New(c.st, effects.Config{Service: "shop", Provider: provider, Logger: c.logger})
		require.NoError(c.t, err)
		clients[id] = client
	}
	call := bank.Call(c.address)
	stage := clients[neither].Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		return clients[msg.UUID].Do(ctx, "charge", msg.UUID, msg.Payload, call)
	})
	c.forward(forwarder.Config{})
	c.serve(
		subscription{
			service: "shop", topic: c.orders, publish: c.events,
			middlewares: []message.HandlerMiddleware{
				c.acked.acked, crashAt(step.EffectCalled, step.HandlerReturned), noting(crashed, step.EffectCalled), stage,
				c.dedupe("shop", func(cfg *middleware.DedupeConfig) { cfg.Outbox = c.outbox }),
			},
			handle: func(msg *message.Message) ([]*message.Message, error) {
				receipt, _ := effects.ResultOf(msg.Context(), "charge")
				return c.book(msg, receipt)
			},
		},
		c.listener(),
	)
	c.order()
	aged := map[string]bool{}
	testenv.Eventually(c.t, patience, tick, func() (bool, string) {
		done := 0
		for _, id := range orders40 {
			if n, _ := crashed.get(id); n > 0 && !aged[id] {
				c.passTime(id)
				aged[id] = true
			}
			n, _ := c.acked.get(id)
			done += min(n, 1)
		}
		c.settle()
		return done == len(orders40), fmt.Sprintf("%d orders are handled, the bank was called for %v", done, c.bank.Charges())
	})
	c.heardAll()
	for id, calls := range map[string]int{known: 2, asked: 1, neither: 1} {
		require.Equal(c.t, calls, c.bank.Called(id), id)
	}
}

// noting counts the messages that reach a step.
func noting(reached *tally, name string) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			outer := msg.Context()
			msg.SetContext(step.With(outer, func(_ context.Context, at string) {
				if at == name {
					reached.add(msg.UUID)
				}
				step.Reach(outer, at)
			}))
			defer msg.SetContext(outer)
			return h(msg)
		}
	}
}

// passTime makes an hour pass for an effect, by which its claim is over.
func (c *checkout40) passTime(id string) {
	c.t.Helper()
	earlier := map[string]string{
		postgres: "%[1]s = %[1]s - interval '1 hour'",
		mariadb:  "%[1]s = %[1]s - INTERVAL 1 HOUR",
		sqlite:   "%[1]s = %[1]s - 3600000000",
	}[c.database]
	var sets []string
	for _, column := range []string{"claimed_until", "first_called_at", "last_called_at"} {
		sets = append(sets, fmt.Sprintf(earlier, column))
	}
	update := "UPDATE headrace_effects SET " + strings.Join(sets, ", ") + " WHERE effect_key = ?"
	require.NoError(c.t, c.exec(c.t.Context(), update, id))
}

// settle is the person who is asked about what the bank's answers leave open.
func (c *checkout40) settle() {
	c.t.Helper()
	if c.count("SELECT count(*) FROM headrace_effects WHERE status = 'unknown'") == 0 {
		return
	}
	require.Equal(c.t, 1, c.bank.Called(neither))
	require.NoError(c.t, effects.Settle(c.t.Context(), c.st, "ann", "charge", neither,
		effects.Happened(effects.Response{Body: []byte(`{"receipt":"seen in the bank's list"}`)}, "called them")))
}

// listener hears the events.
func (c *checkout40) listener() subscription {
	c.t.Helper()
	return subscription{
		service: "ledger", handler: "hear", topic: c.events, middlewares: chain(one(c.acked.acked), one(c.dedupe("ledger"))),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			return nil, c.exec(msg.Context(), "INSERT INTO heard VALUES (?)", string(msg.Payload))
		},
	}
}

func (c *checkout40) heardAll() {
	c.t.Helper()
	c.sent()
	for _, id := range orders40 {
		c.acked.wait(c.t, "paid-"+id, 1)
	}
	c.settled(c.orders, "shop")
	c.settled(c.events, "ledger")
}

// inTheHandler makes the call where it can't be rolled back.
func (c *checkout40) inTheHandler() {
	c.t.Helper()
	call := bank.Call(c.address)
	c.forward(forwarder.Config{})
	c.serve(
		subscription{
			service: "shop", topic: c.orders, publish: c.events,
			middlewares: []message.HandlerMiddleware{c.acked.acked, crashAt(step.HandlerReturned), c.dedupe("shop")},
			handle: func(msg *message.Message) ([]*message.Message, error) {
				receipt, err := call(msg.Context(), "", msg.Payload)
				if err != nil {
					return nil, err
				}
				return c.book(msg, receipt)
			},
		},
		c.listener(),
	)
	c.order()
	for _, id := range orders40 {
		c.acked.wait(c.t, id, 1)
	}
	c.heardAll()
}

// damage: every order is charged, booked and heard of once.
func (c *checkout40) damage() (found []string) {
	c.t.Helper()
	for _, id := range orders40 {
		charged := c.bank.Charged(id)
		booked := c.count("SELECT count(*) FROM payments WHERE id = ?", id)
		heard := c.count("SELECT count(*) FROM heard WHERE id = ?", id)
		if charged != 1 || booked != 1 || heard != 1 {
			found = append(found,
				fmt.Sprintf("%s was charged %d times, booked %d and heard of %d times", id, charged, booked, heard))
		}
	}
	return found
}
