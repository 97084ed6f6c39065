package sqs_test

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/sqs"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// patience bounds every wait for a broker.
const patience = 20 * time.Second

var kinds = map[string]string{"standard": "fifo=false", "fifo": "fifo=true"}

func config() brokers.Config {
	return brokers.Config{Openers: map[string]brokers.Opener{"sqs": sqs.Open}}
}

// open opens the test broker with additional options (name=value&…).
func open(t testing.TB, options ...string) *brokers.Broker {
	t.Helper()
	b, err := brokers.Open(context.Background(), withOptions(t, options...), config())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	return b
}

func withOptions(t testing.TB, options ...string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a real broker")
	}
	u, err := url.Parse(testenv.SQS(t))
	require.NoError(t, err)
	query, err := url.ParseQuery(strings.Join(options, "&"))
	require.NoError(t, err)
	for name, values := range u.Query() {
		if !query.Has(name) {
			query[name] = values
		}
	}
	u.RawQuery = query.Encode()

	return u.String()
}

func receive(t testing.TB, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-messages:
		require.True(t, ok, "the subscription ended")
		return msg
	case <-time.After(patience):
		t.Fatal("no message")
		return nil
	}
}

func keyed(key, payload string) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
	msgmeta.SetKey(msg, key)

	return msg
}

func TestMessagesOfEveryShapeCrossTheRealBroker(t *testing.T) {
	t.Parallel()
	for kind, option := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			topic := testenv.Topic(t, "sqs_shapes")
			b := open(t, option, "group=g")
			messages, err := b.Subscriber.Subscribe(t.Context(), topic)
			require.NoError(t, err)

			crowded := keyed("k", "many entries")
			for i := range 30 {
				crowded.Metadata[fmt.Sprint("entry", i)] = "v"
			}
			strange := keyed("k ü\x00", "\x00\xff\r\n")
			strange.Metadata = message.Metadata{"": "", "a b": "\xff", "AWS.x": "1", "ü": "\uFFFE", "t": "\t\r\n", "empty": ""}
			large := keyed("k", strings.Repeat("a", b.Capabilities.MaxBody))
			for _, sent := range []*message.Message{
				keyed("k", "text"), keyed("", "no key"), crowded, strange, large,
				message.NewMessage(watermill.NewUUID(), nil), message.NewMessage(watermill.NewUUID(), []byte{}),
			} {
				require.NoError(t, b.Publisher.Publish(topic, sent))
				got := receive(t, messages)
				attempt, _, err := msgmeta.GetAttempt(got)
				require.NoError(t, err)
				require.EqualValues(t, 1, attempt)
				delete(got.Metadata, msgmeta.Attempt)
				require.Equal(t, sent.UUID, got.UUID)
				require.Equal(t, sent.Metadata, got.Metadata)
				require.Equal(t, sent.Payload, got.Payload)
				got.Ack()
			}
		})
	}
}

func TestNackedMessageComesAgainSoonAndCounted(t *testing.T) {
	t.Parallel()
	for kind, option := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			topic := testenv.Topic(t, "sqs_nack")
			b := open(t, option, "group=g&receivers=2&nack_delay=20ms")
			require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1")))
			messages, err := b.Subscriber.Subscribe(t.Context(), topic)
			require.NoError(t, err)
			started := time.Now()
			for want := range int64(4) {
				got := receive(t, messages)
				attempt, _, err := msgmeta.GetAttempt(got)
				require.NoError(t, err)
				require.Equal(t, want+1, attempt)
				if want == 3 {
					got.Ack()
				} else {
					got.Nack()
				}
			}
			require.GreaterOrEqual(t, time.Since(started), 140*time.Millisecond, "20 + 40 + 80")
			require.Less(t, time.Since(started), 10*time.Second, "long before the visibility timeout")
		})
	}
}

func TestKeyOrderAndParallelKeysOnFIFO(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_order")
	b := open(t, "group=g&fifo=true&nack_delay=20ms")
	const keys, each = 5, 8
	for i := range each {
		for k := range keys {
			require.NoError(t, b.Publisher.Publish(topic, keyed(fmt.Sprint("k", k), strconv.Itoa(i))))
		}
	}
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)

	var mu sync.Mutex
	seen, busy, nacked := map[string][]string{}, map[string]bool{}, map[string]bool{}
	var handlers sync.WaitGroup
	done := make(chan struct{}, keys*each)
	go func() {
		for msg := range messages {
			handlers.Go(func() {
				key := msgmeta.GetKey(msg)
				mu.Lock()
				if busy[key] {
					t.Errorf("two messages of %s at once", key)
				}
				busy[key] = true
				mu.Unlock()
				time.AfterFunc(5*time.Millisecond, func() {
					mu.Lock()
					defer mu.Unlock()
					busy[key] = false
					if id := key + string(msg.Payload); len(msg.Payload) > 0 && msg.Payload[0]%3 == 0 && !nacked[id] {
						nacked[id] = true
						msg.Nack()
						return
					}
					seen[key] = append(seen[key], string(msg.Payload))
					msg.Ack()
					done <- struct{}{}
				})
			})
		}
	}()
	for range keys * each {
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatal("not all came")
		}
	}
	handlers.Wait()
	mu.Lock()
	defer mu.Unlock()
	for key, got := range seen {
		for i, payload := range got {
			require.Equal(t, strconv.Itoa(i), payload, key)
		}
	}
}

