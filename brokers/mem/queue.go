package mem

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// queue keeps messages and knows, per topic and group, which are still to be
// delivered, in which order, and who has them. Safe for concurrent use.
type queue interface {
	// publish adds messages to a topic: all or none.
	publish(ctx context.Context, topic string, msgs []stored) error
	// join makes a group known to a topic, with all messages that are kept.
	join(ctx context.Context, topic, group string) error
	// claim takes up to limit messages that may be delivered now: of each key
	// the oldest, unless it is claimed or waits after a nack. next is how long
	// until another may become ready by itself; 0 when none will.
	claim(ctx context.Context, topic, group string, limit int) (claims []claim, next time.Duration, err error)
	// extend prolongs claims that are still worked on.
	extend(ctx context.Context, topic, group string, claims []claim) error
	// ack ends a claim and the message's way in the group.
	ack(ctx context.Context, topic, group string, c claim) error
	// giveBack ends a claim; the message comes again after delay. tried says
	// whether the delivery counts as an attempt. A claim that has expired and
	// that another has taken since is left alone, here and in ack.
	giveBack(ctx context.Context, topic, group string, c claim, delay time.Duration, tried bool) error
	// backlog counts what a group has not acked.
	backlog(ctx context.Context, topic, group string) (int64, error)
	// remove forgets a topic's messages and groups.
	remove(ctx context.Context, topic string) error
	close() error
}

// stored is a message at rest. Nothing else holds its payload or metadata.
type stored struct {
	uuid     string
	key      string
	payload  []byte // nil and empty are different
	metadata map[string]string
}

// claim is a message given to one subscription.
type claim struct {
	stored

	id      int64
	attempt int64
	token   string // of this claim among all of the message; "" in memory
}

func storedFrom(msg *message.Message) stored {
	return stored{
		uuid:     msg.UUID,
		key:      msgmeta.GetKey(msg),
		payload:  cloneBytes(msg.Payload),
		metadata: maps.Clone(msg.Metadata),
	}
}

// message makes what a handler gets; it may change all of it.
func (c claim) message() *message.Message {
	msg := message.NewMessage(c.uuid, cloneBytes(c.payload))
	maps.Copy(msg.Metadata, c.metadata)
	msgmeta.SetAttempt(msg, c.attempt)

	return msg
}

// cloneBytes keeps nil and empty apart, which bytes.Clone does too, and gives
// the copy no spare capacity.
func cloneBytes(b []byte) []byte {
	if b == nil {
		return nil
	}
	c := make([]byte, len(b))
	copy(c, b)

	return c
}

// signals wakes the subscriptions of a topic when it may have work for them.
type signals struct {
	mu     sync.Mutex
	topics map[string]map[chan struct{}]struct{}
}

func newSignals() *signals { return &signals{topics: map[string]map[chan struct{}]struct{}{}} }

// listen returns a channel that holds at most one signal, and its end.
func (s *signals) listen(topic string) (<-chan struct{}, func()) {
	wake := make(chan struct{}, 1)

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] == nil {
		s.topics[topic] = map[chan struct{}]struct{}{}
	}
	s.topics[topic][wake] = struct{}{}

	return wake, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.topics[topic], wake)
		if len(s.topics[topic]) == 0 {
			delete(s.topics, topic)
		}
	}
}

func (s *signals) wake(topic string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for wake := range s.topics[topic] {
		select {
		case wake <- struct{}{}:
		default: // it has one already
		}
	}
}
