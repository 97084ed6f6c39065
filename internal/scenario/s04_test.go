package scenario

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// sentLog is what a broker has taken, by key, in order.
type sentLog struct {
	message.Publisher

	mu    sync.Mutex
	byKey map[string][]string
}

func (l *sentLog) decorate(p message.Publisher) message.Publisher {
	l.Publisher = p
	return l
}

func (l *sentLog) Publish(topic string, msgs ...*message.Message) error {
	if err := l.Publisher.Publish(topic, msgs...); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, msg := range msgs {
		key := msgmeta.GetKey(msg)
		l.byKey[key] = append(l.byKey[key], msg.UUID)
	}
	return nil
}

func (l *sentLog) of(key string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.byKey[key])
}

// The limit is the broker's, or what its administrator has set.
const smallBroker = 50_000

// Without the protection a message that is refused is tried for ever.
func TestS04_PoisonOnTheWayOut(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		w := open(t, p, withBroker(withOptions(brokerURL(t, p.broker), fmt.Sprintf("max_body=%d", smallBroker))))
		topic, acked := w.topic("orders"), newTally()
		w.serve(subscription{
			service: "reader", topic: topic, middlewares: chain(one(acked.acked), one(w.dedupe("reader"))),
			handle: func(*message.Message) ([]*message.Message, error) { return nil, nil },
		})
		publish := func(key string, ids ...string) {
			for _, id := range ids {
				size := 1
				if strings.HasPrefix(id, "poison") {
					size = 2 * smallBroker
				}
				msg := message.NewMessage(id, make([]byte, size))
				msgmeta.SetKey(msg, key)
				require.NoError(t, w.outbox.Publish(t.Context(), topic, msg))
			}
		}
		publish("a", "a1", "poison 1", "a2", "a3", "poison 2", "a4")
		publish("b", "b1", "b2", "b3")
		sent := &sentLog{byKey: map[string][]string{}}
		cfg := forwarder.Config{KeepPermanent: !protected, LeaseTTL: shortLease}
		stop := w.forward(cfg, sent.decorate)
		acked.wait(t, "b3", 1)
		acked.wait(t, "a1", 1)
		w.refusedOften("poison 1", protected)
		stop()

		// Another forwarder takes over, and finds the key as it was left.
		w.forward(cfg, sent.decorate)
		publish("a", "a5")
		publish("b", "b4")
		acked.wait(t, "b4", 1)
		require.Equal(t, []string{"a1"}, sent.of("a"))

		w.operate(func(desk *parking.Desk, item parking.Item) {
			require.Equal(t, "poison 1", item.MessageID)
			require.Contains(t, item.Reason, brokers.ErrTooLarge.Error())
			require.ErrorIs(t, desk.Retry(t.Context(), item.ID, parking.RetryOptions{}), parking.ErrNeedsEdit)
			require.NoError(t, desk.Edit(t.Context(), item.ID, parking.Edit{Payload: &[]byte{1}, Retry: true}))
		})
		if protected {
			acked.wait(t, "a3", 1)
			w.refusedOften("poison 2", protected)
		}
		w.operate(func(desk *parking.Desk, item parking.Item) {
			require.Equal(t, "poison 2", item.MessageID)
			require.NoError(t, desk.Discard(t.Context(), item.ID, "a copy of an old one"))
		})
		if protected {
			acked.wait(t, "a5", 1)
			w.sent()
		}
		return w.lineDamage(sent)
	})
}

// refusedOften waits until a message is parked or, without the protection, was
// refused again and again.
func (w *world) refusedOften(id string, protected bool) {
	w.t.Helper()
	const often = 4
	testenv.Eventually(w.t, patience, tick, func() (bool, string) {
		if protected {
			n := w.count("SELECT count(*) FROM headrace_parked WHERE message_id = ? AND status = 'parked'", id)
			return n == 1, id + " is not parked"
		}
		n := w.count("SELECT attempts FROM headrace_outbox WHERE message_id = ?", id)
		return n >= often, fmt.Sprintf("%s was tried %d times", id, n)
	})
}

// operate is what an operator does with each message that is parked in the outbox.
func (w *world) operate(judge func(desk *parking.Desk, item parking.Item)) {
	w.t.Helper()
	desk := parking.NewDesk(w.st, parking.DeskConfig{Actor: "anna"})
	items, err := desk.List(w.t.Context(), store.ParkedFilter{
		Origin: store.OriginOutbox, Status: []store.ParkedStatus{store.StatusParked},
	}, 0, 100)
	require.NoError(w.t, err)
	for _, item := range items {
		judge(desk, item)
	}
}

// lineDamage: everything was sent in the order of its key, and but for what was
// discarded nothing is missing.
func (w *world) lineDamage(sent *sentLog) (found []string) {
	for key, want := range map[string][]string{
		"a": {"a1", "poison 1", "a2", "a3", "a4", "a5"}, "b": {"b1", "b2", "b3", "b4"},
	} {
		if got := sent.of(key); !slices.Equal(got, want) {
			found = append(found, fmt.Sprintf("of key %s were sent %v instead of %v", key, got, want))
		}
	}
	return found
}
