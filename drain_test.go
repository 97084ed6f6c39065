package headrace_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestDrainCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	out := b.out(t)
	hr := b.open(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, hr.Publisher().Publish("out", message.NewMessage("1", nil)))
	require.ErrorIs(t, hr.Drain(ended), context.Canceled)
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, hr.Drain(bounded))
	(<-out).Ack()
	require.NoError(t, hr.Publisher().Publish("out", message.NewMessage("2", nil)))
	require.NoError(t, hr.Drain(bounded), "after one that has succeeded")
	(<-out).Ack()
}

func TestDrainSendsWhatIsDueAndNamesWhatIsNot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	out := b.out(t)
	hr := b.open(t)
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	outbox := hr.Outbox("")
	require.NoError(t, outbox.PublishAfter(bounded, 0, "out", message.NewMessage("due", nil)))
	require.NoError(t, outbox.PublishAfter(bounded, time.Hour, "out", message.NewMessage("later", nil)))
	err := hr.Drain(bounded)
	require.ErrorIs(t, err, headrace.ErrScheduled)
	require.ErrorContains(t, err, `1 for topic "out" of destination "default", the next in `)
	msg := <-out
	require.Equal(t, "due", msg.UUID)
	msg.Ack()
	require.NoError(t, outbox.Cancel(bounded, "later"))
	require.NoError(t, hr.Drain(bounded))
	require.Nil(t, hr.Outbox("nowhere"))
}

func TestDrainNamesWhatIsParkedAndDoesNotWaitForIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	out := b.out(t)
	b.cfg.Publisher = stubborn{b.bus}
	hr := b.open(t)
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, id := range []string{"bad", "behind", "other"} {
		msg := message.NewMessage(id, nil)
		msgmeta.SetKey(msg, map[bool]string{true: "another key", false: "k"}[id == "other"])
		require.NoError(t, hr.Publisher().Publish("out", msg))
	}
	err := hr.Drain(bounded)
	require.ErrorIs(t, err, headrace.ErrParked)
	require.ErrorContains(t, err, `1 for topic "out" of destination "default" (publish: never); 1 more wait behind them`)
	msg := <-out
	require.Equal(t, "other", msg.UUID)
	msg.Ack()
	require.NoError(t, hr.Outbox("").PublishAfter(bounded, time.Hour, "out", message.NewMessage("later", nil)))
	err = hr.Drain(bounded)
	require.ErrorIs(t, err, headrace.ErrParked)
	require.ErrorIs(t, err, headrace.ErrScheduled)
}

// stubborn is a broker that never takes the message "bad".
type stubborn struct{ message.Publisher }

func (r stubborn) Publish(topic string, msgs ...*message.Message) error {
	if msgs[0].UUID == "bad" {
		return parking.AsPermanent(errors.New("never"))
	}
	return r.Publisher.Publish(topic, msgs...)
}

func TestDrainRelaysAfterRunHasEnded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	out := b.out(t)
	hr := b.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hr.Run(ctx) }()
	<-hr.Running()
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, hr.Publisher().Publish("out", message.NewMessage("1", nil)))
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, hr.Drain(bounded))
	(<-out).Ack()
}

// What is parked for a handler is nowhere else: a removal that would forget it is told.
func TestDrainNamesWhatIsParkedForHandlers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	require.NoError(t, hr.Drain(t.Context()))
	for _, consumer := range []string{"test.effect", "another.effect"} {
		require.NoError(t, hr.Store().InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, _, _, err := hr.Store().Park(ctx, tx, store.ParkedRow{
				Origin: store.OriginConsumer, Consumer: consumer, Line: "message/1", InboxID: "1", MessageID: "1",
				Status: store.StatusReview,
			}, nil)
			return err
		}))
	}
	bounded, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := hr.Drain(bounded)
	require.ErrorIs(t, err, headrace.ErrParked)
	require.ErrorContains(t, err, `1 for consumer "test.effect" (1 of them in review)`)
	require.NotContains(t, err.Error(), "another")
}
