package sqs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/headrace-go/headrace/msgmeta"
)

// receiptEntry carries the receipt handle from the unmarshaler past upstream,
// which keeps it to itself, to the delivery, which takes it out.
const receiptEntry = msgmeta.Prefix + "sqs_receipt"

// maxID is the most characters of a group or deduplication id.
const maxID = 128

// marshaler stands between upstream and the wire form. With fifo it also gives
// group and deduplication id, in the system attributes of types.Message, where
// sendInput finds them: upstream has no other place for them.
type marshaler struct{ fifo bool }

var (
	_ watermillsqs.Marshaler   = marshaler{}
	_ watermillsqs.Unmarshaler = marshaler{}
)

func (m marshaler) Marshal(msg *message.Message) (*types.Message, error) {
	out := encode(msg).message()
	if m.fifo {
		out.Attributes = map[string]string{
			string(types.MessageSystemAttributeNameMessageGroupId):         groupOf(msg),
			string(types.MessageSystemAttributeNameMessageDeduplicationId): deduplicationID(msg),
		}
	}

	return out, nil
}

func sendInput(_ context.Context, queue watermillsqs.QueueURL, m *types.Message) (*sqs.SendMessageInput, error) {
	in := &sqs.SendMessageInput{
		QueueUrl: aws.String(string(queue)), MessageBody: m.Body, MessageAttributes: m.MessageAttributes,
	}
	if group, ok := m.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]; ok {
		in.MessageGroupId = aws.String(group)
		in.MessageDeduplicationId = aws.String(m.Attributes[string(types.MessageSystemAttributeNameMessageDeduplicationId)])
	}

	return in, nil
}

// Unmarshal has no failure: upstream would leave the message to come again and
// again, unseen.
func (m marshaler) Unmarshal(in *types.Message) (*message.Message, error) {
	msg := decode(in)
	delete(msg.Metadata, msgmeta.SendID)
	delete(msg.Metadata, msgmeta.Attempt)
	count := in.Attributes[string(types.MessageSystemAttributeNameApproximateReceiveCount)]
	if n, err := strconv.ParseInt(count, 10, 64); err == nil {
		msgmeta.SetAttempt(msg, max(1, n))
	}
	group := in.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]
	if group != "" && msgmeta.GetKey(msg) == "" && group != groupOf(msg) {
		msgmeta.SetKey(msg, group) // a foreign producer's
	}
	msg.Metadata[receiptEntry] = aws.ToString(in.ReceiptHandle)

	return msg, nil
}

// groupOf returns the message group: the key, or the message alone. The whole
// key travels in the metadata, so a hash in its place loses nothing.
func groupOf(msg *message.Message) string {
	if key := msgmeta.GetKey(msg); key != "" {
		return identifier(key)
	}

	return identifier(msg.UUID)
}

// deduplicationID says which sendings SQS may take for one: see the package's
// documentation.
func deduplicationID(msg *message.Message) string {
	sending := msgmeta.GetSendID(msg)
	if sending == "" {
		sending = rand.Text()
	}

	return identifier(msg.UUID + ":" + sending)
}

// identifier returns a string as group and deduplication ids may be: 1 to 128
// visible ASCII characters.
func identifier(s string) string {
	plain := s != "" && len(s) <= maxID
	for _, c := range []byte(s) {
		plain = plain && c > ' ' && c <= '~'
	}
	if plain {
		return s
	}
	sum := sha256.Sum256([]byte(s))

	return "sha256:" + hex.EncodeToString(sum[:])
}
