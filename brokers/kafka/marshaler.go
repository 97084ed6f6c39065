package kafka

import (
	"fmt"
	"maps"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// Marshaler translates between messages and records. It is wire-compatible in
// both directions with watermill-kafka's DefaultMarshaler: the UUID travels in
// the header _watermill_message_uuid, metadata entries in headers of their own,
// the payload as the value. Beyond that:
//
//   - The record's key is the message's msgmeta.Key. A message without one gets
//     a null key, not an empty one, which would put all such messages into one
//     partition.
//   - A nil payload is sent as an empty value. A null value would be a tombstone
//     and make a compacted topic forget the key; one is sent only when asked
//     for, by msgmeta.Tombstone and no payload, and received as the same.
//   - A record without a UUID (a foreign producer's) gets one that follows from
//     its topic, partition, offset and timestamp, so that each redelivery of it
//     has the same.
//   - A received message without msgmeta.Key takes the record's key as its key.
//   - Of several headers with one name the last counts, as Kafka's own
//     Headers.lastHeader has it.
//
// Unmarshal has no failure: whatever bytes a record holds, they are delivered.
// The zero value is ready for use, concurrently.
type Marshaler struct{}

var _ watermillkafka.MarshalerUnmarshaler = Marshaler{}

// Marshal makes a record of a message. Its only error is brokers.ErrMetadata.
func (Marshaler) Marshal(topic string, msg *message.Message) (*sarama.ProducerMessage, error) {
	if _, taken := msg.Metadata[watermillkafka.UUIDHeaderKey]; taken {
		return nil, fmt.Errorf("%w: the header of the name %s holds the message's UUID; rename the entry",
			brokers.ErrMetadata, watermillkafka.UUIDHeaderKey)
	}
	headers := make([]sarama.RecordHeader, 1, len(msg.Metadata)+1)
	headers[0] = sarama.RecordHeader{Key: []byte(watermillkafka.UUIDHeaderKey), Value: []byte(msg.UUID)}
	for name, value := range msg.Metadata {
		if name == msgmeta.Tombstone || name == msgmeta.SendID {
			continue
		}
		headers = append(headers, sarama.RecordHeader{Key: []byte(name), Value: []byte(value)})
	}
	record := &sarama.ProducerMessage{Topic: topic, Headers: headers}
	if key := msgmeta.GetKey(msg); key != "" {
		record.Key = sarama.StringEncoder(key)
	}
	switch {
	case len(msg.Payload) > 0:
		record.Value = sarama.ByteEncoder(msg.Payload)
	case !msgmeta.IsTombstone(msg):
		record.Value = sarama.ByteEncoder{}
	}
	return record, nil
}

// Unmarshal makes a message of a record. Its error is always nil: upstream ends
// the whole session on one, in a loop.
func (Marshaler) Unmarshal(record *sarama.ConsumerMessage) (*message.Message, error) {
	id := ""
	metadata := make(message.Metadata, len(record.Headers)+1)
	for _, header := range record.Headers {
		if header == nil {
			continue
		}
		if string(header.Key) == watermillkafka.UUIDHeaderKey {
			id = string(header.Value)
			continue
		}
		metadata[string(header.Key)] = string(header.Value)
	}
	// These describe a delivery; on the wire they can only be stale copies.
	maps.DeleteFunc(metadata, func(name, _ string) bool {
		return name == msgmeta.Attempt || name == msgmeta.SendID || name == msgmeta.Tombstone
	})
	if id == "" {
		id = foreignID(record)
	}
	msg := message.NewMessage(id, record.Value)
	msg.Metadata = metadata
	if len(record.Key) > 0 && msgmeta.GetKey(msg) == "" {
		msgmeta.SetKey(msg, string(record.Key))
	}
	if record.Value == nil {
		msgmeta.SetTombstone(msg)
	}
	return msg, nil
}

// foreignID includes the timestamp because a topic that was deleted and made
// again starts at offset 0: its records are other messages.
func foreignID(record *sarama.ConsumerMessage) string {
	position := fmt.Sprintf("kafka:%s/%d/%d@%d", record.Topic, record.Partition, record.Offset, record.Timestamp.UnixMilli())

	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(position)).String()
}
