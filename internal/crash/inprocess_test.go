package crash_test

import (
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
)

// start runs the service in the test's own process, where steps can be paused
// and not only killed, and returns when it is up.
func (s *story) start(t *testing.T, reach step.Func) (stop func()) {
	t.Helper()
	return s.startAs(t, s.service, reach)
}

func (s *story) startAs(t *testing.T, both service, reach step.Func) (stop func()) {
	t.Helper()
	both.Consume, both.Forward = true, true
	ctx, cancel := context.WithCancel(step.With(context.WithoutCancel(t.Context()), reach))
	running, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- both.serve(ctx, watermill.NopLogger{}, watcher{up: func() { close(running) }, published: func(stockChanged) {}})
	}()
	select {
	case <-running:
	case err := <-ended:
		cancel()
		require.NoError(t, err, "the service did not start")
	}
	return func() {
		t.Helper()
		cancel()
		require.NoError(t, <-ended, "a service that is told to stop ends well")
	}
}

func nothing(context.Context, string) {}
