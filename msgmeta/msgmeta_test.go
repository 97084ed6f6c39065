package msgmeta_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
)

func TestRoundTrips(t *testing.T) {
	t.Parallel()

	msg := message.NewMessage("1", nil)
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("CET", 3600))
	msgmeta.SetKey(msg, "product-1")
	msgmeta.SetVersion(msg, "7")
	msgmeta.SetEventTime(msg, at)
	msgmeta.SetExpires(msg, at)
	number := msgmeta.Number{Producer: "orders", Key: "product-1", Epoch: 7, Sequence: 42}
	msgmeta.SetNumber(msg, number)
	msgmeta.SetAttempt(msg, 3)

	require.Equal(t, "product-1", msgmeta.GetKey(msg))
	version, ok := msgmeta.GetVersion(msg)
	require.True(t, ok)
	require.Equal(t, "7", version)
	got, ok, err := msgmeta.GetEventTime(msg)
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, at.Equal(got))
	got, ok, err = msgmeta.GetExpires(msg)
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, at.Equal(got))
	msgmeta.SetExpires(msg, time.Time{})
	_, ok, err = msgmeta.GetExpires(msg)
	require.NoError(t, err)
	require.False(t, ok)
	counted, ok, err := msgmeta.GetNumber(msg)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, number, counted)
	require.False(t, msgmeta.IsSkip(msg))
	msgmeta.SetSkip(msg)
	require.True(t, msgmeta.IsSkip(msg))
	attempt, _, err := msgmeta.GetAttempt(msg)
	require.NoError(t, err)
	require.EqualValues(t, 3, attempt)
}

func TestAnEmptyKeyIsNoKey(t *testing.T) {
	t.Parallel()

	msg := message.NewMessage("1", nil)
	msgmeta.SetKey(msg, "a")
	msgmeta.SetKey(msg, "")
	require.NotContains(t, msg.Metadata, msgmeta.Key)
}

func TestUnreadableEntriesAreErrorsAndNotZeroes(t *testing.T) {
	t.Parallel()

	for _, value := range []string{"", "x", "0", "-1", "1.5", "99999999999999999999"} {
		msg := message.NewMessage("1", nil)
		msgmeta.SetNumber(msg, msgmeta.Number{Producer: "orders", Sequence: 1})
		msg.Metadata[msgmeta.Epoch] = value
		_, ok, err := msgmeta.GetNumber(msg)
		require.True(t, ok)
		require.ErrorIs(t, err, msgmeta.ErrMalformed, "epoch %q", value)
		delete(msg.Metadata, msgmeta.Epoch)
		msg.Metadata[msgmeta.Sequence] = value
		_, ok, err = msgmeta.GetNumber(msg)
		require.True(t, ok)
		require.ErrorIs(t, err, msgmeta.ErrMalformed, "value %q", value)
	}
	msg := message.NewMessage("1", nil)
	msg.Metadata[msgmeta.Sequence] = "1"
	_, ok, err := msgmeta.GetNumber(msg)
	require.True(t, ok)
	require.ErrorIs(t, err, msgmeta.ErrMalformed, "nobody has given it")
	msg.Metadata[msgmeta.EventTime] = "yesterday"
	_, _, err = msgmeta.GetEventTime(msg)
	require.ErrorIs(t, err, msgmeta.ErrMalformed)
	for _, value := range []string{"", "tomorrow", "1700000000", "2026-03-01 12:00:00"} {
		msg.Metadata[msgmeta.Expires] = value
		_, ok, err := msgmeta.GetExpires(msg)
		require.True(t, ok)
		require.ErrorIs(t, err, msgmeta.ErrMalformed, "value %q", value)
	}
}

func TestStripDeliveryKeepsWhatTheContentSays(t *testing.T) {
	t.Parallel()

	msg := message.NewMessage("1", nil)
	msgmeta.SetKey(msg, "k")
	msgmeta.SetVersion(msg, "1")
	msgmeta.SetNumber(msg, msgmeta.Number{Producer: "p", Key: "k", Epoch: 1, Sequence: 1})
	msgmeta.SetSkip(msg)
	msgmeta.SetAttempt(msg, 2)
	msg.Metadata["mine"] = "x"

	msgmeta.StripDelivery(msg)
	require.Equal(t, message.Metadata{
		msgmeta.Key: "k", msgmeta.Version: "1", "mine": "x",
	}, msg.Metadata)
}
