package scenario

import (
	"context"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// The same two services on each broker, by another URL. Where a broker has no
// groups the second service is refused by name, and the first one runs alone.
func TestS70_Swap(t *testing.T) {
	t.Parallel()
	for _, p := range everyPair(t) {
		t.Run(p.broker+"/"+p.database+"/protected", func(t *testing.T) {
			t.Parallel()
			twoServices(t, open(t, p))
		})
	}
}

const swapOrders = 20

func twoServices(t *testing.T, w *world) {
	t.Helper()
	w.must("CREATE TABLE heard (service varchar(20) NOT NULL, id varchar(50) NOT NULL)")
	topic, acked := w.topic("orders"), newTally()
	services := []string{"fulfilment", "billing"}
	if !w.bus.Capabilities.Groups {
		services = services[:1]
	}
	for _, name := range services {
		w.serve(subscription{
			service: name, topic: topic, middlewares: chain(one(acked.acked), one(w.dedupe(name))),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				return nil, w.exec(msg.Context(), "INSERT INTO heard VALUES (?, ?)", name, msg.UUID)
			},
		})
	}
	if !w.bus.Capabilities.Groups {
		w.secondGroupIsRefused(topic, "billing", services[0])
	}
	w.forward(forwarder.Config{})
	require.NoError(t, w.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for i := range swapOrders {
			msg := message.NewMessage(fmt.Sprintf("order-%d", i), nil)
			msgmeta.SetKey(msg, fmt.Sprintf("customer-%d", i%3))
			if err := w.outbox.Publish(ctx, topic, msg); err != nil {
				return err
			}
		}
		return nil
	}))
	w.sent()
	for i := range swapOrders {
		acked.wait(t, fmt.Sprintf("order-%d", i), len(services))
	}
	for _, name := range services {
		require.Equal(t, swapOrders, w.count("SELECT count(*) FROM heard WHERE service = ?", name))
		require.Equal(t, swapOrders, w.count("SELECT count(DISTINCT id) FROM heard WHERE service = ?", name))
	}
}

func (w *world) secondGroupIsRefused(topic, second, first string) {
	w.t.Helper()
	sub, err := w.bus.SubscriberFor(second)
	if err == nil {
		_, err = sub.Subscribe(w.t.Context(), topic)
	}
	require.ErrorIs(w.t, err, brokers.ErrOneGroup)
	require.ErrorContains(w.t, err, first)
	require.ErrorContains(w.t, err, second)
}
