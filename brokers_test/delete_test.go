package brokers_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
)

func TestADeletedTopicIsGoneAndMayComeAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		require.NoError(t, b.DeleteTopic(t.Context(), b.topic), "there is none yet")
		b.publish(t, newMessages("before", 3)...)
		messages, sub := b.subscribeCtx(t.Context(), t, "one")
		receiveAcked(t, messages, 1)
		require.NoError(t, sub.Close())

		require.NoError(t, b.DeleteTopic(t.Context(), b.topic))
		left, err := b.Capabilities.Backlog(t.Context(), b.topic, "another")
		require.NoError(t, err)
		require.Zero(t, left)
		require.NoError(t, b.DeleteTopic(t.Context(), b.topic), "twice is once")

		b.publish(t, newMessages("after", 2)...)
		require.ElementsMatch(t, []string{"after-0", "after-1"}, receiveDistinct(t, b.subscribe(t, "two"), 2))
	})
}

func TestDeletingWhatCannotBeATopicSaysSo(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		require.ErrorIs(t, b.DeleteTopic(t.Context(), ""), brokers.ErrTopic)
		if name := strings.Repeat("a", 300); b.Publisher.Publish(name, newMessages("k", 1)...) != nil {
			require.ErrorIs(t, b.DeleteTopic(t.Context(), name), brokers.ErrTopic)
		}
		require.NoError(t, b.Close())
		require.ErrorIs(t, b.DeleteTopic(t.Context(), b.topic), brokers.ErrClosed)
	})
}
