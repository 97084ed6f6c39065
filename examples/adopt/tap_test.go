package adopt_test

import (
	"encoding/json"
	"maps"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

const tapGroup = "tap"

// tap hears what an example publishes, and publishes some of it a second time.
type tap struct {
	e *environment
	// again says which messages come twice, by what they are about.
	again func(about string) bool

	mu sync.Mutex
	// seen holds, per topic and UUID, what was published.
	seen map[string]map[string]published
}

// published is a message on a topic.
type published struct {
	about  string // the order or booking
	name   string // of the event, in CQRS
	worker string
}

func (e *environment) tap(t *testing.T, again func(about string) bool, topics ...string) *tap {
	t.Helper()
	heard := &tap{e: e, again: again, seen: map[string]map[string]published{}}
	var done sync.WaitGroup
	t.Cleanup(done.Wait) // the subscriptions end with the test's context
	for _, topic := range topics {
		sub, err := e.opened.SubscriberFor(tapGroup)
		require.NoError(t, err)
		messages, err := sub.Subscribe(t.Context(), e.topics+topic)
		require.NoError(t, err)
		heard.seen[topic] = map[string]published{}
		done.Go(func() {
			for msg := range messages {
				heard.hear(topic, msg)
			}
		})
	}
	return heard
}

func (h *tap) hear(topic string, msg *message.Message) {
	var body struct {
		Order   string `json:"order"`
		Booking string `json:"booking"`
		Worker  string `json:"worker"`
	}
	if err := json.Unmarshal(msg.Payload, &body); err != nil {
		msg.Nack()
		return
	}
	h.mu.Lock()
	_, known := h.seen[topic][msg.UUID]
	h.seen[topic][msg.UUID] = published{
		about: body.Order + body.Booking, name: msg.Metadata.Get("name"), worker: body.Worker,
	}
	h.mu.Unlock()
	if !known && h.again(body.Order+body.Booking) {
		duplicate := message.NewMessage(msg.UUID, msg.Payload)
		duplicate.Metadata = maps.Clone(msg.Metadata)
		if err := h.e.opened.Publisher.Publish(h.e.topics+topic, duplicate); err != nil {
			msg.Nack()
			return
		}
	}
	msg.Ack()
}

// count adds the distinct messages to the ledger, by topic, name and what they
// are about.
func (h *tap) count(ledger map[string]int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, messages := range h.seen {
		for _, m := range messages {
			ledger["message "+topic+m.name+"/"+m.about]++
		}
	}
}
