package conformance

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// largest is the largest body that facts send, in bytes.
const largest = 20 << 20

func contentFacts() []Fact {
	return append([]Fact{
		{
			Name:  "content/payload",
			Claim: "every payload comes back byte by byte: text, JSON as it was written, all byte values, nothing at all",
			Check: checkPayloads,
		},
		{
			Name:  "content/nil payload",
			Claim: "a nil payload comes back as nil, an empty one as empty",
			Needs: needsNilPayload,
			Check: checkNilPayload,
		},
		{
			Name:  "content/sizes up to the limit",
			Claim: "payloads of every size up to the declared limit arrive whole",
			Check: checkSizes,
		},
		{
			Name:  "content/over the limit",
			Claim: "a payload over the declared limit is refused, and what follows arrives",
			Missing: func(h Harness) string {
				if h.Capabilities.MaxBody == 0 {
					return "the broker declares no limit"
				}

				return missing(h.Capabilities.MaxBody > largest, "limit small enough to be tried")
			},
			Check: checkOverLimit,
		},
	}, metadataFacts()...)
}

// sameAs compares what came with what was sent.
func sameAs(d *Delivery, want *message.Message) Observation {
	switch {
	case d.UUID != want.UUID:
		return Lacks("UUID %.80q came as %.80q", want.UUID, d.UUID)
	case !bytes.Equal(d.Payload, want.Payload):
		return Lacks("a payload of %d bytes, %.60q, came as %d bytes, %.60q",
			len(want.Payload), want.Payload, len(d.Payload), d.Payload)
	}
	for _, name := range slices.Sorted(maps.Keys(want.Metadata)) {
		got, there := d.Metadata[name]
		switch value := want.Metadata[name]; {
		case !there:
			return Lacks("metadata %.80q is gone", name)
		case got != value:
			return Lacks("metadata %.80q: %.80q came as %.80q", name, value, got)
		}
	}

	return Holds()
}

// roundTrip sends each message and compares what comes. A message that the
// publisher refuses is as good, where refusing is allowed: not carried, but not
// changed either.
func (t *Trial) roundTrip(messages []*message.Message, mayRefuse bool) Observation {
	c := t.Subscribe(groupOne)
	var refusedOnes []string
	for _, msg := range messages {
		want := cloned(msg)
		if err := t.TryPublish(t.Topic, msg); err != nil {
			if !mayRefuse {
				return Lacks("%s was refused: %s", t.history.of(msg).name, short(err.Error()))
			}
			refusedOnes = append(refusedOnes, t.history.of(msg).name)

			continue
		}
		d := c.Next()
		d.Ack()
		if o := sameAs(d, want); !o.Holds {
			o.Note = t.history.of(want).name + ": " + o.Note

			return o
		}
	}
	if len(refusedOnes) > 0 {
		return HoldsWith("refused: %s", strings.Join(refusedOnes, ", "))
	}

	return Holds()
}

func checkPayloads(t *Trial) Observation {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	payloads := map[string][]byte{
		"json": []byte(`{"b": 1,  "a": 1.0, "a": 2}`), "no-json": []byte("{"), "unicode": []byte("Grüße, Ωмега, 🚂"),
		"every-byte": every, "not-utf-8": {0xff, 0xfe, 0x00, 0xc3}, "nul": {0}, "empty": {}, "one-byte": []byte("x"),
		"whitespace": []byte(" \r\n"), "quotes": []byte(`'"\`), "xml": []byte("<a>&amp;</a>\x0b"),
	}
	messages := make([]*message.Message, 0, len(payloads))
	if limit := t.Capabilities.MaxBody; limit > 0 {
		maps.DeleteFunc(payloads, func(_ string, payload []byte) bool { return len(payload) > limit })
	}
	for _, name := range slices.Sorted(maps.Keys(payloads)) {
		messages = append(messages, t.MessageWith(name, payloads[name]))
	}

	return t.roundTrip(messages, false)
}

func checkNilPayload(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	for _, payload := range [][]byte{nil, {}} {
		msg := t.Message("a")
		msg.Payload = payload
		if err := t.TryPublish(t.Topic, msg); err != nil {
			return Lacks("payload %#v was refused: %s", payload, short(err.Error()))
		}
		d := c.Next()
		d.Ack()
		if (d.Payload == nil) != (payload == nil) || len(d.Payload) > 0 {
			return Lacks("payload %#v came as %#v", payload, []byte(d.Payload))
		}
	}

	return Holds()
}

func checkSizes(t *Trial) Observation {
	sizes := []int{0, 1, 1000, 70_000}
	if limit := t.Capabilities.MaxBody; limit > 0 {
		sizes = slices.DeleteFunc(sizes, func(n int) bool { return n > limit })
		if limit <= largest {
			sizes = append(sizes, limit-1, limit)
		}
	}
	messages := make([]*message.Message, 0, len(sizes))
	for _, n := range sizes {
		messages = append(messages, t.MessageWith(fmt.Sprintf("bytes-%d", n), filled(n)))
	}
	o := t.roundTrip(messages, false)
	if o.Holds {
		o.Note = fmt.Sprintf("up to %d bytes", slices.Max(sizes))
	}

	return o
}

// filled returns n bytes of text.
func filled(n int) []byte {
	const text = "0123456789"

	return bytes.Repeat([]byte(text), n/len(text)+1)[:n]
}

func checkOverLimit(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	if err := t.TryPublish(t.Topic, t.MessageWith("over", filled(t.Capabilities.MaxBody+1))); err == nil {
		return Lacks("a payload of %d bytes was taken, and the limit is %d", t.Capabilities.MaxBody+1, t.Capabilities.MaxBody)
	}
	t.Publish(t.Message("after"))
	if d := c.Next(); d.Name != "after-0" {
		return Lacks("%s was refused and came", d.Name)
	}

	return Holds()
}

// withEntry makes a message with metadata of its own.
func (t *Trial) withEntry(key, name, value string) *message.Message {
	msg := t.Message(key)
	msg.Metadata.Set(name, value)

	return msg
}

func checkForeign(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	payload := []byte(`{"from": "elsewhere"}`)
	err := t.call("publish as a foreign producer", func() error { return t.Harness.Foreign(t.ctx, t.Topic, payload) })
	if err != nil {
		t.Unknownf("publish as a foreign producer: %v", err)
	}
	d := c.Next()
	d.Ack()
	if !bytes.Equal(d.Payload, payload) {
		return Lacks("a foreign payload %q came as %q", payload, d.Payload)
	}
	if d.UUID == "" {
		return Lacks("a foreign message came without a UUID, so that its copies can't be told apart")
	}
	marker := t.Message("a")
	t.Publish(marker)
	c.AckAll([]*message.Message{marker})

	return Holds()
}

func checkEventTime(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	msg := t.Message("a")
	at := time.Date(2026, 2, 28, 23, 59, 59, 123456789, time.UTC)
	msgmeta.SetEventTime(msg, at)
	t.Publish(msg)
	d := c.Next()
	d.Ack()
	got, ok, err := msgmeta.GetEventTime(d.Message)
	if err != nil || !ok || !got.Equal(at) {
		return Lacks("event time %v came as %v (there: %v, %v)", at, got, ok, err)
	}

	return Holds()
}
