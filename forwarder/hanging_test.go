package forwarder_test

import (
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestAHangingPublisherDoesNotHangCloseForEver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		release := make(chan struct{})
		entered := make(chan struct{}, 1)
		to := broker{refuse: func(string, *message.Message) error { entered <- struct{}{}; <-release; return nil }}
		f, err := forwarder.New(b.st, map[string]message.Publisher{"default": &to},
			forwarder.Config{CloseTimeout: 100 * time.Millisecond})
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- f.Run(t.Context()) }()
		b.publish(t, "topic", "k", "1")
		<-entered
		require.ErrorContains(t, f.Close(), "hangs")
		close(release)
		require.NoError(t, <-done)
		require.ErrorIs(t, f.Run(t.Context()), forwarder.ErrClosed)
	})
}

// errorLog keeps what is logged as an error.
type errorLog struct {
	watermill.NopLogger

	mu     sync.Mutex
	errors []string
}

func (l *errorLog) Error(msg string, err error, _ watermill.LogFields) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors = append(l.errors, msg+": "+err.Error())
}

func (l *errorLog) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) == 0 {
		return ""
	}
	return l.errors[len(l.errors)-1]
}

func TestAHangingPublisherIsReported(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		entered, release := make(chan struct{}, 1), make(chan struct{})
		to := broker{refuse: func(string, *message.Message) error { entered <- struct{}{}; <-release; return nil }}
		clock, log := clockwork.NewFakeClock(), &errorLog{}
		b.run(t, &to, forwarder.Config{LeaseTTL: time.Hour, Clock: clock, Logger: log})
		b.publish(t, "topic", "k", "1")
		<-entered
		require.Empty(t, log.last())
		clock.Advance(time.Minute)
		testenv.Eventually(t, deadline, quick, func() (bool, string) { return log.last() != "", "nothing logged" })
		require.Contains(t, log.last(), "hanging publisher")
		close(release)
		b.eventuallyWaiting(t, 0)
	})
}
