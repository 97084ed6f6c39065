package toy

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

func mixed(topic string) string { return strings.ReplaceAll(topic, ".", "_") }

// stored returns what the toy keeps of a message.
func (b *Broker) stored(msg *message.Message) *message.Message {
	kept := message.NewMessage(msg.UUID, msg.Payload)
	if !b.has(SharesPayload) {
		kept.Payload = bytes.Clone(msg.Payload)
	}
	kept.Metadata = maps.Clone(msg.Metadata)
	if kept.Metadata == nil {
		kept.Metadata = message.Metadata{}
	}
	delete(kept.Metadata, msgmeta.SendID)
	b.breakPayload(kept)
	b.breakMetadata(kept)
	if b.has(CutsUUIDs) && len(kept.UUID) > 36 {
		kept.UUID = kept.UUID[:36]
	}

	return kept
}

func (b *Broker) breakPayload(kept *message.Message) {
	if kept.Payload == nil && (b.has(NilIsEmpty) || !b.config.NilPayload) {
		kept.Payload = message.Payload{}
	}
	if b.has(MangleBytes) {
		kept.Payload = bytes.ToValidUTF8(kept.Payload, []byte("\uFFFD"))
	}
	var value json.RawMessage
	if b.has(RewritesJSON) && json.Unmarshal(kept.Payload, &value) == nil {
		var compact bytes.Buffer
		_ = json.Compact(&compact, value) // which Unmarshal has checked
		kept.Payload = compact.Bytes()
	}
	if b.has(Truncates) && len(kept.Payload) > 1<<16 {
		kept.Payload = kept.Payload[:1<<16]
	}
}

func (b *Broker) breakMetadata(kept *message.Message) {
	names := slices.Sorted(maps.Keys(kept.Metadata))
	if b.has(DropsEntry) && len(names) > 10 {
		delete(kept.Metadata, names[len(names)-1])
	}
	for _, name := range names {
		value := kept.Metadata[name]
		if b.has(DropsEmptyEntries) && value == "" {
			delete(kept.Metadata, name)
			continue
		}
		if b.has(TrimsValues) {
			kept.Metadata[name] = strings.TrimSpace(value)
		}
		if b.has(LowersNames) {
			delete(kept.Metadata, name)
			kept.Metadata[strings.ToLower(name)] = value
		}
	}
	if b.has(AddsEntry) {
		kept.Metadata["toy"] = "was here"
	}
	if at, ok, err := msgmeta.GetEventTime(kept); b.has(RoundsEventTime) && ok && err == nil {
		msgmeta.SetEventTime(kept, at.Round(1000))
	}
}

// handed returns the copy of an entry that a subscription hands out.
func (b *Broker) handed(e *entry) *message.Message {
	msg := message.NewMessage(e.msg.UUID, e.msg.Payload)
	if !b.has(SharesPayload) {
		msg.Payload = bytes.Clone(e.msg.Payload)
	}
	msg.Metadata = maps.Clone(e.msg.Metadata)
	if e.failures > 0 && b.has(ForgetsKey) {
		delete(msg.Metadata, msgmeta.Key)
	}
	if e.failures > 0 && b.has(FreshUUID) {
		msg.UUID = watermill.NewUUID()
	}

	return msg
}
