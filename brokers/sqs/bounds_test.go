package sqs_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestTooLargeIsRefusedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_large")
	b := open(t, "group=g")
	binary := keyed("k", "")
	binary.Payload = bytes.Repeat([]byte{0xff}, b.Capabilities.MaxBody)
	heavy := keyed("k", "x")
	heavy.Metadata["big"] = strings.Repeat("v", 300000)
	for _, msg := range []*message.Message{keyed("k", strings.Repeat("a", 300000)), binary, heavy} {
		err := b.Publisher.Publish(topic, keyed("k", "first"), msg)
		var refused *brokers.RefusedError
		require.ErrorAs(t, err, &refused)
		require.ErrorIs(t, err, brokers.ErrTooLarge)
		require.Equal(t, 1, refused.Index)
	}
	n, err := b.Capabilities.Backlog(t.Context(), topic, "g")
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestTopicsThatAreNoQueueNames(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs") + ".events/ü"
	for _, option := range kinds {
		b := open(t, option, "group=g")
		messages, err := b.Subscriber.Subscribe(t.Context(), topic)
		require.NoError(t, err)
		require.NoError(t, b.Publisher.Publish(topic, keyed("k", option)))
		got := receive(t, messages)
		require.Equal(t, option, string(got.Payload))
		got.Ack()
	}
}

func TestMissingQueueIsAnErrorWithoutCreate(t *testing.T) {
	t.Parallel()
	b := open(t, "group=g&create=false")
	_, err := b.Subscriber.Subscribe(t.Context(), testenv.Topic(t, "sqs_none"))
	require.ErrorContains(t, err, "create=true")
	require.ErrorContains(t, b.Publisher.Publish(testenv.Topic(t, "sqs_none"), keyed("k", "x")), "create=true")
}

func TestUnreachableEndpointAndBadOptions(t *testing.T) {
	t.Parallel()
	const secrets = "access_key=AKIASECRETID&secret_key=verysecret"
	_, err := brokers.Open(t.Context(), "sqs://127.0.0.1:1?region=x&connect_timeout=300ms&"+secrets, config())
	var unreachable *brokers.UnreachableError
	require.ErrorAs(t, err, &unreachable)
	require.GreaterOrEqual(t, unreachable.Tried, 250*time.Millisecond)
	require.ErrorContains(t, err, "sqs://127.0.0.1:1")
	require.NotContains(t, err.Error(), "verysecret")
	require.NotContains(t, err.Error(), "AKIASECRETID")

	for option, part := range map[string]string{
		"visibility=1500ms": "whole seconds", "wait=21s": "20s", "nack_delay=0s": "hot loop", "max_message=2000000": "1048576",
		"max_body=300000": "max_message",
		"vissibility=1s":  "visibility", "receivers=0": "at least 1", "secret_key=": "together",
	} {
		_, err := brokers.Open(t.Context(), "sqs://127.0.0.1:1?region=x&access_key=a&"+option, config())
		require.ErrorIs(t, err, brokers.ErrBadOption, option)
		require.ErrorContains(t, err, part)
	}
	_, err = brokers.Open(t.Context(), "sqs://user:pw@127.0.0.1:1?region=x", config())
	require.ErrorIs(t, err, brokers.ErrBadURL)
}

func TestPayloadsAndMetadataStayOutOfTheLog(t *testing.T) {
	t.Parallel()
	topic := testenv.Topic(t, "sqs_log")
	logger := watermill.NewCaptureLogger()
	cfg := config()
	cfg.Logger = logger
	b, err := brokers.Open(t.Context(), withOptions(t, "group=g"), cfg)
	require.NoError(t, err)
	messages, err := b.Subscriber.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	sent := keyed("k", "confidential-payload")
	sent.Metadata["m"] = "confidential-entry"
	require.NoError(t, b.Publisher.Publish(topic, sent))
	receive(t, messages).Ack()
	require.NoError(t, b.Close())
	lines := fmt.Sprintf("%+v", logger.Captured())
	require.Contains(t, lines, sent.UUID)
	require.NotContains(t, lines, "confidential")
}
