package kafka_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/kafka"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// patience bounds every wait for a broker.
const patience = 20 * time.Second

// open opens the test broker with additional options (name=value&…).
func open(t testing.TB, options string) *brokers.Broker {
	t.Helper()
	b, err := brokers.Open(context.Background(), withOptions(t, options), brokers.Config{
		Openers: map[string]brokers.Opener{"kafka": kafka.Open},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	return b
}

func withOptions(t testing.TB, options string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a real broker")
	}
	u, err := url.Parse(testenv.Kafka(t))
	require.NoError(t, err)
	query, err := url.ParseQuery(options)
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

func TestSubscriberOnATopicThatDoesNotExistYetHearsTheFirstMessage(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_first")
	b := open(t, "group=g")
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)

	sent := keyed("k", "hello")
	sent.Metadata["a"] = "b"
	require.NoError(t, b.Publisher.Publish(topic, sent))

	got := receive(t, messages)
	require.True(t, sent.Equals(got), "%v", got.Metadata)
	got.Ack()
}

func TestEachGroupHearsWhatWasPublishedBeforeItCame(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_groups")
	b := open(t, "")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1"), keyed("k", "2")))

	for _, group := range []string{"one", "two"} {
		sub, err := b.SubscriberFor(group)
		require.NoError(t, err)
		messages, err := sub.Subscribe(t.Context(), topic)
		require.NoError(t, err)
		for _, want := range []string{"1", "2"} {
			got := receive(t, messages)
			require.Equal(t, want, string(got.Payload))
			got.Ack()
		}
	}
}

func TestNackedMessageComesAgainBeforeItsSuccessors(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_nack")
	b := open(t, "group=g&nack_delay=20ms")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1"), keyed("k", "2")))
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)

	started := time.Now()
	for range 3 {
		got := receive(t, messages)
		require.Equal(t, "1", string(got.Payload))
		got.Nack()
	}
	for _, want := range []string{"1", "2"} {
		got := receive(t, messages)
		require.Equal(t, want, string(got.Payload))
		got.Ack()
	}
	require.GreaterOrEqual(t, time.Since(started), 140*time.Millisecond, "20 + 40 + 80")
}

func TestAckedMessagesStayAckedAndUnackedOnesComeAgainAfterClose(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_close")
	const options = "group=g&drain=100ms&commit_interval=1h" // so that only Close commits
	first := open(t, options)
	require.NoError(t, first.Publisher.Publish(topic, keyed("k", "1"), keyed("k", "2"), keyed("k", "3")))
	messages, err := first.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	receive(t, messages).Ack()
	held := receive(t, messages)
	require.Equal(t, "2", string(held.Payload))
	require.NoError(t, first.Close())
	require.Error(t, held.Context().Err(), "the drain time is over")
	_, more := <-messages
	require.False(t, more)
	require.ErrorIs(t, first.Publisher.Publish(topic, keyed("k", "4")), brokers.ErrClosed)

	second := open(t, options)
	messages, err = second.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	for _, want := range []string{"2", "3"} {
		got := receive(t, messages)
		require.Equal(t, want, string(got.Payload))
		got.Ack()
	}
}

func TestCloseWaitsForTheHandlerAndKeepsItsAck(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_drain")
	b := open(t, "")
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
	_, more := <-messages
	require.False(t, more, "no further message after Close began")

	again, err := b.SubscriberFor("g")
	require.NoError(t, err)
	messages, err = again.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	got := receive(t, messages)
	require.Equal(t, "2", string(got.Payload))
	got.Ack()
}

func TestCancellingTheSubscriptionCancelsItsMessagesAtOnce(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_cancel")
	b := open(t, "group=g&drain=50ms")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "1")))
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := b.Subscriber.Subscribe(ctx, topic)
	require.NoError(t, err)
	held := receive(t, messages)
	cancel()
	<-held.Context().Done()
	_, more := <-messages
	require.False(t, more)
	n, err := b.Capabilities.Backlog(t.Context(), topic, "g")
	require.NoError(t, err)
	require.EqualValues(t, 1, n, "what nobody acked is still to be handled")
}

func TestHandlerFinishesBeforeItsPartitionMovesAndItsAckCounts(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_rebalance")
	b := open(t, "partitions=2&heartbeat=200ms&commit_interval=1h")
	subscribe := func() <-chan *message.Message {
		sub, err := b.SubscriberFor("g")
		require.NoError(t, err)
		messages, err := sub.Subscribe(t.Context(), topic)
		require.NoError(t, err)
		return messages
	}
	old := subscribe()
	const partitions = 2
	for i := range 20 {
		require.NoError(t, b.Publisher.Publish(topic, keyed(strconv.Itoa(i), strconv.Itoa(i))))
	}
	var held [partitions]*message.Message // one of each partition
	for i := range held {
		held[i] = receive(t, old)
	}

	fresh := subscribe()
	select {
	case <-fresh:
		t.Fatal("the new owner began before the old one was done")
	case <-time.After(time.Second):
	}
	seen := map[string]int{}
	for _, msg := range held {
		require.NoError(t, msg.Context().Err(), "within the drain time")
		seen[msg.UUID]++
		msg.Ack()
	}
	for len(seen) < 20 {
		select {
		case msg := <-old:
			seen[msg.UUID]++
			msg.Ack()
		case msg := <-fresh:
			seen[msg.UUID]++
			msg.Ack()
		case <-time.After(patience):
			t.Fatalf("only %d of 20 came", len(seen))
		}
	}
	for _, n := range seen {
		require.Equal(t, 1, n, "an ack given during the handover is committed")
	}
}

