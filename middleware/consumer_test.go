package middleware_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
)

// A message that is sent to two topics has one id in both: handlers of one name,
// in two routers, would skip each other's.
func TestHandlersOfOneNameForTwoTopicsAreRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Service: "s"})
		require.NoError(t, err)
		errs := make(chan error, 1)
		for _, c := range []struct {
			topic string
			want  error
		}{{"orders", nil}, {"invoices", middleware.ErrConsumerTaken}, {"orders", nil}} {
			router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
			require.NoError(t, err)
			sub := &oneSubscriber{ch: make(chan *message.Message)}
			router.AddMiddleware(func(h message.HandlerFunc) message.HandlerFunc {
				return func(msg *message.Message) ([]*message.Message, error) {
					produced, err := h(msg)
					errs <- err
					return produced, err
				}
			}, d.Middleware)
			router.AddConsumerHandler("h", c.topic, sub, func(*message.Message) error { return nil })
			ended := make(chan error, 1)
			go func() { ended <- router.Run(t.Context()) }()
			sub.ch <- message.NewMessage("1", nil)
			require.ErrorIs(t, <-errs, c.want)
			close(sub.ch)
			require.NoError(t, <-ended)
		}
	})
}
