package scenario

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// transactions keeps what units of work report.
type transactions struct {
	mu  sync.Mutex
	all []store.TxStats
}

func (h *transactions) OnTx(stats store.TxStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, stats)
}

func (h *transactions) of(messageID string) (found []store.TxStats) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, stats := range h.all {
		if stats.About.MessageID == messageID {
			found = append(found, stats)
		}
	}
	return found
}

// Two handlers lock the same two products in opposite order. The database ends
// one of them, and its unit of work is run again. The unprotected side doesn't
// retry, and its router acks what fails, as many do after a few attempts.
func TestS15_LockTrouble(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb}), lockTrouble)
}

func lockTrouble(t *testing.T, p pair, protected bool) (damage []string) {
	told := &transactions{}
	s := newStock(open(t, p, withStore(func(cfg *store.Config) {
		cfg.Hooks = []any{told}
		if !protected {
			cfg.MaxRetries = -1
		}
	})))
	topic, acked := s.topic("transfers"), newTally()
	middlewares := one(acked.acked)
	if !protected {
		middlewares = append(middlewares, ackFailures)
	}
	hold := newMeeting(2)
	s.serve(subscription{
		service: "stock", topic: topic, middlewares: append(middlewares, s.dedupe("stock")),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			first, second := 1, 2
			if msg.UUID == "backwards" {
				first, second = 2, 1
			}
			if err := s.raise(msg.Context(), first); err != nil {
				return nil, err
			}
			hold.meet(t, msg.UUID)
			return nil, s.raise(msg.Context(), second)
		},
	})
	require.NoError(t, s.bus.Publisher.Publish(topic, message.NewMessage("forwards", nil), message.NewMessage("backwards", nil)))
	acked.wait(t, "forwards", 1)
	acked.wait(t, "backwards", 1)

	attempts := 0
	for _, id := range []string{"forwards", "backwards"} {
		for _, stats := range told.of(id) {
			require.Positive(t, stats.Length, "the transaction's length is reported")
			attempts += stats.Attempts
			t.Logf("%s: %d attempts, committed %t, open for %s of which %s waiting for locks, slowest %q",
				id, stats.Attempts, stats.Committed, stats.Length.Round(time.Microsecond),
				stats.LockWait.Round(time.Microsecond), stats.Slowest)
		}
	}
	if protected {
		require.Greater(t, attempts, 2, "there was no deadlock to retry")
	}
	for product := range 2 {
		if got := s.count("SELECT quantity FROM products WHERE id = ?", product+1); got != 2 {
			damage = append(damage, fmt.Sprintf("product %d was raised %d times instead of 2", product+1, got))
		}
	}
	return damage
}

func (s stock) raise(ctx context.Context, product int) error {
	return s.exec(ctx, "UPDATE products SET quantity = quantity + 1 WHERE id = ?", product)
}

// ackFailures is a router's middleware that gives up at once.
func ackFailures(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if _, err := h(msg); err != nil {
			return nil, nil //nolint:nilerr // that is the mistake
		}
		return nil, nil
	}
}

// meeting lets parties wait for each other, once.
type meeting struct {
	mu      sync.Mutex
	arrived map[string]bool
	want    int
	all     chan struct{}
}

func newMeeting(parties int) *meeting {
	return &meeting{arrived: map[string]bool{}, want: parties, all: make(chan struct{})}
}

// meet returns when all parties have come. Those that come again don't wait.
func (m *meeting) meet(t *testing.T, name string) {
	t.Helper()
	m.mu.Lock()
	if !m.arrived[name] {
		m.arrived[name] = true
		if len(m.arrived) == m.want {
			close(m.all)
		}
	}
	m.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-m.all:
	case <-timer.C:
		t.Errorf("%s waited in vain", name)
	}
}
