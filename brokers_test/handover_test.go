package brokers_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
)

// sides are an old and a new broker, and a handover between them.
type sides struct {
	from, to *brokers.Broker
	handover message.Subscriber
	log      *switchLog
}

const quiet = 20 * time.Millisecond

func newSides(t *testing.T, change func(from *brokers.Broker)) *sides {
	t.Helper()

	s := &sides{
		from: open(t, "mem:?drain=1s"), to: open(t, "mem:?drain=1s"),
		log: &switchLog{drained: make(chan struct{}), failed: make(chan struct{})},
	}
	if change != nil {
		change(s.from)
	}
	var err error
	s.handover, err = brokers.NewHandover(s.from, s.to, brokers.HandoverConfig{Group: "one", Quiet: quiet, Logger: s.log})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.handover.Close()) })

	return s
}

// switchLog hears when the old side is drained, and of the first error.
type switchLog struct {
	watermill.NopLogger

	drained, failed chan struct{}
	once            sync.Once
}

func (l *switchLog) Info(msg string, _ watermill.LogFields) {
	if strings.Contains(msg, "reading the new one") {
		close(l.drained)
	}
}

func (l *switchLog) Error(string, error, watermill.LogFields) { l.once.Do(func() { close(l.failed) }) }

func (l *switchLog) With(watermill.LogFields) watermill.LoggerAdapter { return l }

func wait(t *testing.T, signal <-chan struct{}, what string) {
	t.Helper()

	select {
	case <-signal:
	case <-time.After(patience):
		t.Fatalf("waited for %s", what)
	}
}

func TestHandoverReadsTheNewSideWhenTheOldOneIsDrained(t *testing.T) {
	t.Parallel()
	s := newSides(t, nil)
	old, fresh := newMessages("k", 2), newMessages("k", 1)
	require.NoError(t, s.from.Publisher.Publish("t", old...))
	require.NoError(t, s.to.Publisher.Publish("t", fresh...))

	messages, err := s.handover.Subscribe(t.Context(), "t")
	require.NoError(t, err)
	one := receive(t, messages)
	require.Equal(t, old[0].UUID, one.UUID)
	one.Ack()
	two := receive(t, messages)
	require.Equal(t, old[1].UUID, two.UUID)

	// A message in hand is enough to hold the new side back.
	select {
	case msg := <-messages:
		t.Fatalf("%s came before the old side was drained", msg.UUID)
	case <-s.log.drained:
		t.Fatal("the old side counted as drained with a message in hand")
	case <-time.After(10 * quiet):
	}
	two.Ack()
	three := receive(t, messages)
	require.Equal(t, fresh[0].UUID, three.UUID)
	three.Ack()

	// What comes late on the old side isn't lost.
	late := newMessages("k", 1)
	require.NoError(t, s.from.Publisher.Publish("t", late...))
	four := receive(t, messages)
	require.Equal(t, late[0].UUID, four.UUID)
	four.Ack()
}

func TestHandoverWaitsWhileTheBacklogCannotBeRead(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	broken := true
	s := newSides(t, func(from *brokers.Broker) {
		backlog := from.Capabilities.Backlog
		from.Capabilities.Backlog = func(ctx context.Context, topic, group string) (int64, error) {
			mu.Lock()
			defer mu.Unlock()
			if broken {
				return 0, errors.New("out of order")
			}

			return backlog(ctx, topic, group)
		}
	})
	_, err := s.handover.Subscribe(t.Context(), "t")
	require.NoError(t, err)
	wait(t, s.log.failed, "an error in the log")
	select {
	case <-s.log.drained:
		t.Fatal("a backlog that can't be read is no empty one")
	case <-time.After(5 * quiet):
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	wait(t, s.log.drained, "the old side to be drained")
}

func TestHandoverGivesBackWhatNobodyTakes(t *testing.T) {
	t.Parallel()
	s := newSides(t, nil)
	old := newMessages("k", 1)
	require.NoError(t, s.from.Publisher.Publish("t", old...))
	messages, err := s.handover.Subscribe(t.Context(), "t")
	require.NoError(t, err)
	require.NoError(t, s.handover.Close())
	for range messages { //nolint:revive // it may be taken at the last moment, and then isn't acked
	}
	again, err := s.from.SubscriberFor("one")
	require.NoError(t, err)
	messages, err = again.Subscribe(t.Context(), "t")
	require.NoError(t, err)
	require.Equal(t, old[0].UUID, receive(t, messages).UUID)

	_, err = s.handover.Subscribe(t.Context(), "t")
	require.ErrorIs(t, err, brokers.ErrClosed)
}

func TestHandoverNeedsAGroupAndABacklog(t *testing.T) {
	t.Parallel()
	from, to := open(t, "mem:"), open(t, "mem:")
	_, err := brokers.NewHandover(from, to, brokers.HandoverConfig{})
	require.ErrorIs(t, err, brokers.ErrNoGroup)
	_, err = brokers.NewHandover(from, to, brokers.HandoverConfig{Group: "one", Quiet: -1})
	require.ErrorIs(t, err, brokers.ErrBadOption)
	from.Capabilities.Backlog = nil
	_, err = brokers.NewHandover(from, to, brokers.HandoverConfig{Group: "one"})
	require.ErrorIs(t, err, brokers.ErrNoBacklog)
}

func TestHeldRefuses(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, brokers.Held{}.Publish("t", newMessages("k", 1)...), brokers.ErrHeld)
	require.NoError(t, brokers.Held{}.Close())
}
