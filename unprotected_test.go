package headrace_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/store"
)

// logbook is a logger that may be read while it is written.
type logbook struct {
	watermill.NopLogger

	mu    sync.Mutex
	lines []watermill.CapturedMessage
}

func (l *logbook) write(line watermill.CapturedMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *logbook) Error(msg string, err error, fields watermill.LogFields) {
	l.write(watermill.CapturedMessage{Level: watermill.ErrorLogLevel, Msg: msg, Err: err, Fields: fields})
}

func (l *logbook) Info(msg string, fields watermill.LogFields) {
	l.write(watermill.CapturedMessage{Level: watermill.InfoLogLevel, Msg: msg, Fields: fields})
}

func (l *logbook) With(watermill.LogFields) watermill.LoggerAdapter { return l }

// logged returns the lines that begin with a text.
func logged(l *logbook, text string) []watermill.CapturedMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.lines), func(line watermill.CapturedMessage) bool {
		return !strings.HasPrefix(line.Msg, text)
	})
}

const notAttached = "Headrace is not attached"

// watched is a plugin with a logger, whose patience the clock decides.
func watched(t *testing.T, b *bundle) (*headrace.Plugin, *logbook, *clockwork.FakeClock) {
	t.Helper()
	logger, clock := &logbook{}, clockwork.NewFakeClock()
	b.cfg.Logger = logger
	hr := b.open(t)
	hr.SetClock(clock)
	return hr, logger, clock
}

func TestAPluginThatIsUsedByAHandlerWithoutAttachSaysSoAtOnceAndOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr, logger, clock := watched(t, b)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddConsumerHandler("effect", "in", b.bus, write(hr.DB(), hr.Publisher()))
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	<-router.Running()
	for _, id := range []string{"1", "2"} {
		require.NoError(t, b.bus.Publish("in", message.NewMessage(id, nil)))
	}
	require.Eventually(t, func() bool { return b.effects(t) == 2 }, 20*time.Second, time.Millisecond)
	clock.Advance(2 * headrace.Patience)
	require.NoError(t, router.Close())
	require.NoError(t, <-done)
	lines := logged(logger, notAttached)
	require.Len(t, lines, 1)
	require.Equal(t, watermill.ErrorLogLevel, lines[0].Level)
	require.Equal(t, "effect", lines[0].Fields["handler"])
	require.ErrorContains(t, lines[0].Err, "give hr.Attach to router.AddPlugin")
}

func TestAPluginThatIsUsedForAWhileWithoutAttachSaysSoOnce(t *testing.T) {
	t.Parallel()
	for name, observe := range map[string]bool{"on": false, "observing": true} {
		b := setup(t)
		b.cfg.Observe = observe
		hr, logger, clock := watched(t, b)
		for range 3 {
			_, err := hr.DB().ExecContext(t.Context(), "INSERT INTO effects VALUES ('x')")
			require.NoError(t, err, name)
		}
		clock.Advance(headrace.Patience - 1)
		require.Empty(t, logged(logger, notAttached), "a router may still be starting")
		clock.Advance(1)
		said := func() bool { return len(logged(logger, notAttached)) == 1 }
		require.Eventually(t, said, 10*time.Second, time.Millisecond, name)
		_, err := hr.DB().ExecContext(t.Context(), "INSERT INTO effects VALUES ('x')")
		require.NoError(t, err, name)
		clock.Advance(2 * headrace.Patience)
		require.Len(t, logged(logger, notAttached), 1, name)
	}
}

