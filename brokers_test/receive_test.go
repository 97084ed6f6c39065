package brokers_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
)

// subscribe hears the bundle's topic as a group until the test ends.
func (b *bundle) subscribe(t *testing.T, group string) <-chan *message.Message {
	t.Helper()

	messages, _ := b.subscribeCtx(t.Context(), t, group)

	return messages
}

func (b *bundle) subscribeCtx(
	ctx context.Context, t *testing.T, group string,
) (<-chan *message.Message, message.Subscriber) {
	t.Helper()

	sub, err := b.SubscriberFor(group)
	require.NoError(t, err)
	messages, err := sub.Subscribe(ctx, b.topic)
	require.NoError(t, err)

	return messages, sub
}

// publish sends messages in one call each, in order.
func (b *bundle) publish(t *testing.T, messages ...*message.Message) {
	t.Helper()

	for _, msg := range messages {
		require.NoError(t, b.Publisher.Publish(b.topic, msg))
	}
}

func newMessage(key, payload string) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), message.Payload(payload))
	msgmeta.SetKey(msg, key)

	return msg
}

// newMessages returns n messages of a key, with payloads key-0, key-1 and so on.
func newMessages(key string, n int) []*message.Message {
	messages := make([]*message.Message, n)
	for i := range messages {
		messages[i] = newMessage(key, fmt.Sprintf("%s-%d", key, i))
	}

	return messages
}

// receive waits for the next message.
func receive(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case msg, open := <-messages:
		require.True(t, open, "the subscription ended before the message came")

		return msg
	case <-timer.C:
		require.FailNow(t, "no message came")

		return nil
	}
}

// receiveAcked waits for n messages, acks each, and returns their payloads.
func receiveAcked(t *testing.T, messages <-chan *message.Message, n int) []string {
	t.Helper()

	payloads := make([]string, 0, n)
	for range n {
		msg := receive(t, messages)
		payloads = append(payloads, string(msg.Payload))
		require.True(t, msg.Ack())
	}

	return payloads
}

// receiveDistinct acks messages until n different ones have come, and returns
// the payloads in the order in which each came first. At-least-once delivery
// allows repeats.
func receiveDistinct(t *testing.T, messages <-chan *message.Message, n int) []string {
	t.Helper()

	var payloads []string
	seen := map[string]bool{}
	for len(seen) < n {
		msg := receive(t, messages)
		if !seen[msg.UUID] {
			seen[msg.UUID] = true
			payloads = append(payloads, string(msg.Payload))
		}
		msg.Ack()
	}

	return payloads
}

// waitClosed waits for the end of a subscription, giving back what still comes.
func waitClosed(t *testing.T, messages <-chan *message.Message) {
	t.Helper()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case msg, open := <-messages:
			if !open {
				return
			}
			msg.Nack()
		case <-timer.C:
			require.FailNow(t, "the subscription did not end")
		}
	}
}

func payloadsOf(messages []*message.Message) []string {
	payloads := make([]string, len(messages))
	for i, msg := range messages {
		payloads[i] = string(msg.Payload)
	}

	return payloads
}
