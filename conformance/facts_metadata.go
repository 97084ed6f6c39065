package conformance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

func metadataFacts() []Fact {
	return []Fact{
		{
			Name:  "content/metadata values",
			Claim: "metadata values come back as they went: unicode, spaces, line ends, empty, long",
			Check: checkMetadataValues,
		},
		{
			Name:  "content/metadata names",
			Claim: "metadata names come back as they went, case and all",
			Check: checkMetadataNames,
		},
		{
			Name:  "content/metadata that is no text",
			Claim: "metadata that isn't UTF-8, or holds a NUL, is refused or comes back as it went",
			Check: checkMetadataBytes,
		},
		{
			Name:  "content/many entries",
			Claim: "forty metadata entries arrive",
			Check: checkManyEntries,
		},
		{
			Name:  "content/nothing is added",
			Claim: "a message arrives with the metadata that it was sent with, and Headrace's own about the delivery",
			Check: checkNothingAdded,
		},
		{
			Name:  "content/UUID",
			Claim: "UUIDs come back as they went, long ones and odd ones, or are refused",
			Check: checkUUIDs,
		},
		{
			Name:  "content/key",
			Claim: "keys come back as they went, and keys that look alike stay apart",
			Check: checkKeys,
		},
		{
			Name:  "content/event time",
			Claim: "the event time comes back to the nanosecond",
			Check: checkEventTime,
		},
		{
			Name:  "content/the same on redelivery",
			Claim: "a redelivered message has the UUID, key, metadata and payload of the first delivery",
			Check: checkSameAgain,
		},
		{
			Name: "content/copies",
			Claim: "Publish leaves its message as it is; what publisher and handlers do to theirs afterwards, " +
				"others don't see, nor the publisher's context",
			Check: checkCopies,
		},
		{
			Name:    "content/foreign producer",
			Claim:   "a message of a producer that knows nothing of watermill arrives, with a UUID",
			Missing: func(h Harness) string { return missing(h.Foreign == nil, "Foreign") },
			Check:   checkForeign,
		},
		{
			Name:  "content/odd topic names",
			Claim: "a topic name that the broker can't have is refused, and names that look alike are different topics",
			Check: checkOddTopics,
		},
	}
}

func checkMetadataValues(t *Trial) Observation {
	messages := make([]*message.Message, 0, 10)
	for name, value := range map[string]string{
		"unicode": "Grüße Ωмега 🚂", "number": "007", "spaces": " around ", "lines": "a\tb\nc\r\n",
		"quotes": `"'` + "`" + `\`, "markup": "<a>&amp;",
		"empty": "", "long": strings.Repeat("v", 4000), "json": `{"a":[1]}`, "percent": "100%41",
	} {
		messages = append(messages, t.withEntry(name, "entry", value))
	}

	return t.roundTrip(messages, false)
}

func checkMetadataNames(t *Trial) Observation {
	messages := make([]*message.Message, 0, 10)
	for key, name := range map[string]string{
		"plain": "name", "dashes": "Some-Name_x.y", "unicode": "Ünïcödé", "space": "with space", "quotes": `"'\`,
		"long": strings.Repeat("n", 200), "markup": "<a>&", "reserved": "AWS.Amazon", "digit": "1st",
	} {
		messages = append(messages, t.withEntry(key, name, "value"))
	}
	cases := t.withEntry("case", "name", "lower")
	cases.Metadata.Set("NAME", "upper")

	return t.roundTrip(append(messages, cases), false)
}

func checkMetadataBytes(t *Trial) Observation {
	return t.roundTrip([]*message.Message{
		t.withEntry("not-utf-8", "entry", "\xff\xfe"), t.withEntry("nul", "entry", "a\x00b"),
		t.withEntry("control", "entry", "\x01\x7f"), t.withEntry("name", "n\xff", "value"),
	}, true)
}

func checkManyEntries(t *Trial) Observation {
	msg := t.Message("a")
	for i := range 40 {
		msg.Metadata.Set(fmt.Sprintf("entry_%02d", i), strings.Repeat("v", i+1))
	}

	return t.roundTrip([]*message.Message{msg}, false)
}

func checkNothingAdded(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	t.Publish(t.withEntry("a", "entry", "value"))
	d := c.Next()
	d.Ack()
	msgmeta.StripDelivery(d.Message)
	delete(d.Metadata, "entry")
	delete(d.Metadata, msgmeta.Key)
	if len(d.Metadata) > 0 {
		return Lacks("came with entries that it was not sent with: %s", strings.Join(slices.Sorted(maps.Keys(d.Metadata)), ", "))
	}

	return Holds()
}

