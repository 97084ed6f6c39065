package brokers_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
)

// kept is a publisher that others use too.
type kept struct{ message.Publisher }

func (kept) Close() error { return nil }

// TestGoChannelConforms tries a pub/sub that was written without a look at
// the suite, with a harness as a stranger would write it. What a subscription
// has not acked when it ends is gone, and there are no groups.
func TestGoChannelConforms(t *testing.T) {
	t.Parallel()
	pubSub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, pubSub.Close()) })

	const gone, everybody = "nothing is kept for a later subscription", "each subscription is given every message"
	report := conformance.Run(t, conformance.Harness{
		Name:         "gochannel",
		Capabilities: brokers.Capabilities{Lanes: true, NilPayload: true},
		Publisher:    func(context.Context) (message.Publisher, error) { return kept{pubSub}, nil },
		Subscriber:   func(context.Context, string) (message.Subscriber, error) { return conformance.View(pubSub), nil },
		Known: map[string]string{
			"delivery/nack is no hot loop":                     "a nacked message comes again at once",
			"delivery/in hand at close comes again":            gone,
			"delivery/consumers that come and go lose nothing": gone,
			"delivery/before anybody listens":                  gone,
			"concurrency/one message in one hand":              everybody,
			"groups/consumers of one share":                    everybody,
			"groups/progress is kept":                          gone,
			"content/the same on redelivery":                   "the payload's bytes are shared by all copies",
			"content/copies":                                   "the payload's bytes are shared by all copies",
			"lifecycle/close lets the handler finish":          "the end of a subscription cancels its messages at once",
			"lifecycle/close while nobody reads":               gone,
			"lifecycle/ack after close":                        gone,
			"composition/a ring of two services":               gone,
			"composition/a crash at any step":                  gone,
		},
		Patience: 3 * time.Second,
		Quiet:    300 * time.Millisecond,
	})
	for _, r := range report.Results {
		require.Empty(t, r.Declaration, "%s is declared otherwise than it is: %s", r.Fact, r.Note)
	}
}
