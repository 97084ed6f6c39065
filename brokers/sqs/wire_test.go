package sqs

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
)

// odd are strings that SQS or an encoder on the way treats specially.
var odd = []string{
	"", " ", "plain", "with space", "ümlaut 😀", "\xff\xfe", "a\x00b", "\x01", "\uFFFE", "\uFFFF", "\uFFFD", "\r\n",
	".", "..", "a..b", ".a", "a.", "AWS.x", "aws.x", "Amazon.x", "-", `{"a":"b"}`, "<&>", "\u2028", "\x7f",
	packedAttribute, watermillsqs.UUIDAttribute, receiptEntry, msgmeta.Key, strings.Repeat("n", 257), strings.Repeat("😀", 100),
}

func randomMessage(r *rand.Rand) *message.Message {
	pick := func() string { return odd[r.IntN(len(odd))] }
	payloads := []message.Payload{nil, {}, message.Payload(pick()), message.Payload(pick() + pick())}
	msg := message.NewMessage(fmt.Sprint("id", r.Int64()), payloads[r.IntN(len(payloads))])
	if r.IntN(4) == 0 {
		msg.UUID += pick()
	}
	for range r.IntN(14) {
		name := pick()
		if r.IntN(2) == 0 {
			name = fmt.Sprint("entry", r.IntN(20))
		}
		msg.Metadata[name] = pick()
	}
	if msg.Metadata[msgmeta.Key] == "" {
		delete(msg.Metadata, msgmeta.Key)
	}

	return msg
}

func TestEveryMessageComesBackAsItWas(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		sent := randomMessage(r)
		wire := encode(sent)
		require.LessOrEqual(t, len(wire.attributes), maxAttributes)
		require.True(t, wire.body != "" && carried(wire.body), "%q", wire.body)
		for name, value := range wire.attributes {
			require.True(t, name == packedAttribute || name == watermillsqs.UUIDAttribute || attributeName(name), "%q", name)
			require.True(t, value != "" && carried(value), "%q: %q", name, value)
		}
		got := decode(wire.message())
		require.Equal(t, sent.UUID, got.UUID)
		require.Equal(t, sent.Metadata, got.Metadata)
		require.Equal(t, sent.Payload, got.Payload, "%q", sent.Payload)
	}
}

func TestOrdinaryMessagesAreReadByWatermillsOwnMarshalerAndTheOtherWayRound(t *testing.T) {
	t.Parallel()
	sent := message.NewMessage("7d5d9f7e", []byte(`{"quantity":1}`))
	msgmeta.SetKey(sent, "product-1")
	for i := range maxAttributes - 2 {
		sent.Metadata[fmt.Sprint("entry", i)] = "ü\n"
	}

	theirs, err := watermillsqs.DefaultMarshalerUnmarshaler{}.Unmarshal(encode(sent).message())
	require.NoError(t, err)
	require.True(t, sent.Equals(theirs), "%v", theirs)

	wire, err := watermillsqs.DefaultMarshalerUnmarshaler{}.Marshal(sent)
	require.NoError(t, err)
	require.True(t, sent.Equals(decode(wire)))
}

func TestHeadracesOwnEntriesMakeRoomForThoseThatOthersRead(t *testing.T) {
	t.Parallel()
	sent := message.NewMessage("1", []byte("x"))
	for i := range 8 {
		sent.Metadata[fmt.Sprint("entry", i)] = "v"
		sent.Metadata[fmt.Sprint(msgmeta.Prefix, "own", i)] = "v"
	}
	wire := encode(sent)
	for i := range 8 {
		require.Equal(t, "v", wire.attributes[fmt.Sprint("entry", i)])
	}
	require.Equal(t, sent.Metadata, decode(wire.message()).Metadata)
}

