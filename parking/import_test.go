package parking_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/mem"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// queue is a topic that is taken over.
type queue struct {
	kept

	bus *brokers.Broker
	cfg parking.ImportConfig
}

func (k kept) queue() *queue {
	k.Helper()
	bus, err := brokers.Open(k.Context(), "mem:?nack_delay=5ms&max_body=100000000&drain=1s", brokers.Config{
		Openers: map[string]brokers.Opener{"mem": mem.Open}, Group: "desk",
	})
	require.NoError(k, err)
	k.Cleanup(func() { require.NoError(k, bus.Close()) })
	return &queue{k, bus, parking.ImportConfig{
		Topic: "dead", Consumer: shop, NewConsumer: true, Idle: 200 * time.Millisecond,
		Backlog: func(ctx context.Context) (int64, error) { return bus.Backlog(ctx, "dead", "desk") },
	}}
}

func (q *queue) put(id string, payload []byte, metadata ...string) {
	q.Helper()
	msg := message.NewMessage(id, payload)
	for i := 0; i < len(metadata); i += 2 {
		msg.Metadata.Set(metadata[i], metadata[i+1])
	}
	require.NoError(q, q.bus.Publisher.Publish("dead", msg))
}

func (q *queue) take() (parking.Imported, map[string]parking.ImportedMessage) {
	q.Helper()
	each := map[string]parking.ImportedMessage{}
	q.cfg.Each = func(m parking.ImportedMessage) { each[m.MessageID] = m }
	sums, err := q.desk("anna").Import(q.Context(), q.bus.Subscriber, q.cfg)
	require.NoError(q, err)
	return sums, each
}

func (q *queue) left() int64 {
	q.Helper()
	n, err := q.bus.Backlog(q.Context(), "dead", "desk")
	require.NoError(q, err)
	return n
}

// What is imported is kept as it came, with what is known of its failure, signed, and
// holds its key only where that is asked for.
func TestAnImportedMessageIsKeptAsItCame(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		q := k.queue()
		q.put("1", []byte("\x00\xff"), msgmeta.Key, "sku", "color", "red", wmiddleware.ReasonForPoisonedKey, "no shelf 17",
			wmiddleware.PoisonedHandlerKey, "orders", wmiddleware.PoisonedTopicKey, "placed")
		q.put("2", []byte("{"), msgmeta.Malformed, "not a message")
		sums, each := q.take()
		require.Equal(t, parking.Imported{Parked: 2}, sums)
		row, err := k.ParkedByID(t.Context(), each["1"].ID)
		require.NoError(t, err)
		require.Equal(t, []byte("\x00\xff"), row.Payload)
		require.Equal(t, "red", row.Metadata["color"])
		require.NotContains(t, row.Metadata, wmiddleware.PoisonedHandlerKey)
		require.Equal(t, []string{"no shelf 17", "placed", "sku", "unknown", "no shelf #"},
			[]string{row.Reason, row.Topic, row.Key, row.Class, row.ErrorTitle})
		require.Len(t, row.Chain, 2)
		require.Contains(t, row.Chain[1].Text, `handler "orders"`)
		require.Equal(t, []string{"import by anna"}, k.audit(row.ID))
		_, err = k.GateOf(t.Context(), store.KeyLine(shop, "sku"))
		require.ErrorIs(t, err, store.ErrNotHeld)
		require.ErrorIs(t, k.desk("anna").Retry(t.Context(), each["2"].ID, parking.RetryOptions{}), parking.ErrNeedsEdit)

		q.cfg.HoldKeys = true
		q.put("3", nil, msgmeta.Key, "sku")
		q.take()
		gate, err := k.GateOf(t.Context(), store.KeyLine(shop, "sku"))
		require.NoError(t, err)
		require.EqualValues(t, 1, gate.Waiting())
	})
}

