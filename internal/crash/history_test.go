package crash_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is something that happened to a message or a process.
type event struct {
	at              time.Duration // since the start
	process         string
	who, step       string
	product, change string
}

func (e event) String() string {
	return fmt.Sprintf("%9.3fs  %-22s %-10s %-20s %-3s %s", e.at.Seconds(), e.process, e.who, e.step, e.product, e.change)
}

// history is what the processes told, in the order in which the test read it.
// It explains a failure; the checker doesn't use it.
type history struct {
	began time.Time

	mu     sync.Mutex
	events []event
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) add(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.at = time.Since(h.began)
	h.events = append(h.events, e)
}

// of tells what happened to a product's messages, and every start and kill.
func (h *history) of(products map[string]bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	const most = 3000
	var lines []string
	for _, e := range h.events {
		if products[e.product] || e.who == "test" || e.who == self {
			lines = append(lines, e.String())
		}
	}
	if len(lines) > most {
		lines = slices.Concat(lines[:most/2], []string{"…"}, lines[len(lines)-most/2:])
	}
	return strings.Join(lines, "\n")
}
