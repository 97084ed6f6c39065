package brokers_test

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// oddMessages are contents that some broker is known to change or refuse.
func oddMessages() map[string]*message.Message {
	plain := func(payload []byte) *message.Message { return message.NewMessage(watermill.NewUUID(), payload) }
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}

	many := plain([]byte("many entries"))
	for i := range 40 {
		many.Metadata.Set(fmt.Sprintf("entry_%d", i), strings.Repeat("v", i))
	}
	odd := plain([]byte("odd entries"))
	odd.Metadata = message.Metadata{
		"Ünïcödé name": "Ünïcödé value 🚂", "with space": " around ", "empty": "", "tab\tand\nnewline": "a\tb\nc\r\n",
		"quotes\"'`\\": `"'\`, "AWS.Amazon": "x", "case": "lower", "CASE": "upper", "<html>&": "</script>",
		strings.Repeat("n", 200): strings.Repeat("v", 4000),
	}
	keyed := plain([]byte("keyed"))
	msgmeta.SetKey(keyed, "order/4711 Ü|x")
	noMap := plain([]byte("no metadata"))
	noMap.Metadata = nil
	longID := plain([]byte("long id"))
	longID.UUID = strings.Repeat("id-", 80)

	return map[string]*message.Message{
		"json":             plain([]byte(`{"b": 1,  "a": 1.0, "a": 2}`)),
		"unicode":          plain([]byte("Grüße, \u65e5\u672c, 🚂")),
		"every byte":       plain(every),
		"not UTF-8":        plain([]byte{0xff, 0xfe, 0x00, 0xc3}),
		"NUL":              plain([]byte{0}),
		"empty":            plain([]byte{}),
		"nil":              plain(nil),
		"one byte":         plain([]byte("x")),
		"whitespace":       plain([]byte(" \n")),
		"100 KB":           plain(bytes.Repeat([]byte("0123456789"), 10_000)),
		"many entries":     many,
		"odd entries":      odd,
		"key":              keyed,
		"no metadata":      noMap,
		"id of 240 bytes":  longID,
		"id with odd text": message.NewMessage("Ü id/with 'quotes' "+watermill.NewUUID(), []byte("odd id")),
	}
}

func TestContentsComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		messages := b.subscribe(t, "one")
		for name, sent := range oddMessages() {
			want := sent.Copy()
			b.publish(t, sent)

			got := receive(t, messages)
			got.Ack()
			require.Equal(t, want.UUID, got.UUID, name)
			require.Truef(t, bytes.Equal(want.Payload, got.Payload),
				"%s: payload %.60q became %.60q", name, want.Payload, got.Payload)
			if b.Capabilities.NilPayload {
				require.Equal(t, want.Payload == nil, got.Payload == nil, name)
			}
			msgmeta.StripDelivery(got)
			for entry, value := range want.Metadata {
				require.Equal(t, value, got.Metadata.Get(entry), "%s: metadata %q", name, entry)
			}
			require.Len(t, got.Metadata, len(want.Metadata), "%s: entries were added", name)
		}
	})
}

func TestBodiesUpToTheLimit(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		limit := b.Capabilities.MaxBody
		if b.limit != "" {
			limit = 50_000
			b.rawURL = withOptions(t, b.rawURL, map[string]string{b.limit: strconv.Itoa(limit)})
			b.Broker = open(t, b.rawURL)
		}
		require.Positive(t, limit, "a broker that declares no limit needs a case of its own here")
		require.Equal(t, limit, b.Capabilities.MaxBody)

		messages := b.subscribe(t, "one")
		full := newMessage("", strings.Repeat("x", limit))
		b.publish(t, full)

		small, over := newMessage("", "small"), newMessage("", strings.Repeat("x", limit+1))
		err := b.Publisher.Publish(b.topic, small, over)
		require.ErrorIs(t, err, brokers.ErrTooLarge)
		require.ErrorContains(t, err, strconv.Itoa(limit+1))
		var refused *brokers.RefusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, 1, refused.Index)
		require.Equal(t, over.UUID, refused.UUID)
		require.True(t, refused.Permanent())
		require.Less(t, len(err.Error()), 1000, "an error must not hold the payload")

		b.publish(t, newMessage("", "after"))
		require.ElementsMatch(t, []string{string(full.Payload), "after"}, receiveAcked(t, messages, 2),
			"nothing of the refused call was sent")
	})
}

func TestUnsendableMessagesAreRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		messages := b.subscribe(t, "one")

		noUUID := message.NewMessage("", []byte("x"))
		err := b.Publisher.Publish(b.topic, newMessage("", "first"), noUUID)
		require.ErrorIs(t, err, brokers.ErrNoUUID)
		require.ErrorIs(t, b.Publisher.Publish(b.topic, newMessage("", "first"), nil), brokers.ErrNilMessage)
		require.ErrorIs(t, b.Publisher.Publish("", newMessage("", "first")), brokers.ErrTopic)
		require.NoError(t, b.Publisher.Publish(b.topic), "publishing nothing does nothing")

		// Metadata that is no text is carried as it is, or refused; never changed.
		odd := newMessage("", "odd")
		odd.Metadata.Set("bytes", "\xff\xfe")
		switch err := b.Publisher.Publish(b.topic, newMessage("", "with odd"), odd); {
		case err != nil:
			require.ErrorIs(t, err, brokers.ErrMetadata)
		default:
			for range 2 {
				if msg := receive(t, messages); string(msg.Payload) == "odd" {
					require.Equal(t, "\xff\xfe", msg.Metadata.Get("bytes"))
					msg.Ack()
				} else {
					msg.Ack()
				}
			}
		}

		nul := newMessage("", "nul")
		nul.Metadata.Set("nul", "a\x00b")
		switch err := b.Publisher.Publish(b.topic, nul); {
		case err != nil:
			require.ErrorIs(t, err, brokers.ErrMetadata)
		default:
			msg := receive(t, messages)
			require.Equal(t, "a\x00b", msg.Metadata.Get("nul"))
			msg.Ack()
		}

		b.publish(t, newMessage("", "last"))
		require.Equal(t, []string{"last"}, receiveAcked(t, messages, 1), "nothing of the refused calls was sent")
	})
}

func TestPublishedMessagesAreCopies(t *testing.T) {
	t.Parallel()
	type secret struct{}
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		one, two := b.subscribe(t, "one"), (<-chan *message.Message)(nil)
		if b.Capabilities.Groups {
			two = b.subscribe(t, "two")
		}

		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), secret{}, "of the publisher"))
		sent := newMessage("k", "original")
		sent.SetContext(ctx)
		b.publish(t, sent)
		cancel()
		sent.Payload[0] = 'X'
		sent.Metadata.Set("late", "entry")

		first := receive(t, one)
		require.Equal(t, "original", string(first.Payload))
		require.NotContains(t, first.Metadata, "late")
		require.NoError(t, first.Context().Err(), "the publisher's context is its own")
		require.Nil(t, first.Context().Value(secret{}))

		first.Payload[0] = 'Y'
		first.Metadata.Set("handler", "entry")
		first.Nack()
		again := receive(t, one)
		require.Equal(t, "original", string(again.Payload))
		require.NotContains(t, again.Metadata, "handler")
		again.Ack()
		if two != nil {
			other := receive(t, two)
			require.Equal(t, "original", string(other.Payload))
			require.NotContains(t, other.Metadata, "handler")
			other.Ack()
		}
	})
}