// What the consumer knows is acked and not parked; another message under a known id is
// another message; a message without id is kept.
func TestAnImportParksWhatTheConsumerDoesNotKnow(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		q := k.queue()
		require.NoError(t, k.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			_, _, err := k.InsertInbox(ctx, store.InboxRow{Consumer: shop, MessageID: "applied", Verdict: store.Applied})
			return err
		}))
		q.cfg.Identity = func(msg *message.Message) (string, error) { return msg.Metadata.Get("id"), nil }
		q.put("1", nil, "id", "applied")
		q.put("2", []byte("a"), "id", "twice")
		q.put("3", []byte("a"), "id", "twice")
		q.put("4", []byte("b"), "id", "twice")
		q.put("5", []byte("b"), "id", "twice")
		q.put("6", nil)
		sums, each := q.take()
		require.Equal(t, parking.Imported{Parked: 3, Known: 3}, sums)
		require.Equal(t, store.Applied, each["1"].Verdict)
		for id, outcome := range map[string]parking.ImportOutcome{
			"1": parking.ImportKnown, "6": parking.ImportParked,
		} {
			require.Equal(t, outcome, each[id].Outcome, id)
		}
		require.Zero(t, q.left())
		// The service handles each of them once.
		_, err := k.desk("anna").RetryAll(t.Context(), store.ParkedFilter{}, parking.GroupOptions{})
		require.NoError(t, err)
		require.Equal(t, 3, k.drain(func(store.ParkedRow) error { return nil }))
	})
}

// What can't be parked, or is another handler's, stays where it is, and the rest is
// parked.
func TestAnImportLeavesWhatItCanNotPark(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		q := k.queue()
		q.put("1", nil)
		q.put("2", nil, wmiddleware.PoisonedHandlerKey, "mail")
		left := int64(1)
		if k.kind == "mariadb" {
			q.put("large", make([]byte, 16<<20+1))
			left++
		}
		q.put("3", nil)
		sums, each := q.take()
		require.Equal(t, parking.Imported{Parked: 2, Left: int(left)}, sums)
		require.Equal(t, left, q.left())
		require.Equal(t, `handler "mail" has put it aside, not "orders"`, each["2"].Why)
		if left > 1 {
			require.Contains(t, each["large"].Why, "max_allowed_packet")
		}

		q.cfg.Shared = true // other groups have it too
		sums, _ = q.take()
		require.Equal(t, parking.Imported{Others: 1, Left: int(left) - 1}, sums)
		require.Equal(t, left-1, q.left())

		q.put("4", nil, wmiddleware.PoisonedHandlerKey, "mail")
		q.put("5", nil)
		q.cfg.Consumer, q.cfg.Service = "", "shop"
		sums, each = q.take()
		require.Equal(t, parking.Imported{Parked: 1, Left: int(left)}, sums)
		require.Equal(t, "shop.mail", each["4"].Consumer)
		require.Contains(t, each["5"].Why, "names no handler")
	})
}

// An import that is cut off gives back what it hasn't parked, and goes on later.
func TestAnImportThatIsCutOffGoesOn(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		q := k.queue()
		for _, id := range []string{"1", "2", "3", "4", "5"} {
			q.put(id, nil)
		}
		ctx, cancel := context.WithCancel(t.Context())
		q.cfg.Each = func(parking.ImportedMessage) { cancel() }
		sums, err := k.desk("anna").Import(ctx, q.bus.Subscriber, q.cfg)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, parking.Imported{Parked: 1}, sums)
		q.cfg.Limit = 1
		more, _ := q.take()
		require.Equal(t, parking.Imported{Parked: 1}, more)
		q.cfg.Limit = 0
		rest, _ := q.take()
		require.Equal(t, parking.Imported{Parked: 3}, rest)
		require.Zero(t, q.left())
	})
}

func TestAnImportThatCanNotBeMeantSo(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		q := k.queue()
		for name, test := range map[string]struct {
			actor string
			cfg   parking.ImportConfig
			want  error
		}{
			"no topic":         {"anna", parking.ImportConfig{Consumer: shop}, parking.ErrImport},
			"nobody's":         {"anna", parking.ImportConfig{Topic: "dead"}, parking.ErrImport},
			"two's":            {"anna", parking.ImportConfig{Topic: "dead", Consumer: shop, Service: "shop"}, parking.ErrImport},
			"a dot":            {"anna", parking.ImportConfig{Topic: "dead", Service: shop}, parking.ErrImport},
			"negative":         {"anna", parking.ImportConfig{Topic: "dead", Consumer: shop, Limit: -1}, parking.ErrImport},
			"unsigned":         {" ", parking.ImportConfig{Topic: "dead", Consumer: shop}, store.ErrNoActor},
			"unknown consumer": {"anna", parking.ImportConfig{Topic: "dead", Consumer: "shop.order"}, store.ErrUnknownConsumer},
		} {
			_, err := k.desk(test.actor).Import(t.Context(), q.bus.Subscriber, test.cfg)
			require.ErrorIs(t, err, test.want, name)
		}
	})
}
