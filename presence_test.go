package headrace_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// Operators must see who handles a consumer's messages before they change what it
// remembers.
func TestAttachedHandlersArePresentUntilClose(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	b.route(t, hr, func(*message.Message) error { return nil })
	testenv.Eventually(t, 10*time.Second, 2*time.Millisecond, func() (bool, string) {
		present, err := hr.Store().Present(t.Context(), "test.effect")
		require.NoError(t, err)
		return len(present) == 1, "not present"
	})
	require.NoError(t, hr.Close())
	var n int
	query := "SELECT count(*) FROM headrace_leases WHERE name LIKE 'consumer/%'"
	require.NoError(t, b.db.QueryRowContext(t.Context(), query).Scan(&n))
	require.Zero(t, n)
}

// A plugin that protects single handlers hears of one with its first message.
func TestASinglyProtectedHandlerIsPresentFromItsFirstMessage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	handler := router.AddConsumerHandler("single", "in", b.bus, func(*message.Message) error { return nil })
	handler.AddMiddleware(hr.Middleware)
	ended := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- hr.Run(ctx) }()
	go func() { ended <- router.Run(ctx) }()
	<-router.Running()
	require.NoError(t, b.bus.Publish("in", message.NewMessage("1", nil)))
	testenv.Eventually(t, 10*time.Second, 2*time.Millisecond, func() (bool, string) {
		present, err := hr.Store().Present(t.Context(), "test.single")
		require.NoError(t, err)
		return len(present) == 1, "not present"
	})
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, <-ended)
}
