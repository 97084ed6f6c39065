package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/store"
)

// outage is a broker that is down for one publisher.
type outage struct {
	message.Publisher

	down    atomic.Bool
	refused *tally
}

func newOutage() *outage { return &outage{refused: newTally()} }

// decorate puts the outage before a publisher.
func (o *outage) decorate(p message.Publisher) message.Publisher {
	o.Publisher = p
	return o
}

var errBrokerDown = errors.New("broker is down")

func (o *outage) Publish(topic string, msgs ...*message.Message) error {
	if o.down.Load() {
		for _, msg := range msgs {
			o.refused.add(msg.UUID)
		}
		return errBrokerDown
	}
	return o.Publisher.Publish(topic, msgs...)
}

// checkout writes an order and tells of it. The publisher is the outbox's, or
// the broker's own when the protection is off.
type checkout struct {
	*world

	topic     string
	publisher message.Publisher
}

// order runs the use case. Orders told to fail roll back after the publish.
func (c checkout) order(id string, fail bool) error {
	return c.st.InTx(c.t.Context(), func(ctx context.Context, _ store.Tx) error {
		if err := c.exec(ctx, "INSERT INTO orders VALUES (?)", id); err != nil {
			return err
		}
		msg := message.NewMessage(id, []byte(id))
		msg.SetContext(ctx)
		if fail {
			if err := c.publisher.Publish(c.topic, msg); err != nil {
				return err
			}
			return errInjected
		}
		return c.tell(ctx, msg)
	})
}

// tell publishes in the transaction through the outbox, after the commit
// without it.
func (c checkout) tell(ctx context.Context, msg *message.Message) error {
	if c.publisher != c.bus.Publisher {
		return c.publisher.Publish(c.topic, msg)
	}
	return store.AfterCommit(ctx, func() {
		if err := c.publisher.Publish(c.topic, msg); err != nil {
			c.logger.Error("order is committed, but could not be published", err, nil)
		}
	})
}

// fulfil is the fulfilment service: it ships what it hears of.
func (w *world) fulfil(topic string, acked *tally, protection ...message.HandlerMiddleware) {
	w.t.Helper()
	w.serve(subscription{
		service: "fulfilment", topic: topic, middlewares: append(one(acked.acked), protection...),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES (?)", string(msg.Payload))
		},
	})
}

func (w *world) createOrders() {
	w.must("CREATE TABLE orders (id varchar(50) NOT NULL)", "CREATE TABLE shipments (id varchar(50) NOT NULL)")
}

// fulfilmentDamage: every order is shipped once, and nothing else is.
func (w *world) fulfilmentDamage(ids ...string) (found []string) {
	for _, id := range ids {
		ordered := w.count("SELECT count(*) FROM orders WHERE id = ?", id)
		shipped := w.count("SELECT count(*) FROM shipments WHERE id = ?", id)
		if ordered != shipped {
			found = append(found, fmt.Sprintf("%s was ordered %d and shipped %d times", id, ordered, shipped))
		}
	}
	return found
}

func TestS01_DualWrite(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		w := open(t, p)
		w.createOrders()
		topic, acked, broken := w.topic("orders"), newTally(), newOutage()
		shop := checkout{w, topic, w.outbox.Publisher()}
		if protected {
			w.forward(forwarder.Config{}, broken.decorate)
		} else {
			shop.publisher = broken.decorate(w.bus.Publisher)
			w.bus.Publisher = shop.publisher
		}
		w.fulfil(topic, acked, w.dedupe("fulfilment"))

		broken.down.Store(true)
		require.NoError(t, shop.order("while-down", false))
		broken.refused.wait(t, "while-down", 1)
		broken.down.Store(false)
		require.ErrorIs(t, shop.order("rolled-back", true), errInjected)
		require.NoError(t, shop.order("while-up", false))

		acked.wait(t, "while-up", 1)
		if protected {
			acked.wait(t, "while-down", 1)
			w.sent()
		} else {
			acked.wait(t, "rolled-back", 1)
		}
		w.settled(topic, "fulfilment")
		return w.fulfilmentDamage("while-down", "rolled-back", "while-up")
	})
}
