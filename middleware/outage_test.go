package middleware_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/hold"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// outage is a handler whose database can be taken away.
type outage struct {
	*parked

	proxy *disrupt.Proxy
	// outside goes past the proxy.
	outside *bundle
	// kept gets a value when the subscriber is asked to keep a message, and released
	// when that is over.
	kept, released chan struct{}
}

func eachOutage(t *testing.T, f func(o *outage)) {
	t.Helper()
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		if kind == "sqlite" {
			continue // it is in the process
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address := testenv.Database(t, kind)
			proxy, through := disrupt.Through(t, address)
			o := &outage{
				proxy: proxy, outside: setupOn(t, kind, address, true),
				kept: make(chan struct{}, 10), released: make(chan struct{}, 10),
			}
			inside := setupOn(t, kind, through, false)
			o.parked = inside.parked(t, func(cfg *middleware.ParkingConfig) {
				cfg.Valve = parking.NewValve(inside.st, parking.ValveConfig{
					Interval: 5 * time.Millisecond, MaxInterval: 50 * time.Millisecond,
				})
			})
			f(o)
		})
	}
}

// deliver hands a message over beside the test, and waits until its handler waits for
// the database, and then a little longer.
func (o *outage) deliver(msg *message.Message) (outcome <-chan error) {
	o.t.Helper()
	done := make(chan error, 1)
	ctx := hold.With(msg.Context(), func() func() {
		o.kept <- struct{}{}
		return func() { o.released <- struct{}{} }
	})
	msg.SetContext(ctx)
	go func() {
		_, err := o.handler(msg)
		done <- err
	}()
	select {
	case <-o.kept:
	case err := <-done:
		require.FailNow(o.t, "it has answered with the database away", "%v", err)
	case <-time.After(20 * time.Second):
		require.FailNow(o.t, "it doesn't wait for the database")
	}
	select {
	case err := <-done:
		require.FailNow(o.t, "it has answered with the database away", "%v", err)
	case <-time.After(200 * time.Millisecond):
	}
	return done
}

func (o *outage) message() *message.Message {
	msg := message.NewMessage("1", []byte("payload"))
	msg.SetContext(o.t.Context())
	return msg
}

func (o *outage) parkedRows() (n int) {
	o.t.Helper()
	require.NoError(o.t, o.outside.db.QueryRowContext(o.t.Context(), "SELECT count(*) FROM headrace_parked").Scan(&n))
	return n
}

func TestAnOutageParksNothing(t *testing.T) {
	eachOutage(t, func(o *outage) {
		cut := false
		o.fails = func(*message.Message) error { // the commit fails then, too
			if !cut {
				cut = true
				o.proxy.Cut()
				return errFull
			}
			return nil
		}
		done := o.deliver(o.message())
		require.Zero(o.t, o.parkedRows())
		o.proxy.Mend()
		require.NoError(o.t, <-done)
		<-o.released
		require.Len(o.t, o.runs, 2)
		require.Equal(o.t, 1, o.outside.quantity(o.t))
		require.Zero(o.t, o.parkedRows())
		require.Equal(o.t, store.Applied, o.outside.parked(o.t, nil).verdict("1"))
	})
}

func TestAMessageThatComesInAnOutageWaits(t *testing.T) {
	eachOutage(t, func(o *outage) {
		o.proxy.Cut()
		done := o.deliver(o.message())
		require.Empty(o.t, o.runs)
		o.proxy.Mend()
		require.NoError(o.t, <-done)
		require.Equal(o.t, 1, o.outside.quantity(o.t))
		require.Zero(o.t, o.parkedRows())
	})
}

// What has failed before the outage is what is parked after it.
func TestAnOutageWhileAMessageIsParkedIsWaitedFor(t *testing.T) {
	eachOutage(t, func(o *outage) {
		o.fails = func(*message.Message) error { return parking.AsPermanent(errFull) }
		msg := o.message()
		msg.SetContext(step.With(msg.Context(), func(_ context.Context, name string) {
			if name == step.ParkDecided {
				o.proxy.Cut()
			}
		}))
		done := o.deliver(msg)
		require.Zero(o.t, o.parkedRows())
		o.proxy.Mend()
		require.NoError(o.t, <-done)
		row := o.row(1)
		require.Equal(o.t, store.StatusParked, row.Status)
		require.Equal(o.t, 1, row.Attempts)
		require.Equal(o.t, errFull.Error(), row.Reason)
	})
}

func TestAnOutageIsNoFailureOfWhatComesBack(t *testing.T) {
	eachOutage(t, func(o *outage) {
		o.fails = func(*message.Message) error { return errFull }
		require.NoError(o.t, o.send("1", "sku"))
		o.release()
		before := o.row(1)
		cut := false
		o.fails = func(*message.Message) error {
			if !cut {
				cut = true
				o.proxy.Cut()
				time.AfterFunc(300*time.Millisecond, o.proxy.Mend)
				return errors.New("the connection is gone")
			}
			return nil
		}
		require.Equal(o.t, []error{nil}, o.comeBack())
		after := o.row(1)
		require.Equal(o.t, store.StatusDone, after.Status)
		require.Equal(o.t, before.Attempts+1, after.Attempts)
		require.Len(o.t, after.History, len(before.History), "the run in the outage is none")
		require.Equal(o.t, 1, o.outside.quantity(o.t))
	})
}

// Its owner has answered: what waits for the database must not wait for ever.
func TestAMessageDoesntOutliveItsSubscriptionInAnOutage(t *testing.T) {
	eachOutage(t, func(o *outage) {
		o.proxy.Cut()
		ctx, cancel := context.WithCancel(o.t.Context())
		msg := o.message()
		msg.SetContext(ctx)
		done := o.deliver(msg)
		cancel()
		require.ErrorIs(o.t, <-done, context.Canceled)
		<-o.released
		o.proxy.Mend()
		require.Zero(o.t, o.parkedRows())
	})
}
