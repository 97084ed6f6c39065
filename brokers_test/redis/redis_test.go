// Package redis_test tries a pub/sub that was written without a look at the
// conformance suite, watermill-redisstream, on a Redis in this process. It is a
// module of its own, so that no user of Headrace has its dependencies in go.mod.
package redis_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
)

// TestRedisStreamConforms is a harness as a stranger would write it, and what it
// found out about redisstream v1.4.5.
func TestRedisStreamConforms(t *testing.T) {
	server := miniredis.RunT(t)
	client := func() redis.UniversalClient { return redis.NewClient(&redis.Options{Addr: server.Addr()}) }

	const deadline = 2 * time.Second // after which a message is claimed from who holds it

	report := conformance.Run(t, conformance.Harness{
		Name:         "redisstream",
		Capabilities: brokers.Capabilities{Groups: true, Durable: true, AckDeadline: deadline, Takeover: deadline},
		Publisher: func(context.Context) (message.Publisher, error) {
			return redisstream.NewPublisher(redisstream.PublisherConfig{Client: client()}, watermill.NopLogger{})
		},
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
			return redisstream.NewSubscriber(redisstream.SubscriberConfig{
				Client: client(), ConsumerGroup: group, DisableIndefiniteInitialBlock: true,
				BlockTime: 20 * time.Millisecond, ClaimInterval: 200 * time.Millisecond, MaxIdleTime: deadline,
				NackResendSleep: 20 * time.Millisecond,
			}, watermill.NopLogger{})
		},
		Known: map[string]string{
			"lifecycle/close lets the handler finish":             "the end of a subscription cancels its messages at once",
			"content/the same on redelivery":                      "the payload's bytes are shared by all copies",
			"transactions/effects of a handler past its deadline": "what is held too long comes again only to another consumer",
		},
		Patience: 10 * time.Second,
		Quiet:    500 * time.Millisecond,
	})
	for _, r := range report.Results {
		require.Empty(t, r.Declaration, "%s is declared otherwise than it is: %s", r.Fact, r.Note)
	}
}
