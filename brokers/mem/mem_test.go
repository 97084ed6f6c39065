package mem

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

// onBoth runs a test in memory and on a file.
func onBoth(t *testing.T, options string, test func(t *testing.T, b *brokers.Broker)) {
	t.Helper()

	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		rawURL := "mem:"
		if options != "" {
			rawURL += "?" + options[1:]
		}
		test(t, openMem(t, rawURL))
	})
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		test(t, openMem(t, fileURL(t, options)))
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	onBoth(t, "&retain=3", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		send(t, b, "k", "1", "2", "3", "4", "5")
		require.Equal(t, []string{"1", "2", "3", "4", "5"}, receiveAll(t, hear(t, b, "first"), 5),
			"what nobody has subscribed to is kept")
		waitForBacklog(t, b, "first", 0)
		require.Equal(t, []string{"3", "4", "5"}, receiveAll(t, hear(t, b, "late"), 3), "the newest are kept")

		// A group that is not there holds on to what it has not acked.
		send(t, b, "k", "6", "7", "8", "9", "10")
		waitForBacklog(t, b, "first", 5)
	})
}

func TestRetentionByBytes(t *testing.T) {
	t.Parallel()
	onBoth(t, "&retain_bytes=4", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		send(t, b, "", "aaa", "bb", "cc")
		require.Len(t, receiveAll(t, hear(t, b, "first"), 3), 3)
		waitForBacklog(t, b, "first", 0)
		require.Len(t, receiveAll(t, hear(t, b, "late"), 1), 1)
		require.LessOrEqual(t, backlogOf(t, b, "never"), int64(2))
	})
}

func TestSettingUpAGroupKeepsItsMessages(t *testing.T) {
	t.Parallel()
	onBoth(t, "&retain=0", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		sub, err := b.SubscriberFor("later")
		require.NoError(t, err)
		initializer, ok := sub.(interface{ SubscribeInitialize(topic string) error })
		require.True(t, ok)
		require.NoError(t, initializer.SubscribeInitialize("t"))

		now := hear(t, b, "now")
		send(t, b, "k", "1", "2")
		require.Equal(t, []string{"1", "2"}, receiveAll(t, now, 2))
		waitForBacklog(t, b, "now", 0)
		messages, err := sub.Subscribe(t.Context(), "t")
		require.NoError(t, err)
		require.Equal(t, []string{"1", "2"}, receiveAll(t, messages, 2))
	})
}

func TestAttemptsAreCounted(t *testing.T) {
	t.Parallel()
	onBoth(t, "&nack_delay=1ms", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		messages := hear(t, b, "g")
		send(t, b, "k", "x")
		for want := range 4 {
			_, msg := next(t, messages, soon)
			attempt, ok, err := msgmeta.GetAttempt(msg)
			require.NoError(t, err)
			require.True(t, ok)
			require.EqualValues(t, want+1, attempt)
			msg.Nack()
		}
	})
}

func TestWorkersBoundWhatIsInFlight(t *testing.T) {
	t.Parallel()
	onBoth(t, "&workers=2", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		messages := hear(t, b, "g")
		send(t, b, "", "1", "2", "3")
		_, first := next(t, messages, soon)
		_, second := next(t, messages, soon)
		payload, _ := next(t, messages, never)
		require.Empty(t, payload)
		first.Ack()
		_, third := next(t, messages, soon)
		require.NotNil(t, third)
		second.Ack()
		third.Ack()
	})
}

func TestBadOptions(t *testing.T) {
	t.Parallel()

	for _, rawURL := range []string{
		"mem:?workers=0", "mem:?nack_delay=0s", "mem:?poll=5ms", "mem:?file=", "mem:?sync=full", "mem:?file=x&sync=off",
		"mem:?file=x&ack_deadline=1ms", "mem:?retain=-1", "mem:?file=x&poll=0s",
	} {
		_, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: map[string]brokers.Opener{"mem": Open}})
		require.ErrorIs(t, err, brokers.ErrBadOption, rawURL)
	}
	for _, rawURL := range []string{"mem://host", "mem:/path", "mem:opaque"} {
		_, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: map[string]brokers.Opener{"mem": Open}})
		require.ErrorIs(t, err, brokers.ErrBadURL, rawURL)
	}
}

func TestDeletingATopicUnderItsSubscriberIsNoPanic(t *testing.T) {
	t.Parallel()
	onBoth(t, "", func(t *testing.T, b *brokers.Broker) {
		t.Helper()
		for group, settle := range map[string]func(*message.Message) bool{
			"acks": (*message.Message).Ack, "nacks": (*message.Message).Nack,
		} {
			send(t, b, "k", "1", "2")
			_, msg := next(t, hear(t, b, group), soon)
			require.NoError(t, b.DeleteTopic(t.Context(), "t"))
			require.True(t, settle(msg))
			require.Zero(t, backlogOf(t, b, group))
		}
	})
}
