package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// takeOver imports a topic as somebody at the desk does.
func (w *world) takeOver(group string, cfg parking.ImportConfig) (parking.Imported, []parking.ImportedMessage) {
	w.t.Helper()
	sub, err := w.bus.SubscriberFor(group)
	require.NoError(w.t, err)
	defer func() { require.NoError(w.t, sub.Close()) }()
	var each []parking.ImportedMessage
	cfg.NewConsumer, cfg.Idle, cfg.Patience, cfg.Shared = true, time.Second, patience, w.bus.Capabilities.Groups
	cfg.Each = func(m parking.ImportedMessage) { each = append(each, m) }
	if w.bus.Capabilities.Backlog != nil {
		cfg.Backlog = func(ctx context.Context) (int64, error) { return w.bus.Backlog(ctx, cfg.Topic, group) }
	}
	sums, err := parking.NewDesk(w.st, parking.DeskConfig{Actor: "anna"}).Import(w.t.Context(), sub, cfg)
	require.NoError(w.t, err)
	return sums, each
}

// parks has a handler's messages parked, and brings back what is.
func (w *world) parks(s subscription) subscription {
	w.t.Helper()
	valve := parking.NewValve(w.st, parking.ValveConfig{})
	parks, err := middleware.NewParking(w.st, middleware.ParkingConfig{Service: s.service, Logger: w.logger, Valve: valve})
	require.NoError(w.t, err)
	sub, err := w.bus.SubscriberFor(s.service)
	require.NoError(w.t, err)
	s.subscriber, err = parking.NewSubscriber(w.st, sub, parking.SubscriberConfig{
		Consumer: s.service + "." + s.handler, Valve: valve, Logger: w.logger,
	})
	require.NoError(w.t, err)
	s.middlewares = chain(one(parks.Middleware), one(w.dedupe(s.service)))
	return s
}

// rows are what is kept, by message ids.
func (w *world) rows(status ...store.ParkedStatus) map[string]store.ParkedRow {
	w.t.Helper()
	found, err := w.st.ListParked(w.t.Context(), store.ParkedFilter{Status: status}, 0, 10_000)
	require.NoError(w.t, err)
	rows := map[string]store.ParkedRow{}
	for _, row := range found {
		require.NotContains(w.t, rows, row.MessageID, "twice")
		rows[row.MessageID] = row
	}
	return rows
}

// retryAll has everything tried that was imported, and waits until it was handled.
func (w *world) retryAll(want int) {
	w.t.Helper()
	desk := parking.NewDesk(w.st, parking.DeskConfig{Actor: "anna"})
	p, err := desk.RetryAll(w.t.Context(), store.ParkedFilter{}, parking.GroupOptions{Follow: true})
	require.NoError(w.t, err)
	require.Equal(w.t, parking.Progress{Total: want, Released: want, Done: want}, p)
}

// A service has put messages of two handlers aside by Watermill's PoisonQueue. They are
// imported for their handlers, but for the one that was handled after all, and handled
// once by the service when they are retried; another import finds them all known.
func TestAPoisonQueueTopicIsTakenOver(t *testing.T) {
	t.Parallel()
	pairs := append(on(t, []string{mem}, []string{sqlite}), on(t, []string{kafka}, []string{mariadb})...)
	for _, p := range append(pairs, on(t, []string{mariadb}, []string{postgres})...) {
		t.Run(p.broker+"/"+p.database, func(t *testing.T) {
			t.Parallel()
			w := open(t, p)
			w.must("CREATE TABLE shipped (id VARCHAR(64))")
			in, failed := w.topic("orders"), w.topic("failed")
			poison, err := wmiddleware.PoisonQueue(w.bus.Publisher, failed)
			require.NoError(t, err)
			dedupe, aside := w.dedupe("stock"), newTally()
			fails := func(handler string) subscription {
				return subscription{
					service: "stock", handler: handler, topic: in + "-" + handler,
					middlewares: chain(one(aside.acked), one(poison), one(dedupe)),
					handle: func(msg *message.Message) ([]*message.Message, error) {
						if strings.HasPrefix(msg.UUID, "late") && msg.Metadata.Get("try") == "again" {
							return nil, w.exec(msg.Context(), "INSERT INTO shipped VALUES (?)", msg.UUID)
						}
						return nil, fmt.Errorf("no shelf for %s in %s", msg.UUID, handler)
					},
				}
			}
			stop := w.serve(fails("orders"), fails("mail"))
			send := func(handler, id, try string) {
				msg := message.NewMessage(id, []byte("payload of "+id))
				msgmeta.SetKey(msg, "sku")
				msg.Metadata.Set("try", try)
				require.NoError(t, w.bus.Publisher.Publish(in+"-"+handler, msg))
			}
			for _, id := range []string{"1", "2", "late"} {
				send("orders", id, "first")
				send("mail", id+"-mail", "first")
				aside.wait(t, id, 1)
				aside.wait(t, id+"-mail", 1)
			}
			send("orders", "late", "again")
			aside.wait(t, "late", 2)
			stop()

			sums, each := w.takeOver("desk", parking.ImportConfig{Topic: failed, Service: "stock"})
			require.Equal(t, parking.Imported{Parked: 5, Known: 1}, sums)
			for _, m := range each {
				require.Equal(t, m.MessageID == "late", m.Outcome == parking.ImportKnown, m)
			}
			w.requireAsItCame(in)

			mended := func(handler string) subscription {
				return w.parks(subscription{
					service: "stock", handler: handler, topic: in + "-" + handler,
					handle: func(msg *message.Message) ([]*message.Message, error) {
						return nil, w.exec(msg.Context(), "INSERT INTO shipped VALUES (?)", msg.UUID)
					},
				})
			}
			w.serve(mended("orders"), mended("mail"))
			w.retryAll(5)
			require.Equal(t, 6, w.count("SELECT count(*) FROM shipped"))
			require.Equal(t, 6, w.count("SELECT count(DISTINCT id) FROM shipped"))
			sums, _ = w.takeOver("another desk", parking.ImportConfig{Topic: failed, Service: "stock"})
			require.Equal(t, parking.Imported{Known: 6}, sums)
		})
	}
}