func TestForeignMessages(t *testing.T) {
	t.Parallel()
	text := func(kind, v string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: aws.String(kind), StringValue: aws.String(v)}
	}
	in := &types.Message{
		MessageId: aws.String("m-1"), Body: aws.String("body"), ReceiptHandle: aws.String("r"),
		Attributes: map[string]string{"MessageGroupId": "order-1", "ApproximateReceiveCount": "3"},
		MessageAttributes: map[string]types.MessageAttributeValue{
			"n": text("Number.int", "1"), "s": text("String.json", "{}"), "none": {},
			"b":             {DataType: aws.String("Binary.gzip"), BinaryValue: []byte{0xff}},
			msgmeta.Attempt: text("String", "99"),
		},
	}
	msg, err := marshaler{}.Unmarshal(in)
	require.NoError(t, err)
	require.Equal(t, "m-1", msg.UUID)
	require.Equal(t, "body", string(msg.Payload))
	require.Equal(t, message.Metadata{
		"n": "1", "s": "{}", "b": "\xff", msgmeta.Key: "order-1", msgmeta.Attempt: "3", receiptEntry: "r",
	}, msg.Metadata)

	_, err = marshaler{}.Unmarshal(&types.Message{})
	require.NoError(t, err, "not even a body")
}

func TestWhatCannotBeUnpackedIsDeliveredRawAndMarked(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"{", `{"body":"zip"}`, `{"body":"base64"}`, `{"uuid":"?"}`, `{"binary":[["?","?"]]}`, `[]`} {
		msg := decode(&types.Message{
			MessageId: aws.String("m-1"), Body: aws.String("not base64!"),
			MessageAttributes: map[string]types.MessageAttributeValue{
				packedAttribute: {DataType: aws.String("String"), StringValue: aws.String(text)},
			},
		})
		require.Equal(t, "not base64!", string(msg.Payload))
		require.NotEmpty(t, msgmeta.GetMalformed(msg), text)
	}
}

func TestFIFOIdentifiers(t *testing.T) {
	t.Parallel()
	ids := func(msg *message.Message) (group, dedup string) {
		wire, err := marshaler{fifo: true}.Marshal(msg)
		require.NoError(t, err)
		in, err := sendInput(t.Context(), "q", wire)
		require.NoError(t, err)
		for _, id := range []*string{in.MessageGroupId, in.MessageDeduplicationId} {
			require.Regexp(t, `^[!-~]{1,128}$`, *id)
		}
		require.NotContains(t, in.MessageAttributes, msgmeta.SendID)

		return *in.MessageGroupId, *in.MessageDeduplicationId
	}
	msg := message.NewMessage("uuid-1", nil)
	group, first := ids(msg)
	require.Equal(t, "uuid-1", group, "without a key it is a group of its own")
	_, second := ids(msg)
	require.NotEqual(t, first, second, "without a send id each publish is a sending of its own")

	msgmeta.SetSendID(msg, "17")
	_, first = ids(msg)
	_, second = ids(msg)
	require.Equal(t, first, second, "a repeated sending is recognised")
	msgmeta.SetSendID(msg, "18")
	_, second = ids(msg)
	require.NotEqual(t, first, second, "a sending on purpose is not")

	for _, key := range []string{strings.Repeat("k", 129), "with space", "ü", "\xff"} {
		msgmeta.SetKey(msg, key)
		group, _ = ids(msg)
		require.True(t, strings.HasPrefix(group, "sha256:"), group)
	}
	msgmeta.SetKey(msg, "a|b\\c")
	group, _ = ids(msg)
	require.Equal(t, "a|b\\c", group)

	standard, err := marshaler{}.Marshal(msg)
	require.NoError(t, err)
	in, err := sendInput(t.Context(), "q", standard)
	require.NoError(t, err)
	require.Nil(t, in.MessageGroupId)
}

func TestQueueNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "stock", QueueName("stock", false))
	require.Equal(t, "stock.fifo", QueueName("stock", true))
	require.Equal(t, "stock_changed-2ac2b2fc", QueueName("stock.changed", false))
	seen := map[string]string{}
	for _, topic := range []string{
		"a.b", "a_b", "a-b", "a/b", "ä", "a b", "a.fifo",
		strings.Repeat("a", 80), strings.Repeat("a", 81), strings.Repeat("a", 82),
	} {
		for _, fifo := range []bool{false, true} {
			name := QueueName(topic, fifo)
			require.Regexp(t, `^[A-Za-z0-9_-]{1,80}$`, strings.TrimSuffix(name, ".fifo"))
			require.LessOrEqual(t, len(name), 80)
			require.Empty(t, seen[name], "%q and %q", topic, seen[name])
			seen[name] = topic
		}
	}
}
