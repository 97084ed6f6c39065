package brokers_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
)

func TestUnreachableBrokerIsNamedWithHowLongWasTried(t *testing.T) {
	t.Parallel()
	for _, c := range cases(t) {
		if c.unreachable == "" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := brokers.Open(t.Context(), withOptions(t, c.unreachable, map[string]string{"connect_timeout": "300ms"}),
				brokers.Config{Openers: all.Openers()})
			require.ErrorIs(t, err, brokers.ErrUnreachable)
			var unreachable *brokers.UnreachableError
			require.ErrorAs(t, err, &unreachable)
			require.Positive(t, unreachable.Tried)
			require.Less(t, unreachable.Tried, 20*time.Second)
			require.ErrorContains(t, err, unreachable.Broker)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}

func TestUnknownOptionIsRefusedWithTheKnownOnes(t *testing.T) {
	t.Parallel()
	for _, c := range cases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := brokers.Open(t.Context(), withOptions(t, c.url(t), map[string]string{"wrokers": "3"}),
				brokers.Config{Openers: all.Openers()})
			require.ErrorIs(t, err, brokers.ErrBadOption)
			require.ErrorContains(t, err, `unknown option "wrokers"; known options are `)
			require.ErrorContains(t, err, "connect_timeout")
		})
	}
}

func TestSecondGroupIsRefusedWhereThereAreNoGroups(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if b.Capabilities.Groups {
			return
		}

		b.subscribe(t, "one")
		sub, err := b.SubscriberFor("two")
		if err == nil {
			_, err = sub.Subscribe(t.Context(), b.topic)
		}
		require.ErrorIs(t, err, brokers.ErrOneGroup)
		require.ErrorContains(t, err, "one")
	})
}

func TestCloseEndsEverySubscriptionAndTwiceIsOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		one := b.subscribe(t, "one")
		b.publish(t, newMessages("k", 3)...)
		receiveAcked(t, one, 1)

		require.NoError(t, b.Close())
		waitClosed(t, one)
		require.NoError(t, b.Close())
		_, err := b.SubscriberFor("one")
		require.ErrorIs(t, err, brokers.ErrClosed)
		_, err = b.Subscriber.Subscribe(t.Context(), b.topic)
		require.Error(t, err)
	})
}
