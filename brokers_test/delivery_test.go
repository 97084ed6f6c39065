package brokers_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

func TestNackedMessageComesAgainWithoutAHotLoop(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		messages := b.subscribe(t, "one")
		sent := newMessage("k", "again")
		b.publish(t, sent)

		started := time.Now()
		const attempts = 5
		for range attempts {
			msg := receive(t, messages)
			require.Equal(t, sent.UUID, msg.UUID)
			require.True(t, msg.Nack())
		}
		require.GreaterOrEqual(t, time.Since(started), (attempts-1)*10*time.Millisecond, "nacks are a hot loop")
		require.Equal(t, []string{"again"}, receiveAcked(t, messages, 1))
	})
}

func TestMessageInHandWhenItsConsumerClosesComesAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		b.rawURL = withOptions(t, b.rawURL, map[string]string{"drain": "200ms"})
		b.Broker = open(t, b.rawURL)
		messages, sub := b.subscribeCtx(t.Context(), t, "one")
		sent := newMessage("k", "in hand")
		b.publish(t, sent)

		held := receive(t, messages)
		require.NoError(t, sub.Close())
		waitClosed(t, messages)
		require.Error(t, held.Context().Err(), "who holds a message that was given up must learn it")
		held.Ack() // too late: somebody else may have it

		require.Equal(t, []string{"in hand"}, receiveDistinct(t, b.subscribe(t, "one"), 1))
	})
}

func TestCloseWaitsForTheHandlerInHand(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		messages, sub := b.subscribeCtx(t.Context(), t, "one")
		b.publish(t, newMessage("k", "slow"))
		held := receive(t, messages)

		closed := make(chan error, 1)
		go func() { closed <- sub.Close() }()
		waiting := time.NewTimer(100 * time.Millisecond)
		defer waiting.Stop()
		select {
		case <-closed:
			require.FailNow(t, "Close did not wait")
		case <-waiting.C:
		}
		require.NoError(t, held.Context().Err(), "Close lets the handler finish")
		require.True(t, held.Ack())
		require.NoError(t, <-closed)
		waitClosed(t, messages)

		// The ack counted: the next message comes, and the acked one does not.
		b.publish(t, newMessage("k", "next"))
		require.Equal(t, []string{"next"}, receiveAcked(t, b.subscribe(t, "one"), 1))
	})
}

func TestEndOfTheSubscriptionsContextCancelsAndDrains(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		messages, _ := b.subscribeCtx(ctx, t, "one")
		b.publish(t, newMessage("k", "held"))
		held := receive(t, messages)

		cancel()
		<-held.Context().Done()
		require.True(t, held.Ack(), "a handler that has finished may still ack")
		waitClosed(t, messages)

		b.publish(t, newMessage("k", "next"))
		require.Equal(t, []string{"next"}, receiveAcked(t, b.subscribe(t, "one"), 1))
	})
}

func TestEveryGroupHearsEverythingFromTheOldest(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if !b.Capabilities.Groups {
			return // the fallback, a refusal by name, is in TestSecondGroupIsRefused
		}

		sent := newMessages("k", 10)
		b.publish(t, sent[:5]...)
		one := b.subscribe(t, "one")
		require.Equal(t, payloadsOf(sent[:5]), receiveDistinct(t, one, 5))
		b.publish(t, sent[5:]...)

		two := b.subscribe(t, "two")
		require.Equal(t, payloadsOf(sent), receiveDistinct(t, two, 10), "a late group")
		require.Equal(t, payloadsOf(sent[5:]), receiveDistinct(t, one, 5))
	})
}

func TestSubscribersOfOneGroupShareItsMessages(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		consumers := []<-chan *message.Message{b.subscribe(t, "one"), b.subscribe(t, "one")}
		if b.shared {
			other := *b
			other.Broker = open(t, b.rawURL)
			consumers = append(consumers, other.subscribe(t, "one"))
		}

		const keys, perKey = 8, 10
		log := newHandled()
		for _, messages := range consumers {
			go func() {
				for msg := range messages {
					go log.handle(msg, time.Millisecond)
				}
			}()
		}
		for i := range perKey {
			for k := range keys {
				key := fmt.Sprintf("k%d", k)
				b.publish(t, newMessage(key, fmt.Sprintf("%s-%d", key, i)))
			}
		}

		log.wait(t, keys*perKey)
		for k := range keys {
			key := fmt.Sprintf("k%d", k)
			if b.Capabilities.KeyOrder {
				require.Equal(t, payloadsOf(newMessages(key, perKey)), log.byKey(key))
			} else {
				require.Subset(t, log.byKey(key), payloadsOf(newMessages(key, perKey)))
			}
		}
		if !b.Capabilities.KeyOrder {
			return // then repeats are common too: a standard SQS queue promises neither
		}
		require.Zero(t, log.overlaps.Load(), "two messages of one key were in hand at once")
		require.Len(t, log.all(), keys*perKey, "without trouble no message comes twice")
	})
}

