package mem

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// hurried is a queue in which a message that was given back is claimed again
// before giveBack has returned, as it may be on a busy machine.
type hurried struct {
	queue

	signals *signals
	claims  chan struct{}
	once    sync.Once
}

func (q *hurried) claim(ctx context.Context, topic, group string, limit int) ([]claim, time.Duration, error) {
	claims, next, err := q.queue.claim(ctx, topic, group, limit)
	for range claims {
		q.claims <- struct{}{}
	}

	return claims, next, err
}

func (q *hurried) giveBack(ctx context.Context, topic, group string, c claim, _ time.Duration, tried bool) error {
	err := q.queue.giveBack(ctx, topic, group, c, 0, tried)
	q.once.Do(func() {
		q.signals.wake(topic)
		<-q.claims
		// The claim is taken; a moment for the loop to adopt it.
		timer := time.NewTimer(50 * time.Millisecond)
		defer timer.Stop()
		<-timer.C
	})

	return err
}

func TestMessageClaimedAgainWhileItsNackIsRecordedIsDelivered(t *testing.T) {
	t.Parallel()
	signals := newSignals()
	q := &hurried{queue: newMemoryQueue(retention{messages: 1}), signals: signals, claims: make(chan struct{}, 10)}
	b := &broker{
		settings: settings{workers: 2, nackDelay: time.Millisecond, drain: time.Second},
		queue:    q, signals: signals, logger: watermill.NopLogger{},
	}
	sub := newSubscriber(b, "group")
	messages, err := sub.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	require.NoError(t, q.publish(t.Context(), "topic", []stored{{uuid: "1", key: "k"}}))
	signals.wake("topic")

	first := <-messages
	<-q.claims
	first.Nack()
	var acked bool
	testenv.Eventually(t, 10*time.Second, time.Millisecond, func() (bool, string) {
		select {
		case msg := <-messages:
			acked = msg.Ack()
		default:
		}

		return acked, "the nacked message did not come again"
	})
	require.NoError(t, sub.Close())
}