func TestAPluginThatIsPutToWorkIsNotMissed(t *testing.T) {
	t.Parallel()
	for name, work := range map[string]func(*bundle, *headrace.Plugin){
		"Attach": func(b *bundle, hr *headrace.Plugin) {
			b.route(t, hr, func(*message.Message) error { return nil })
		},
		"Middleware": func(_ *bundle, hr *headrace.Plugin) {
			hr.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil })
		},
		"Drain": func(_ *bundle, hr *headrace.Plugin) { require.NoError(t, hr.Drain(t.Context())) },
		"Run": func(_ *bundle, hr *headrace.Plugin) {
			go func() { _ = hr.Run(context.WithoutCancel(t.Context())) }()
			<-hr.Running()
		},
		"Close": func(_ *bundle, hr *headrace.Plugin) { require.NoError(t, hr.Close()) },
	} {
		b := setup(t)
		hr, logger, clock := watched(t, b)
		require.NoError(t, hr.Publisher().Publish("elsewhere", message.NewMessage("1", nil)))
		work(b, hr)
		clock.Advance(2 * headrace.Patience)
		require.Empty(t, logged(logger, notAttached), name)
	}
}

func TestTheStartIsLogged(t *testing.T) {
	t.Parallel()
	for observe, msg := range map[bool]string{
		false: "Headrace protects the router's handlers",
		true:  "Headrace observes the router's handlers, and changes nothing",
	} {
		b := setup(t)
		b.cfg.Observe = observe
		b.cfg.Destinations = map[string]message.Publisher{"audit": b.bus}
		hr, logger, _ := watched(t, b)
		b.route(t, hr, func(*message.Message) error { return nil })
		lines := logged(logger, msg)
		require.Len(t, lines, 1)
		require.Equal(t, watermill.InfoLogLevel, lines[0].Level)
		require.Subset(t, lines[0].Fields, watermill.LogFields{
			"service": "test", "handlers": "effect", "observe": observe,
			"relays_to": "audit,default", "remembers": 7 * 24 * time.Hour,
		})
	}
}

// A handler that forgets its message's context is found without strict mode, once
// for each line of its code.
func TestWhatAHandlerDoesWithoutItsContextIsLoggedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Store.ConnTimeout = 100 * time.Millisecond // SQLite has one writer, which is the message's transaction
	hr, logger, _ := watched(t, b)
	decided := make(chan struct{}, 2)
	b.route(t, hr, func(msg *message.Message) error {
		defer func() { decided <- struct{}{} }()
		var n int
		forgotten := context.Background()
		if err := hr.DB().QueryRowContext(forgotten, "SELECT count(*) FROM effects").Scan(&n); err != nil {
			return err
		}
		if err := hr.DB().QueryRowContext(msg.Context(), "SELECT count(*) FROM effects").Scan(&n); err != nil {
			return err
		}
		if err := hr.Publisher().Publish("elsewhere", message.NewMessage("1", nil)); !errors.Is(err, store.ErrLockTimeout) {
			return fmt.Errorf("the publish was not outside: %w", err)
		}
		return nil
	})
	const line = `Outside of its message's transaction: statement "SELECT count(*) FROM effects" through JoinDB`
	_, err := hr.DB().ExecContext(t.Context(), "INSERT INTO effects VALUES ('x')")
	require.NoError(t, err, "outside of handlers it is legal")
	for _, id := range []string{"1", "2"} {
		require.NoError(t, b.bus.Publish("in", message.NewMessage(id, nil)))
		<-decided
	}
	lines := logged(logger, line)
	require.Len(t, lines, 1)
	require.Equal(t, watermill.ErrorLogLevel, lines[0].Level)
	require.ErrorContains(t, lines[0].Err, "pass msg.Context() on")
	require.ErrorContains(t, lines[0].Err, "Config.Strict")
	require.ErrorContains(t, lines[0].Err, "store.MeantOutside")
	require.Contains(t, lines[0].Fields["caller"], "unprotected_test.go:")
	lines = logged(logger, `Outside of its message's transaction: publish to topic "elsewhere" through the outbox`)
	require.Len(t, lines, 1)
	require.Contains(t, lines[0].Fields["caller"], "unprotected_test.go:")
	require.Len(t, logged(logger, "Outside of"), 2)
}
