package conformance

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// Kinds of event in a history.
const (
	published = "published"
	refused   = "publish failed"
	received  = "received"
	acked     = "acked"
	nacked    = "nacked"
	gaveUp    = "given up"
	noted     = "note"
)

// event is one thing that happened to a message.
type event struct {
	at       time.Duration // since the fact began
	kind     string
	name     string // the message's, as key-number
	key      string
	number   int // within the key, from 0
	position int // among all messages of the fact, from 0
	group    string
	consumer int
	text     string
}

// history is what happened in a fact, in order. It is written by any goroutine,
// and wakes who waits for it.
type history struct {
	mu      sync.Mutex
	began   time.Time
	known   map[string]event // by UUID: the message's names and numbers
	perKey  map[string]int
	events  []event
	changed chan struct{}
}

func newHistory() *history {
	return &history{began: time.Now(), known: map[string]event{}, perKey: map[string]int{}, changed: make(chan struct{})}
}

// register gives a message its names. What comes back is known by its UUID.
func (h *history) register(msg *message.Message, key, name string) {
	h.mu.Lock()
	defer h.mu.Unlock()

	h.known[msg.UUID] = event{name: name, key: key, number: h.perKey[key], position: len(h.known)}
	h.perKey[key]++
}

// message makes a message by its UUID, with the key and the payload by which it
// is known here.
func (h *history) message(uuid string) *message.Message {
	h.mu.Lock()
	defer h.mu.Unlock()

	known := h.known[uuid]
	msg := message.NewMessage(uuid, []byte(known.name))
	msgmeta.SetKey(msg, known.key)

	return msg
}

// next returns the number that the next message of a key will have.
func (h *history) next(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()

	return h.perKey[key]
}

// of returns what a message is called.
func (h *history) of(msg *message.Message) event {
	h.mu.Lock()
	defer h.mu.Unlock()

	return h.lookup(msg)
}

func (h *history) lookup(msg *message.Message) event {
	if known, ok := h.known[msg.UUID]; ok {
		return known
	}

	return event{name: fmt.Sprintf("unknown message %.40q", msg.UUID), key: msgmeta.GetKey(msg), number: -1, position: -1}
}

func (h *history) add(kind string, msg *message.Message, group string, consumer int, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()

	e := event{}
	if msg != nil {
		e = h.lookup(msg)
	}
	e.at, e.kind, e.group, e.consumer, e.text = time.Since(h.began), kind, group, consumer, text
	h.events = append(h.events, e)
	close(h.changed)
	h.changed = make(chan struct{})
}

// now returns what has happened so far, and what is closed when more has.
func (h *history) now() ([]event, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()

	return slices.Clone(h.events), h.changed
}

// lines prints the history of some keys, or of all when none are named.
func (h *history) lines(keys []string) []string {
	const most = 120
	events, _ := h.now()
	var lines []string
	for _, e := range events {
		if len(keys) > 0 && e.kind != noted && !slices.Contains(keys, e.key) {
			continue
		}
		lines = append(lines, e.String())
	}
	if cut := len(lines) - most; cut > 0 {
		lines = append([]string{fmt.Sprintf("(%d earlier lines left out)", cut)}, lines[cut:]...)
	}

	return lines
}

func (e event) String() string {
	var line strings.Builder
	fmt.Fprintf(&line, "%8.3fs  ", e.at.Seconds())
	if e.kind == noted {
		return line.String() + e.text
	}
	fmt.Fprintf(&line, "%-14s  %s", e.kind, e.name)
	if e.group != "" {
		fmt.Fprintf(&line, "  by consumer %d of group %s", e.consumer, e.group)
	}
	if e.text != "" {
		line.WriteString("  " + e.text)
	}

	return line.String()
}

// count returns how many events of a kind a group has seen.
func count(events []event, kind, group string) int {
	n := 0
	for _, e := range events {
		if e.kind == kind && e.group == group {
			n++
		}
	}

	return n
}

// names returns which messages a group has seen in events of a kind, each once,
// in the order of their first.
func names(events []event, kind, group string) []string {
	var all []string
	seen := map[string]bool{}
	for _, e := range events {
		if e.kind == kind && e.group == group && !seen[e.name] {
			seen[e.name] = true
			all = append(all, e.name)
		}
	}

	return all
}