func TestSendingAgainOnPurposeArrivesAndARepeatedSendingDoesNot(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_again")
	b := open(t, "group=g&fifo=true&wait=1s&receivers=1")
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	msg := keyed("k", "x")
	for range 2 { // by hand, the first handled and deleted
		require.NoError(t, b.Publisher.Publish(topic, msg))
		got := receive(t, messages)
		require.Equal(t, msg.UUID, got.UUID)
		got.Ack()
	}
	for _, sending := range []string{"1", "1", "1", "2"} { // a relay's retries, then an operator's replay
		msgmeta.SetSendID(msg, sending)
		require.NoError(t, b.Publisher.Publish(topic, msg))
	}
	marker := keyed("k", "last")
	require.NoError(t, b.Publisher.Publish(topic, marker))
	for _, want := range []string{msg.UUID, msg.UUID, marker.UUID} {
		got := receive(t, messages)
		require.Equal(t, want, got.UUID)
		got.Ack()
	}
}

func TestSecondGroupOnAQueueIsRefusedByNameAcrossBrokersToo(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_group")
	for range 2 { // a second process of the same service
		b := open(t, "group=stock")
		_, err := b.Subscriber.Subscribe(t.Context(), topic)
		require.NoError(t, err)
		other, err := b.SubscriberFor("billing")
		require.NoError(t, err)
		_, err = other.Subscribe(t.Context(), topic)
		require.ErrorIs(t, err, brokers.ErrOneGroup)
		require.ErrorContains(t, err, `"stock"`)
	}
	b := open(t, "group=billing")
	_, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.ErrorIs(t, err, brokers.ErrOneGroup)
	b = open(t, "group=billing&claim=false")
	_, err = b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
}

func TestAtMostOneOfTheGroupsThatComeAtOnceGetsTheQueue(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_race")
	b := open(t, "wait=1s&receivers=1")
	var racing sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		racing.Go(func() {
			sub, err := b.SubscriberFor(fmt.Sprint("group", i))
			if err == nil {
				_, err = sub.Subscribe(t.Context(), topic)
			}
			errs[i] = err
		})
	}
	racing.Wait()
	winners := 0
	for _, err := range errs {
		if err == nil {
			winners++
			continue
		}
		require.ErrorIs(t, err, brokers.ErrOneGroup)
	}
	require.LessOrEqual(t, winners, 1)
}

func TestCloseNeitherHangsOnAReaderWhoLeftNorWaitsForTheLongPoll(t *testing.T) {
	t.Parallel()
	topic, quiet := testenv.Topic(t, "sqs_close"), testenv.Topic(t, "sqs_quiet")
	b := open(t, "group=g")
	for range 20 {
		require.NoError(t, b.Publisher.Publish(topic, keyed("k", "x")))
	}
	_, err := b.Subscriber.Subscribe(t.Context(), quiet)
	require.NoError(t, err)
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	receive(t, messages).Ack() // and nobody reads any more
	started := time.Now()
	require.NoError(t, b.Close())
	require.Less(t, time.Since(started), 5*time.Second)
	_, err = b.Capabilities.Backlog(t.Context(), topic, "g")
	require.ErrorIs(t, err, brokers.ErrClosed)

	again := open(t, "group=g")
	messages, err = again.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	for range 19 {
		receive(t, messages).Ack()
	}
	require.Less(t, time.Since(started), 15*time.Second, "given back at once, not after the visibility timeout")
}

func TestCloseWaitsForTheHandlerAndKeepsItsAck(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_drain")
	b := open(t, "wait=1s&receivers=1&visibility=3s")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1"), keyed("k", "2")))
	sub, err := b.SubscriberFor("g")
	require.NoError(t, err)
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	held := receive(t, messages)
	closed := make(chan error)
	go func() { closed <- sub.Close() }()
	select {
	case <-closed:
		t.Fatal("closed before the handler was done")
	case <-time.After(200 * time.Millisecond):
	}
	require.NoError(t, held.Context().Err())
	held.Ack()
	require.NoError(t, <-closed)
	testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
		n, err := b.Capabilities.Backlog(t.Context(), topic, "g")
		require.NoError(t, err)
		return n == 1, fmt.Sprintf("backlog %d", n)
	})
}

func TestMessageOfASlowHandlerIsDeliveredAgainAfterItsVisibility(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_slow")
	b := open(t, "group=g&visibility=1s&receivers=2")
	require.Equal(t, time.Second, b.Capabilities.AckDeadline)
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1")))
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	slow := receive(t, messages)
	again := receive(t, messages)
	require.Equal(t, slow.UUID, again.UUID)
	again.Ack()
	slow.Ack()
}

func TestMessagesNobodyTakesYetAreNotDeliveredElsewhere(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_wait")
	b := open(t, "group=g&visibility=1s&receivers=1")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1")))
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	<-time.After(2500 * time.Millisecond) // the server's clock, by which its visibility would end twice
	got := receive(t, messages)
	attempt, _, err := msgmeta.GetAttempt(got)
	require.NoError(t, err)
	require.EqualValues(t, 1, attempt)
	got.Ack()
}