func TestOrderOfAKeyHoldsWhileItsMessagesFail(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if !b.Capabilities.KeyOrder {
			return
		}

		messages := b.subscribe(t, "one")
		sent := newMessages("k", 12)
		b.publish(t, sent...)
		var acked []string
		failed := map[string]bool{}
		for i := 0; len(acked) < len(sent); i++ {
			msg := receive(t, messages)
			if payload := string(msg.Payload); i%3 == 1 && !failed[payload] {
				failed[payload] = true
				msg.Nack()
			} else {
				acked = append(acked, payload)
				msg.Ack()
			}
		}
		require.Equal(t, payloadsOf(sent), acked)
	})
}

func TestHeldKeyDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if !b.Capabilities.Lanes {
			return // a total order: everything waits, which TestOrderOfAKey… shows
		}

		messages := b.subscribe(t, "one")
		if !b.Capabilities.KeyOrder {
			requireFlowPastPoison(t, b, messages)

			return // no key is ever held
		}
		b.publish(t, newMessage("held", "held-0"), newMessage("held", "held-1"))
		held := receive(t, messages)
		b.publish(t, newMessages("free", 5)...)
		b.publish(t, newMessage("", "no key"))

		got := receiveDistinct(t, messages, 6)
		require.ElementsMatch(t, append(payloadsOf(newMessages("free", 5)), "no key"), got)
		require.Equal(t, "held-0", string(held.Payload))
		held.Ack()
		require.Equal(t, []string{"held-1"}, receiveAcked(t, messages, 1))

		requireFlowPastPoison(t, b, messages)
	})
}

// requireFlowPastPoison shows that a message that is nacked again and again
// doesn't hold up others.
func requireFlowPastPoison(t *testing.T, b *bundle, messages <-chan *message.Message) {
	t.Helper()

	b.publish(t, newMessage("held", "poison"))
	poison := receive(t, messages)
	poison.Nack()
	b.publish(t, newMessage("free", "flows"))
	for {
		msg := receive(t, messages)
		if string(msg.Payload) == "flows" {
			msg.Ack()

			return
		}
		msg.Nack()
	}
}

func TestPublishingToOneselfFromAHandlerWorks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		messages := b.subscribe(t, "one")
		b.publish(t, newMessage("k", "first"))

		first := receive(t, messages)
		next := newMessage("k", "second")
		next.SetContext(first.Context())
		b.publish(t, next)
		first.Ack()
		require.Equal(t, []string{"second"}, receiveAcked(t, messages, 1))
	})
}

func TestBacklogCountsWhatIsNotAcked(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if b.Capabilities.Backlog == nil {
			return
		}

		// SQS's counts are approximate: they settle.
		becomes := func(want int64) {
			testenv.Eventually(t, patience, 10*time.Millisecond, func() (bool, string) {
				n, err := b.Capabilities.Backlog(t.Context(), b.topic, "one")
				require.NoError(t, err)

				return n == want, fmt.Sprintf("backlog %d, want %d", n, want)
			})
		}
		becomes(0) // of a topic that doesn't exist yet
		messages := b.subscribe(t, "one")
		b.publish(t, newMessages("k", 3)...)
		becomes(3)
		receiveAcked(t, messages, 2)
		becomes(1)
	})
}

// handled notes what consumers did.
type handled struct {
	mu       sync.Mutex
	done     []*message.Message
	busy     map[string]bool
	changed  chan struct{}
	overlaps atomic.Int64
}

func newHandled() *handled { return &handled{busy: map[string]bool{}, changed: make(chan struct{}, 1)} }

// handle works on a message for some time, then acks it.
func (h *handled) handle(msg *message.Message, work time.Duration) {
	key := msgmeta.GetKey(msg)
	h.mu.Lock()
	if h.busy[key] {
		h.overlaps.Add(1)
	}
	h.busy[key] = true
	h.mu.Unlock()

	timer := time.NewTimer(work)
	<-timer.C

	h.mu.Lock()
	h.busy[key] = false
	h.done = append(h.done, msg)
	h.mu.Unlock()
	msg.Ack()
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *handled) all() []*message.Message {
	h.mu.Lock()
	defer h.mu.Unlock()

	return slices.Clone(h.done)
}

func (h *handled) byKey(key string) (payloads []string) {
	for _, msg := range h.all() {
		if msgmeta.GetKey(msg) == key {
			payloads = append(payloads, string(msg.Payload))
		}
	}

	return payloads
}

func (h *handled) distinct() int {
	ids := map[string]bool{}
	for _, msg := range h.all() {
		ids[msg.UUID] = true
	}

	return len(ids)
}

// wait returns when n different messages are done.
func (h *handled) wait(t *testing.T, n int) {
	t.Helper()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	for h.distinct() < n {
		select {
		case <-h.changed:
		case <-timer.C:
			require.FailNow(t, "messages are missing", "%d of %d came", len(h.all()), n)
		}
	}
}
