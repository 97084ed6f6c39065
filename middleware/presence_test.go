package middleware_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// present runs a presence until the test ends or leave is called.
func (b *bundle) present(t *testing.T, cfg middleware.PresenceConfig) (p *middleware.Presence, leave func()) {
	t.Helper()
	p, err := middleware.NewPresence(b.st, cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	left := false
	leave = func() {
		if !left {
			left = true
			cancel()
			require.NoError(t, <-ended)
		}
	}
	t.Cleanup(leave)
	return p, leave
}

func (b *bundle) awaitPresent(t *testing.T, consumer string, want int) []store.Lease {
	t.Helper()
	var leases []store.Lease
	testenv.Eventually(t, 10*time.Second, 2*time.Millisecond, func() (bool, string) {
		var err error
		leases, err = b.st.Present(t.Context(), consumer)
		require.NoError(t, err)
		return len(leases) == want, consumer
	})
	return leases
}

func TestPresenceIsShownWhileItRuns(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		clock := clockwork.NewFakeClock()
		odd := "odd/\x00'\xff " + strings.Repeat("ü", 300)
		one, leaveOne := b.present(t, middleware.PresenceConfig{
			Consumers: []string{"shop.orders", odd}, Name: "host-1", LeaseTTL: time.Hour, Clock: clock,
		})
		_, leaveOther := b.present(t, middleware.PresenceConfig{Consumers: []string{"shop.orders"}, LeaseTTL: time.Hour})
		leases := b.awaitPresent(t, "shop.orders", 2)
		b.awaitPresent(t, odd, 1)
		b.awaitPresent(t, store.Identity(odd), 1)
		b.awaitPresent(t, "shop.order", 0)
		b.awaitPresent(t, "shop.orders/", 0)
		require.True(t, strings.HasPrefix(leases[0].Owner+leases[1].Owner, "host-1-") ||
			strings.HasPrefix(leases[1].Owner, "host-1-"))

		one.Add("shop.late", "shop.orders")
		b.awaitPresent(t, "shop.late", 1)

		// A renewal brings back what was lost.
		_, err := b.db.ExecContext(t.Context(), "DELETE FROM headrace_leases")
		require.NoError(t, err)
		clock.Advance(20 * time.Minute)
		b.awaitPresent(t, "shop.late", 1)
		b.awaitPresent(t, "shop.orders", 1)

		leaveOther()
		leaveOne()
		left, err := b.st.Leases(t.Context(), "")
		require.NoError(t, err)
		require.Empty(t, left, "who ends signs off")
	})
}

// complaints are the fields of what is logged as an error.
type complaints struct{ fields chan watermill.LogFields }

func (c complaints) Error(_ string, _ error, fields watermill.LogFields) { c.fields <- fields }
func (complaints) Info(string, watermill.LogFields)                      {}
func (complaints) Debug(string, watermill.LogFields)                     {}
func (complaints) Trace(string, watermill.LogFields)                     {}
func (c complaints) With(watermill.LogFields) watermill.LoggerAdapter    { return c }

func TestPresenceOfWhatIsBeingChangedIsAnError(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		logger := complaints{make(chan watermill.LogFields, 10)}
		_, ok, err := b.st.AcquireLease(t.Context(), "operation/shop.orders/", "anna", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		_, leave := b.present(t, middleware.PresenceConfig{Consumers: []string{"shop.orders"}, Logger: logger})
		b.awaitPresent(t, "shop.orders", 1)
		select {
		case fields := <-logger.fields:
			require.Equal(t, "anna", fields["changed_by"])
		case <-time.After(10 * time.Second):
			t.Error("nothing is said")
		}
		leave()
	})
}

func TestPresenceSaysWhatIsWrongWithItsConfiguration(t *testing.T) {
	t.Parallel()
	_, err := middleware.NewPresence(nil, middleware.PresenceConfig{})
	require.ErrorContains(t, err, "needs a store")
	b := setup(t, "sqlite")
	for want, cfg := range map[string]middleware.PresenceConfig{
		"at least a second": {LeaseTTL: time.Millisecond},
		"visible ASCII":     {Name: "a b"},
		"at most 64":        {Name: strings.Repeat("x", 65)},
	} {
		_, err := middleware.NewPresence(b.st, cfg)
		require.ErrorContains(t, err, want)
	}
}