func TestPublishingFromManyGoroutinesAndClosingMeanwhile(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_many")
	b := open(t, "")
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "0")))
	var publishing sync.WaitGroup
	for i := range 50 {
		publishing.Go(func() {
			for {
				if err := b.Publisher.Publish(topic, keyed(strconv.Itoa(i), "x")); err != nil {
					if !errors.Is(err, brokers.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	require.NoError(t, b.Close())
	publishing.Wait()
}

func TestUnreachableBrokersAndBadOptions(t *testing.T) {
	t.Parallel()
	open := func(rawURL string) error {
		_, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: map[string]brokers.Opener{"kafka": kafka.Open}})
		return err
	}
	err := open("kafka://user:hunter2pass@127.0.0.1:1,127.0.0.1:2?connect_timeout=300ms")
	var unreachable *brokers.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.GreaterOrEqual(t, unreachable.Tried, 250*time.Millisecond)
	require.ErrorContains(t, err, "kafka://127.0.0.1:1,127.0.0.1:2")
	require.NotContains(t, err.Error(), "hunter2pass")

	for option, part := range map[string]string{
		"sesion_timeout=1s": "session_timeout", "nack_delay=0s": "hot loop", "heartbeat=20s": "session_timeout",
		"partitions=0": "at least 1", "compression=zip": "zstd", "sasl=scram-sha-512": "user:password",
		"tls_ca=/none": "can be read", "offset=first": "oldest, newest", "commit_interval=0s": "1ms", "retention=1ms": "1s",
	} {
		err := open("kafka://127.0.0.1:1?" + option)
		require.ErrorIs(t, err, brokers.ErrBadOption, option)
		require.ErrorContains(t, err, part)
	}
	for _, rawURL := range []string{"kafka:", "kafka://a:1/topic", "kafka://a:1,,b:2"} {
		require.ErrorIs(t, open(rawURL), brokers.ErrBadURL, rawURL)
	}
}

func TestTopicsThatKafkaCannotHaveAndMissingOnes(t *testing.T) {
	t.Parallel()
	b := open(t, "group=g&create=false")
	for _, topic := range []string{"a b", "ü", ".", "..", strings.Repeat("a", 250)} {
		require.ErrorIs(t, b.Publisher.Publish(topic, keyed("k", "x")), brokers.ErrTopic)
		_, err := b.Subscriber.Subscribe(t.Context(), topic)
		require.ErrorIs(t, err, brokers.ErrTopic)
	}
	topic := testenv.Topic(t, "kafka_none")
	require.ErrorContains(t, b.Publisher.Publish(topic, keyed("k", "x")), "create=true")
	_, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.ErrorContains(t, err, "create=true")
}

func TestTooLargeIsRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_large")
	b := open(t, "group=g")
	heavy := keyed("k", "x")
	heavy.Metadata["big"] = strings.Repeat("v", 1<<20)
	for _, msg := range []*message.Message{heavy, keyed("k", strings.Repeat("x", 1<<20))} {
		err := b.Publisher.Publish(topic, keyed("k", "first"), msg)
		require.ErrorIs(t, err, brokers.ErrTooLarge)
	}
	n, err := b.Capabilities.Backlog(t.Context(), topic, "g")
	require.NoError(t, err)
	require.Zero(t, n)
	// The greatest payload, of bytes that no compressor shrinks, with the rest of a batch around it.
	for _, compression := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		b := open(t, "compression="+compression)
		largest := keyed("k", "")
		largest.Payload = make([]byte, b.Capabilities.MaxBody)
		_, _ = rand.Read(largest.Payload)
		require.NoError(t, b.Publisher.Publish(topic, largest), compression)
	}
}

func TestTopicsAreMadeAsTheOptionsSay(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "kafka_made")
	b := open(t, "group=g&partitions=3&retention=1h")
	require.Equal(t, time.Hour, b.Capabilities.RedeliveryWindow)
	require.NoError(t, b.Publisher.Publish(topic, keyed("k", "x")))
	admin, err := sarama.NewClusterAdmin([]string{strings.TrimPrefix(b.Name(), "kafka://")}, sarama.NewConfig())
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close()) }()
	made, err := admin.ListTopics()
	require.NoError(t, err)
	require.EqualValues(t, 3, made[topic].NumPartitions)
	require.Equal(t, "3600000", *made[topic].ConfigEntries["retention.ms"])
}
