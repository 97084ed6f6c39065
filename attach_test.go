package headrace_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestAttachToARunningRouterIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddConsumerHandler("effect", "in", b.bus, func(*message.Message) error { return nil })
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	<-router.Running()
	require.ErrorContains(t, hr.Attach(router), "AddPlugin")
	require.NoError(t, router.Close())
	require.NoError(t, <-done)
}

// It would wait for itself.
func TestAHandlerProtectedTwiceHandlesItsMessages(t *testing.T) {
	t.Parallel()
	b := setup(t)
	decided := make(verdicts, 10)
	b.cfg.Hooks = []any{decided}
	hr := b.open(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddPlugin(hr.Attach)
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("effect", "in", b.bus, write(hr.DB(), hr.Publisher()))
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	<-router.Running()
	out := b.out(t)
	require.NoError(t, b.bus.Publish("in", message.NewMessage("1", nil)))
	select {
	case v := <-decided:
		require.Equal(t, store.Applied, v.Verdict)
	case <-time.After(20 * time.Second):
		t.Error("not handled")
	}
	(<-out).Ack()
	require.Equal(t, 1, b.effects(t))
	require.NoError(t, router.Close())
	require.NoError(t, <-done)
}
