package headrace_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// parks passes on what was put aside.
type parks chan middleware.ParkEvent

func (p parks) OnPark(event middleware.ParkEvent) { p <- event }

// poisoned is a handler that fails for some messages, and what it has handled.
type poisoned struct {
	mu      sync.Mutex
	fails   map[string]error
	handled []string
}

func (p *poisoned) handle(msg *message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.fails[msg.UUID]; err != nil {
		return err
	}
	p.handled = append(p.handled, msg.UUID)
	return nil
}

func (p *poisoned) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails = nil
}

func (p *poisoned) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.handled)
}

func (b *bundle) send(t *testing.T, key string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		msg := message.NewMessage(id, []byte("payload of "+id))
		msgmeta.SetKey(msg, key)
		require.NoError(t, b.bus.Publish("in", msg))
	}
}

func within(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, 5*time.Millisecond, what)
}

// What fails is tried again from the database; then a person lets it go. Its key waits
// in order, and others don't.
func TestAParkedMessageHoldsItsKeyUntilItIsReleased(t *testing.T) {
	t.Parallel()
	b := setup(t)
	events := make(parks, 10)
	b.cfg.Park, b.cfg.Hooks = true, []any{events}
	b.cfg.Parking.Immediate.Tries = -1
	b.cfg.Parking.Delays = []time.Duration{time.Millisecond, time.Millisecond}
	hr := b.open(t)
	h := &poisoned{fails: map[string]error{"1": errors.New("the shelf is full")}}
	b.bind(t, hr, hr.Subscriber("effect", b.bus), h.handle)

	b.send(t, "sku-17", "1")
	for attempt, status := range []store.ParkedStatus{store.StatusDelayed, store.StatusDelayed, store.StatusParked} {
		event := <-events
		require.Equal(t, status, event.Status)
		require.Equal(t, attempt+1, event.Attempts)
		require.Equal(t, "test.effect", event.Consumer)
	}
	b.send(t, "sku-17", "2", "3")
	b.send(t, "sku-18", "4")
	within(t, "another key's message is handled", func() bool { return slices.Contains(h.seen(), "4") })
	line := store.KeyLine("test.effect", "sku-17")
	within(t, "the key's messages line up", func() bool {
		gate, err := hr.Store().GateOf(t.Context(), line)
		return err == nil && gate.Waiting() == 3
	})
	require.Equal(t, []string{"4"}, h.seen())

	h.mend()
	desk := parking.NewDesk(hr.Store(), parking.DeskConfig{Actor: "anna"})
	require.NoError(t, desk.Retry(t.Context(), 1, parking.RetryOptions{}))
	within(t, "the line opens", func() bool {
		_, err := hr.Store().GateOf(t.Context(), line)
		return errors.Is(err, store.ErrNotHeld)
	})
	// The broker has no order of the two that came together; their line has.
	seen := h.seen()
	require.Equal(t, "1", seen[1])
	require.ElementsMatch(t, []string{"4", "1", "2", "3"}, seen)
	b.send(t, "sku-17", "5")
	within(t, "it flows again", func() bool { return slices.Contains(h.seen(), "5") })
}

// bind runs a router whose handler has a subscriber of its own.
func (b *bundle) bind(
	t *testing.T, hr *headrace.Plugin, sub message.Subscriber, handle message.NoPublishHandlerFunc,
	middlewares ...message.HandlerMiddleware,
) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("effect", "in", sub, handle).AddMiddleware(middlewares...)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, <-done)
	})
	<-router.Running()
}

