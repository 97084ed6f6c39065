package adopt_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
)

const (
	// loadPace is the pause between orders. Every second one is followed by a
	// copy of an earlier one.
	loadPace = 20 * time.Millisecond
	// maxOutstanding orders may wait to be handled: a load that the machine can't
	// keep up with would only make the test longer.
	maxOutstanding = 60
	// copiesReach back over this many orders.
	copiesReach = 50
)

// load places orders without end, some of them more than once.
type load struct {
	e *environment

	mu sync.Mutex
	// orders are all that were sent, in order.
	orders []sent
	// from is the first order that copies may be made of.
	from int
	err  error

	stop context.CancelFunc
	done sync.WaitGroup
}

// sent is an order and the part of the test in which it was placed.
type sent struct {
	id    string
	phase string
	msg   *message.Message
}

// resume starts the load. Copies are made of orders of this phase on only.
func (l *load) resume(t *testing.T, phase string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l.mu.Lock()
	l.stop, l.from = stop, len(l.orders)
	l.mu.Unlock()
	l.done.Go(func() {
		ticker := time.NewTicker(loadPace)
		defer ticker.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if l.sent()-l.e.partners.handled("/book/") >= maxOutstanding {
				continue
			}
			if err := l.place(phase, n%2 == 1); err != nil {
				l.mu.Lock()
				l.err = err
				l.mu.Unlock()
				return
			}
		}
	})
}

// pause ends the load and returns when nothing more will be sent.
func (l *load) pause(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	require.NoError(t, l.err)
}

func (l *load) sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.orders)
}

func (l *load) place(phase string, withCopy bool) error {
	id := fmt.Sprintf("r%05d", l.sent())
	msg := newOrder(id, "ada")
	if err := l.send(msg); err != nil {
		return err
	}
	l.mu.Lock()
	l.orders = append(l.orders, sent{id, phase, msg})
	newest := len(l.orders) - 1
	oldest := max(l.from, newest-copiesReach)
	again := l.orders[oldest+rand.IntN(newest-oldest+1)].msg
	l.mu.Unlock()
	if withCopy {
		return l.send(again)
	}
	return nil
}

func (l *load) send(msg *message.Message) error {
	return l.e.opened.Publisher.Publish(l.e.topics+"orders_placed", msg.Copy())
}