func checkUUIDs(t *Trial) Observation {
	var messages []*message.Message
	for i, id := range []string{strings.Repeat("id-", 80), "Ü id/with 'quotes'", "ABC", "abc", "abc ", "1", `{"id":1}`} {
		msg := message.NewMessage(uniqueName("")+id, []byte(id))
		t.history.register(msg, fmt.Sprintf("id%d", i), fmt.Sprintf("id %.20q", id))
		messages = append(messages, msg)
	}

	return t.roundTrip(messages, true)
}

func checkKeys(t *Trial) Observation {
	keys := []string{
		"k", "K", "k ", " k", "order/4711", "Ü|x", "Ωмега", strings.Repeat("long", 60),
		"a,b;c=d", `"quoted"`, "0", "00",
	}

	return t.roundTrip(t.Interleaved(1, keys...), false)
}

func checkSameAgain(t *Trial) Observation {
	c := t.Subscribe(groupOne)
	msg := t.withEntry("a", "entry", "value")
	want := cloned(msg)
	t.Publish(msg)
	for range 2 {
		d := c.NextAgain()
		if o := sameAs(d, want); !o.Holds {
			return o
		}
		d.Payload[0] = 'Y'
		d.Payload = append(d.Payload[:0], []byte("handler")...)
		d.Metadata.Set("entry", "handler")
		d.Metadata.Set("handler", "entry")
		d.Nack()
	}
	d := c.NextAgain()
	d.Ack()
	if _, there := d.Metadata["handler"]; there {
		return Lacks("what a handler added to its copy's metadata came with the next delivery")
	}

	return sameAs(d, want)
}

func checkCopies(t *Trial) Observation {
	type secret struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.ctx, secret{}, "of the publisher"))
	defer cancel()
	one := t.Subscribe(groupOne)
	msg := t.withEntry("a", "entry", "value")
	want := cloned(msg)
	msg.SetContext(ctx)
	t.Publish(msg)
	cancel()
	if o := sameAs(&Delivery{Message: msg}, want); !o.Holds || len(msg.Metadata) != len(want.Metadata) {
		return Lacks("Publish wrote into the message, which has the metadata %v now", slices.Sorted(maps.Keys(msg.Metadata)))
	}
	msg.Payload[0] = 'X'
	msg.Metadata.Set("late", "entry")

	d := one.Next()
	if d.Context().Value(secret{}) != nil {
		return Lacks("the publisher's context came with the message")
	}
	if err := d.Context().Err(); err != nil {
		return Lacks("the message's context ended with its publisher's: %v", err)
	}
	if _, there := d.Metadata["late"]; there {
		return Lacks("metadata that was set after Publish had returned came with the message")
	}
	if o := sameAs(d, want); !o.Holds {
		return o
	}
	d.Payload[0] = 'Y'
	d.Ack()
	if !t.Capabilities.Groups {
		return Holds()
	}
	two := t.Subscribe(groupTwo).Next()
	two.Ack()
	if o := sameAs(two, want); !o.Holds {
		o.Note = "after another group's handler had written into its copy: " + o.Note

		return o
	}

	return Holds()
}

// checkOddTopics publishes to topics whose names brokers and adapters rewrite. A
// refusal may come from either side; what is taken must come back, on its own
// topic.
func checkOddTopics(t *Trial) Observation {
	base := uniqueName("conf_odd")
	topics := []string{".a", "_a", "-a", "_A", " a", "/a", ".ü", "'a\"", "*"}
	for i := range topics {
		topics[i] = base + topics[i]
	}
	consumers := map[string]*Consumer{}
	var turnedDown []string
	for _, topic := range topics {
		t.UsesTopic(topic)
		c, err := t.TrySubscribe(topic, groupOne)
		if err != nil {
			turnedDown = append(turnedDown, strings.TrimPrefix(topic, base))

			continue
		}
		consumers[topic] = c
		c.AckEverything()
	}
	var all []*message.Message
	at := map[string]int{} // which consumer a key's messages belong to
	for i, topic := range topics {
		key := fmt.Sprintf("topic%d", i)
		messages := t.Messages(key, 4) // so many don't find their way by chance
		err := t.TryPublish(topic, messages...)
		switch c := consumers[topic]; {
		case err != nil && c != nil:
			turnedDown = append(turnedDown, strings.TrimPrefix(topic, base))
		case err == nil && c == nil:
			return Lacks("topic %q takes messages and refuses subscriptions", topic)
		case err == nil:
			all = append(all, messages...)
			at[key] = c.Number
		}
	}
	t.MustAck(groupOne, all)
	for _, e := range t.events() {
		if e.kind == received && at[e.key] != e.consumer {
			return Lacks("consumer %d of one topic was given %s, which was published to another", e.consumer, e.name).Of(e.key)
		}
	}
	if len(turnedDown) > 0 {
		return HoldsWith("refused: %q", turnedDown)
	}

	return Holds()
}
