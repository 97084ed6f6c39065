package parking_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/internal/testenv/disrupt"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// away is a store that can be taken away, and its valve.
func (y *yard) away() (*store.Store, *parking.Valve, *disrupt.Proxy) {
	y.Helper()
	proxy, through := disrupt.Through(y, y.address)
	st := y.open(testenv.Open(y, through), y.st.Dialect())
	return st, parking.NewValve(st, parking.ValveConfig{Interval: time.Millisecond, MaxInterval: 20 * time.Millisecond}), proxy
}

func onEachServer(t *testing.T, f func(*yard)) {
	t.Helper()
	onEachYard(t, func(y *yard) {
		if y.st.Dialect() != store.SQLite { // which is in the process
			f(y)
		}
	})
}

func TestNothingIsTakenOnWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(y *yard) {
		st, valve, proxy := y.away()
		broker := gochannel.NewGoChannel(gochannel.Config{}, nil)
		came := make(chan string, 10)
		first := make(chan error, 1)
		sub := y.subscribe(st, broker, parking.SubscriberConfig{Valve: valve}, func(msg *message.Message) error {
			if msg.UUID == "0" {
				first <- valve.Wait(msg.Context())
			}
			came <- msg.UUID
			return nil
		})
		<-sub.Running()
		proxy.Cut()
		require.False(y, valve.Open(y.Context()))
		require.NoError(y, broker.Publish("orders", message.NewMessage("0", nil)))
		// Another one may have been on its way when the first began to wait.
		y.eventually("it waits", func() bool {
			ctx, cancel := context.WithTimeout(y.Context(), time.Millisecond)
			defer cancel()
			return valve.Pass(ctx) != nil
		})
		for _, id := range []string{"1", "2", "3"} {
			require.NoError(y, broker.Publish("orders", message.NewMessage(id, nil)))
		}
		select {
		case err := <-first:
			require.FailNow(y, "the store is away", "%v", err)
		case <-time.After(200 * time.Millisecond):
		}
		require.LessOrEqual(y, len(came), 1)
		proxy.Mend()
		require.NoError(y, <-first)
		for range 4 {
			select {
			case <-came:
			case <-time.After(20 * time.Second):
				require.FailNow(y, "it didn't go on")
			}
		}
	})
}

// Of many that wait one asks, and where that one gives up another does.
func TestWhoAsksForTheStoreMayGiveUp(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(y *yard) {
		_, valve, proxy := y.away()
		proxy.Cut()
		impatient, cancel := context.WithCancel(y.Context())
		defer cancel()
		gaveUp, done := make(chan error, 1), make(chan error, 20)
		go func() { gaveUp <- valve.Wait(impatient) }()
		for range cap(done) {
			go func() { done <- valve.Wait(y.Context()) }()
		}
		cancel()
		require.ErrorIs(y, <-gaveUp, context.Canceled)
		require.Empty(y, done)
		proxy.Mend()
		for range cap(done) {
			require.NoError(y, <-done)
		}
		require.NoError(y, valve.Pass(y.Context()))
	})
}