// requireAsItCame looks at what was imported of the poisoned messages.
func (w *world) requireAsItCame(in string) {
	w.t.Helper()
	rows := w.rows(store.StatusParked)
	require.Equal(w.t, "stock.orders", rows["1"].Consumer)
	require.Equal(w.t, "stock.mail", rows["2-mail"].Consumer)
	require.Equal(w.t, in+"-orders", rows["1"].Topic)
	require.Equal(w.t, "no shelf for 1 in orders", rows["1"].Reason)
	require.Equal(w.t, "sku", rows["1"].Key)
	whole, err := w.st.ParkedByID(w.t.Context(), rows["1"].ID)
	require.NoError(w.t, err)
	require.Equal(w.t, "payload of 1", string(whole.Payload))
	require.Equal(w.t, "first", whole.Metadata["try"])
	require.NotContains(w.t, whole.Metadata, wmiddleware.ReasonForPoisonedKey)
	_, err = w.st.GateOf(w.t.Context(), store.KeyLine("stock.orders", "sku"))
	require.ErrorIs(w.t, err, store.ErrNotHeld)
}

// SQS has moved what a handler has refused too often. It is imported, a copy of it
// later too, and handled once.
func TestADeadLetterQueueIsTakenOver(t *testing.T) {
	t.Parallel()
	for _, p := range on(t, []string{sqs}, []string{postgres}) {
		t.Run(p.broker+"/"+p.database, func(t *testing.T) {
			t.Parallel()
			const messages = 8
			w := open(t, p, withBroker(withOptions(brokerURL(t, p.broker), "visibility=2s")))
			w.must("CREATE TABLE shipped (id VARCHAR(64))")
			topic := w.topic("orders")
			letters := newDeadLetters(t, topic, 2)
			s := subscription{
				service: "stock", handler: "orders", topic: topic, middlewares: one(w.dedupe("stock")),
				handle: func(*message.Message) ([]*message.Message, error) { return nil, errors.New("no shelf") },
			}
			sent := make([]*message.Message, messages)
			for i := range sent {
				sent[i] = message.NewMessage(fmt.Sprint("order-", i), []byte("{}"))
				msgmeta.SetKey(sent[i], fmt.Sprint("sku-", i%2))
			}
			stop := w.serve(s)
			require.NoError(t, w.bus.Publisher.Publish(topic, sent...))
			testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
				n := letters.letters()
				return n == messages, fmt.Sprintf("%d of %d messages are dead letters", n, messages)
			})
			stop()

			dead := topic + "-dead"
			cfg := parking.ImportConfig{Topic: dead, Consumer: "stock.orders", HoldKeys: true}
			sums, _ := w.takeOver("desk", cfg)
			require.Equal(t, parking.Imported{Parked: messages}, sums)
			require.Len(t, w.rows(store.StatusParked), messages)
			gate, err := w.st.GateOf(t.Context(), store.KeyLine("stock.orders", "sku-1"))
			require.NoError(t, err)
			require.EqualValues(t, messages/2, gate.Waiting())

			require.NoError(t, w.bus.Publisher.Publish(dead, sent...)) // once more
			sums, _ = w.takeOver("desk", cfg)
			require.Equal(t, parking.Imported{Known: messages}, sums)
			require.Len(t, w.rows(store.StatusParked), messages)

			s.handle = func(msg *message.Message) ([]*message.Message, error) {
				return nil, w.exec(msg.Context(), "INSERT INTO shipped VALUES (?)", msg.UUID)
			}
			w.serve(w.parks(s))
			w.retryAll(messages)
			require.NoError(t, w.bus.Publisher.Publish(dead, sent...)) // once more
			sums, _ = w.takeOver("desk", cfg)
			require.Equal(t, parking.Imported{Known: messages}, sums)
			require.Equal(t, messages, w.count("SELECT count(*) FROM shipped"))
			require.Equal(t, messages, w.count("SELECT count(DISTINCT id) FROM shipped"))
		})
	}
}
