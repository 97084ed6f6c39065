package scenario

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

// eachPair plays a test on every broker with every database.
func eachPair(t *testing.T, test func(t *testing.T, p pair)) {
	t.Helper()
	t.Parallel()
	each(t, everyPair(t), test)
}

func each(t *testing.T, pairs []pair, test func(t *testing.T, p pair)) {
	t.Helper()
	for _, p := range pairs {
		t.Run(p.broker+"/"+p.database, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// What a message holds comes through the outbox and the broker as it is.
func TestContentComesThroughOutboxAndBroker(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		w := open(t, p)
		topic := w.topic("content")
		payloads := map[string][]byte{
			"nil": nil, "empty": {}, "not utf-8": {0xff, 0x00, 0xfe}, "long": bytes.Repeat([]byte("0123456789"), 10_000),
		}
		arrived := make(chan *message.Message, len(payloads))
		w.serve(subscription{
			service: "reader", topic: topic, middlewares: one(w.dedupe("reader")),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				arrived <- msg
				return nil, nil
			},
		})
		w.forward(forwarder.Config{})
		metadata := message.Metadata{"größe": "ü'\"\\;\n", "empty": ""}
		for i := range 15 { // SQS takes ten
			metadata[fmt.Sprintf("entry %d", i)] = strings.Repeat("v", i)
		}
		for id, payload := range payloads {
			msg := message.NewMessage(id, payload)
			maps.Copy(msg.Metadata, metadata)
			require.NoError(t, w.outbox.Publish(t.Context(), topic, msg))
		}
		for range payloads {
			msg := receive(t, arrived, "the messages")
			want := payloads[msg.UUID]
			require.True(t, bytes.Equal(want, msg.Payload), "%s came as %q", msg.UUID, msg.Payload)
			if w.bus.Capabilities.NilPayload {
				require.Equal(t, want == nil, msg.Payload == nil, msg.UUID)
			}
			for name, value := range metadata {
				require.Equal(t, value, msg.Metadata[name], "%s of %s", name, msg.UUID)
			}
		}
	})
}

// A message that the broker will never take stays in the outbox, is parked with the
// broker's reason, and holds its key and no other.
func TestAMessageOverTheBrokersLimitIsKeptAndReported(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		const limit = 50_000
		w := open(t, p, withBroker(withOptions(brokerURL(t, p.broker), fmt.Sprintf("max_body=%d", limit))))
		topic, acked := w.topic("content"), newTally()
		w.serve(subscription{
			service: "reader", topic: topic, middlewares: chain(one(acked.acked), one(w.dedupe("reader"))),
			handle: func(*message.Message) ([]*message.Message, error) { return nil, nil },
		})
		publish := func(id, key string, size int) {
			msg := message.NewMessage(id, make([]byte, size))
			msgmeta.SetKey(msg, key)
			require.NoError(t, w.outbox.Publish(t.Context(), topic, msg))
		}
		publish("too large", "a", 2*limit)
		publish("behind it", "a", 1)
		publish("beside it", "b", 1)
		w.forward(forwarder.Config{})
		acked.wait(t, "beside it", 1)
		testenv.Eventually(t, patience, tick, func() (bool, string) {
			counts, err := w.st.CountOutbox(t.Context())
			require.NoError(t, err)
			require.Len(t, counts, 1)
			return counts[0].Unsent == 2 && counts[0].Parked == 1 &&
				strings.Contains(counts[0].LastError, brokers.ErrTooLarge.Error()), fmt.Sprintf("%+v", counts[0])
		})
		n, _ := acked.get("behind it")
		require.Zero(t, n)
		require.Equal(t, 1, w.count("SELECT count(*) FROM headrace_outbox WHERE message_id = 'too large'"))
		// Somebody removes it by hand, and its key goes on. (For what operators do, see S04.)
		w.must("DELETE FROM headrace_outbox WHERE message_id = 'too large'")
		acked.wait(t, "behind it", 1)
	})
}

func TestAMessageWithoutUUIDIsRefusedOnEveryWay(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		w := open(t, p)
		topic, nameless := w.topic("content"), message.NewMessage("", []byte("x"))
		require.ErrorIs(t, w.outbox.Publish(t.Context(), topic, newMessage("good"), nameless), forwarder.ErrNoUUID)
		require.Zero(t, w.count("SELECT count(*) FROM headrace_outbox"), "nothing of the call is written")

		err := w.bus.Publisher.Publish(topic, nameless)
		require.ErrorIs(t, err, brokers.ErrNoUUID)
		var refused *brokers.RefusedError
		require.ErrorAs(t, err, &refused)
		require.True(t, refused.Permanent())
	})
}