// What fails in a stage in front of Dedupe is put aside where Parking stands outside of
// the stage, and else nacked for ever.
func TestAFailingStageIsParkedBehindParkMiddleware(t *testing.T) {
	t.Parallel()
	for name, outside := range map[string]bool{"outside": true, "inside": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			events, logged := make(parks, 10), watermill.NewCaptureLogger()
			b.cfg.Park, b.cfg.Hooks, b.cfg.Logger = true, []any{events}, logged
			b.cfg.Parking.Immediate.Tries, b.cfg.Parking.Delays = -1, []time.Duration{}
			warned := func() bool {
				return slices.ContainsFunc(logged.Captured()[watermill.ErrorLogLevel], func(m watermill.CapturedMessage) bool {
					return strings.Contains(m.Msg, "in a stage of effects is not put aside")
				})
			}
			hr := b.open(t)
			client, err := effects.New(hr.Store(), effects.Config{
				Service: "test", Provider: effects.Provider{Name: "bank", Keys: true},
			})
			require.NoError(t, err)
			var down atomic.Bool
			down.Store(true)
			calls := make(chan struct{}, 100)
			stage := client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
				return client.Do(ctx, "charge", msg.UUID, nil, func(context.Context, string, []byte) (effects.Response, error) {
					select {
					case calls <- struct{}{}:
					default: // it comes again and again
					}
					if down.Load() {
						return effects.Response{}, effects.NotDone(errors.New("the bank is closed"))
					}
					return effects.Response{Code: 200}, nil
				})
			})
			h := &poisoned{}
			middlewares := []message.HandlerMiddleware{hr.ParkMiddleware, stage}
			if !outside {
				middlewares = middlewares[1:]
			}
			b.bind(t, hr, hr.Subscriber("effect", b.bus), h.handle, middlewares...)
			b.send(t, "sku", "1")
			if !outside {
				for range 3 {
					<-calls
				}
				require.Empty(t, events)
				down.Store(false)
				within(t, "it is handled", func() bool { return slices.Equal(h.seen(), []string{"1"}) })
				require.True(t, warned())
				return
			}
			require.Equal(t, store.StatusParked, (<-events).Status)
			require.Len(t, calls, 1)
			down.Store(false)
			desk := parking.NewDesk(hr.Store(), parking.DeskConfig{Actor: "anna"})
			require.NoError(t, desk.Retry(t.Context(), 1, parking.RetryOptions{}))
			within(t, "it is handled", func() bool { return slices.Equal(h.seen(), []string{"1"}) })
			require.Len(t, calls, 2)
			require.Empty(t, events)
			require.False(t, warned())
		})
	}
}

func TestAHandlerWithoutItsSubscriberIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Park = true
	hr := b.open(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddPlugin(hr.Attach)
	handle := func(*message.Message) error { return nil }
	router.AddConsumerHandler("bound", "in", hr.Subscriber("bound", b.bus), handle)
	router.AddConsumerHandler("orders", "in", b.bus, handle)
	router.AddConsumerHandler("stock", "in", hr.Subscriber("stok", b.bus), handle)
	err = router.Run(t.Context())
	require.ErrorIs(t, err, headrace.ErrUnbound)
	require.ErrorContains(t, err, `orders, stock: with Config.Park give router.AddHandler hr.Subscriber("orders", subscriber)`)
}

// Attach doesn't see handlers that are added later, or protected one by one.
func TestAMessageForAHandlerWithoutItsSubscriberIsNacked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Park = true
	hr := b.open(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	refused := make(chan error, 1)
	router.AddMiddleware(func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			produced, err := h(msg)
			select {
			case refused <- err:
			default: // it comes again and again
			}
			return produced, err
		}
	})
	router.AddConsumerHandler("effect", "in", b.bus, func(*message.Message) error { return nil }).AddMiddleware(hr.Middleware)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	<-router.Running()
	b.send(t, "sku", "1")
	require.ErrorIs(t, <-refused, headrace.ErrUnbound)
	require.NoError(t, router.Close())
	require.NoError(t, <-done)
}

func TestWithoutParkASubscriberStaysWhatItIs(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*headrace.Config){
		"off":       func(*headrace.Config) {},
		"observing": func(cfg *headrace.Config) { cfg.Park, cfg.Observe = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			change(&b.cfg)
			hr := b.open(t)
			require.Same(t, b.bus, hr.Subscriber("effect", b.bus))
			failures := make(chan struct{}, 2)
			b.bind(t, hr, b.bus, func(*message.Message) error {
				select {
				case failures <- struct{}{}:
				default: // it comes again and again
				}
				return errors.New("boom")
			})
			b.send(t, "sku", "1")
			for range 2 { // it was nacked, as ever
				<-failures
			}
			var kept int
			require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT count(*) FROM headrace_parked").Scan(&kept))
			require.Zero(t, kept)
		})
	}
}

func TestOddParkingConfigsAreRefused(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]func(*headrace.Config){
		"Config.Parking.Consumer": func(cfg *headrace.Config) { cfg.Parking.Consumer = "shared" },
		"Config.Reentry.Consumer": func(cfg *headrace.Config) { cfg.Reentry.Consumer = "shared" },
		"WithoutDedupe":           func(cfg *headrace.Config) { cfg.Parking.WithoutDedupe = true },
		"Delays":                  func(cfg *headrace.Config) { cfg.Parking.Delays = []time.Duration{-1} },
		"ClaimTTL":                func(cfg *headrace.Config) { cfg.Reentry.ClaimTTL = time.Millisecond },
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.cfg.Park = true
			change(&b.cfg)
			_, err := headrace.New(t.Context(), b.db, b.cfg)
			require.ErrorContains(t, err, says)
		})
	}
}
