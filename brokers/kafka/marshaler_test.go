package kafka

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// received makes of a produced record what a consumer would be given.
func received(t *testing.T, record *sarama.ProducerMessage) *sarama.ConsumerMessage {
	t.Helper()
	out := &sarama.ConsumerMessage{Topic: record.Topic, Partition: 3, Offset: 7, Timestamp: time.UnixMilli(1700000000000)}
	var err error
	if record.Key != nil {
		out.Key, err = record.Key.Encode()
		require.NoError(t, err)
	}
	if record.Value != nil {
		out.Value, err = record.Value.Encode()
		require.NoError(t, err)
		require.NotNil(t, out.Value, "a nil encoding is a tombstone")
	}
	for i := range record.Headers {
		out.Headers = append(out.Headers, &record.Headers[i])
	}

	return out
}

func TestEveryMessageComesBackAsItWas(t *testing.T) {
	t.Parallel()
	odd := []string{"", " ", "ü😀", "\xff\xfe", "\x00", strings.Repeat("x", 10000), msgmeta.Version}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func() string { return odd[r.IntN(len(odd))] }
	for range 5000 {
		sent := message.NewMessage(fmt.Sprint("id", r.Int64(), pick()), message.Payload(pick()))
		for range r.IntN(20) {
			sent.Metadata[pick()+strconv.Itoa(r.IntN(5))] = pick()
		}
		msgmeta.SetKey(sent, pick())
		record, err := Marshaler{}.Marshal("t", sent)
		require.NoError(t, err)
		require.Equal(t, msgmeta.GetKey(sent) == "", record.Key == nil)
		got, err := Marshaler{}.Unmarshal(received(t, record))
		require.NoError(t, err)
		require.True(t, sent.Equals(got))
	}
}

func TestWireIsThatOfWatermillsOwnMarshaler(t *testing.T) {
	t.Parallel()
	sent := message.NewMessage("1", []byte("x"))
	sent.Metadata["a"] = "b"
	msgmeta.SetKey(sent, "k")

	ours, err := Marshaler{}.Marshal("t", sent)
	require.NoError(t, err)
	theirs, err := watermillkafka.DefaultMarshaler{}.Unmarshal(received(t, ours))
	require.NoError(t, err)
	require.True(t, sent.Equals(theirs))

	foreign, err := watermillkafka.DefaultMarshaler{}.Marshal("t", sent)
	require.NoError(t, err)
	back, err := Marshaler{}.Unmarshal(received(t, foreign))
	require.NoError(t, err)
	require.True(t, sent.Equals(back))
}

func TestNilPayloadIsNoTombstoneUnlessItSaysSo(t *testing.T) {
	t.Parallel()
	msg := message.NewMessage("1", nil)
	record, err := Marshaler{}.Marshal("t", msg)
	require.NoError(t, err)
	got, err := Marshaler{}.Unmarshal(received(t, record))
	require.NoError(t, err)
	require.NotNil(t, got.Payload)
	require.Empty(t, got.Payload)
	require.False(t, msgmeta.IsTombstone(got))

	msgmeta.SetTombstone(msg)
	record, err = Marshaler{}.Marshal("t", msg)
	require.NoError(t, err)
	require.Nil(t, record.Value)
	got, err = Marshaler{}.Unmarshal(received(t, record))
	require.NoError(t, err)
	require.True(t, msgmeta.IsTombstone(got))

	got.Payload = []byte("a handler's output that kept its input's metadata")
	record, err = Marshaler{}.Marshal("t", got)
	require.NoError(t, err)
	got, err = Marshaler{}.Unmarshal(received(t, record))
	require.NoError(t, err)
	require.NotEmpty(t, got.Payload)
	require.False(t, msgmeta.IsTombstone(got))
}

func TestForeignRecords(t *testing.T) {
	t.Parallel()
	record := func(offset int64) *sarama.ConsumerMessage {
		return &sarama.ConsumerMessage{
			Topic: "t", Partition: 1, Offset: offset, Key: []byte("order-1"), Value: []byte("v"),
			Timestamp: time.UnixMilli(1700000000000),
			Headers: []*sarama.RecordHeader{
				{Key: []byte("h"), Value: []byte("first")},
				nil,
				{Key: []byte("h"), Value: []byte("last")},
				{Key: []byte(msgmeta.Attempt), Value: []byte("9")},
				{Key: []byte("null")},
			},
		}
	}
	id := func(r *sarama.ConsumerMessage) string {
		msg, err := Marshaler{}.Unmarshal(r)
		require.NoError(t, err)
		require.Equal(t, message.Metadata{"h": "last", "null": "", msgmeta.Key: "order-1"}, msg.Metadata)
		require.Len(t, msg.UUID, 36)

		return msg.UUID
	}
	first := id(record(1))
	require.Equal(t, first, id(record(1)), "each delivery has the same UUID")
	require.NotEqual(t, id(record(1)), id(record(2)))
	recreated := record(1)
	recreated.Timestamp = recreated.Timestamp.Add(time.Hour)
	require.NotEqual(t, id(record(1)), id(recreated), "of a topic that was made again")
}

func TestMetadataOfTheReservedNameIsRefused(t *testing.T) {
	t.Parallel()
	msg := message.NewMessage("1", nil)
	msg.Metadata[watermillkafka.UUIDHeaderKey] = ""
	_, err := Marshaler{}.Marshal("t", msg)
	require.ErrorIs(t, err, brokers.ErrMetadata)
}

// franz-go hashes keys as Java does, in its default partitioner as in this one.
func TestKeysLandWhereFranzGoPutsThem(t *testing.T) {
	t.Parallel()
	theirs := kgo.StickyKeyPartitioner(nil).ForTopic("t")
	ours := newPartitioner("t")
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		key := make([]byte, 1+i%40)
		for j := range key {
			key[j] = byte(r.Uint32())
		}
		partitions := 1 + r.IntN(100)
		want := theirs.Partition(&kgo.Record{Key: key}, partitions)
		got, err := ours.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, int32(partitions))
		require.NoError(t, err)
		require.EqualValues(t, want, got, "key %x of %d partitions", key, partitions)
	}
	seen := map[int32]bool{}
	for range 1000 {
		got, err := ours.Partition(&sarama.ProducerMessage{}, 12)
		require.NoError(t, err)
		seen[got] = true
	}
	require.Len(t, seen, 12, "without a key, all partitions")
}
