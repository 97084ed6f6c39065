package middleware_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
)

// While observing it is the router that publishes what handlers return, after
// Dedupe. A message remembered before that would be skipped, when it comes again to
// an instance that protects, and what it should have sent be lost.
func TestObservedIsRememberedOnlyWhenTheRouterHasSentWhatWasReturned(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Service: "s", Observe: true})
		require.NoError(t, err)
		remembered := func() (n int64) {
			counts, err := b.st.CountInbox(t.Context())
			require.NoError(t, err)
			for _, c := range counts {
				n += c.Count
			}
			return n
		}
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		sub := &oneSubscriber{ch: make(chan *message.Message)}
		router.AddMiddleware(d.Middleware)
		var down error
		router.AddHandler("h", "in", sub, "out", publisherFunc(func(string, ...*message.Message) error {
			if n := remembered(); n != 0 {
				t.Errorf("%d remembered, and nothing is sent yet", n)
			}
			return down
		}), func(msg *message.Message) ([]*message.Message, error) {
			return []*message.Message{message.NewMessage("out-"+msg.UUID, nil)}, nil
		})
		ended := make(chan error, 1)
		go func() { ended <- router.Run(t.Context()) }()
		for _, down = range []error{errors.New("the broker is down"), nil} {
			msg := message.NewMessage("1", nil)
			sub.ch <- msg
			select {
			case <-msg.Acked():
				require.NoError(t, down)
			case <-msg.Nacked():
				require.Error(t, down)
				require.Zero(t, remembered())
			}
		}
		testenv.Eventually(t, 10*time.Second, 5*time.Millisecond, func() (bool, string) {
			return remembered() == 1, "not remembered"
		})
		close(sub.ch)
		require.NoError(t, <-ended)
	})
}
