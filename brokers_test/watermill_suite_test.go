package brokers_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/msgmeta"
)

// watermillCases say what watermill's own suite may expect of each broker. What a
// row leaves out is skipped by the suite, for the reason beside it. Left out by
// all:
//
//   - ExactlyOnceDelivery: every broker delivers at least once, and with it the
//     suite leaves out its close tests.
//   - RestartServiceCommand (TestReconnect): the services are shared with other
//     tests; the conformance suite restarts some of its own.
//   - ContextPreserved: a message's context stays in the publisher's process.
var watermillCases = map[string]tests.Features{
	"mem": {
		ConsumerGroups: true, GuaranteedOrder: true, NewSubscriberReceivesOldMessages: true,
		// As long as its process lives, and the suite doesn't kill it.
		Persistent: true,
	},
	// ForceShort: 100 messages instead of 10,000 and 10 subscribers instead of 50.
	// The full size nacks 300 times, each a transaction and a pause on the SQL
	// brokers, syncs 10,000 publishes to a file one by one, and holds 400 polls on
	// an emulated FIFO queue.
	"mem-file": {
		ConsumerGroups: true, GuaranteedOrder: true, NewSubscriberReceivesOldMessages: true, Persistent: true, ForceShort: true,
	},
	"postgres": {
		ConsumerGroups: true, GuaranteedOrder: true, NewSubscriberReceivesOldMessages: true, Persistent: true, ForceShort: true,
	},
	"mariadb": {
		ConsumerGroups: true, GuaranteedOrder: true, NewSubscriberReceivesOldMessages: true, Persistent: true, ForceShort: true,
	},
	"kafka": {
		ConsumerGroups: true, GuaranteedOrder: true, NewSubscriberReceivesOldMessages: true, Persistent: true, ForceShort: true,
	},
	// SQS has no groups, and what was acked is gone for later subscribers. A
	// standard queue has no order.
	"sqs":      {Persistent: true, ForceShort: true},
	"sqs-fifo": {Persistent: true, GuaranteedOrder: true, ForceShort: true},
}

// TestWatermillSuite runs the suite that watermill has for its own pub/subs on
// every broker as Headrace opens it.
func TestWatermillSuite(t *testing.T) {
	t.Parallel()
	for _, c := range cases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			features, ok := watermillCases[c.name]
			require.True(t, ok, "the broker has a row in watermillCases")
			s := newWatermillSuite(t, c, "2s")
			tests.TestPubSub(t, features, s.pubSub, s.groupPubSub)
		})
	}
}

// TestWatermillStress runs it ten times side by side, on the broker that burdens
// no disk and no service of other tests.
func TestWatermillStress(t *testing.T) {
	if testing.Short() {
		t.Skip("ten times TestWatermillSuite")
	}
	t.Parallel()
	for _, c := range cases(t) {
		if c.name != "mem" {
			continue
		}
		features := watermillCases[c.name]
		features.ForceShort = true
		s := newWatermillSuite(t, c, "200ms")
		tests.TestPubSubStressTest(t, features, s.pubSub, s.groupPubSub)
	}
}

// watermillSuite opens brokers for the suite. Where they share their messages
// each pub/sub is opened on its own, as another process would.
type watermillSuite struct {
	rawURL string
	shared *brokers.Broker // nil where each pub/sub is opened on its own

	mu     sync.Mutex
	topics map[string]bool
}

func newWatermillSuite(t *testing.T, c brokerCase, drain string) *watermillSuite {
	t.Helper()

	options := map[string]string{"drain": drain}
	switch c.name {
	case "kafka", "sqs", "sqs-fifo":
		options["nack_delay_max"] = "100ms" // a test nacks 300 times
	}
	s := &watermillSuite{rawURL: withOptions(t, withOptions(t, c.url(t), c.quick), options), topics: map[string]bool{}}
	b := open(t, s.rawURL)
	if !c.shared {
		s.shared = b
	}
	t.Cleanup(func() {
		for topic := range s.topics {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
			require.NoError(t, b.DeleteTopic(ctx, topic))
			cancel()
		}
	})

	return s
}

// pubSub gives all pub/subs of a test one group, as they share the work; those
// of this one test are meant to hear everything each.
func (s *watermillSuite) pubSub(t *testing.T) (message.Publisher, message.Subscriber) {
	t.Helper()

	group := "one"
	if strings.Contains(t.Name(), "/TestNewSubscriberReceivesOldMessages/") {
		group = "g" + watermill.NewShortUUID()
	}

	return s.groupPubSub(t, group)
}

func (s *watermillSuite) groupPubSub(t *testing.T, group string) (message.Publisher, message.Subscriber) {
	t.Helper()

	b := s.shared
	if b == nil {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var err error
		b, err = brokers.Open(ctx, s.rawURL, brokers.Config{Openers: all.Openers()})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
	}
	sub, err := b.SubscriberFor(group)
	require.NoError(t, err)

	// Watermill knows no keys: its tests of the order want it per payload.
	keyed := strings.Contains(t.Name(), "/TestPublishSubscribeInOrder/") || strings.Contains(t.Name(), "/TestNoAck/")

	return suitePublisher{b.Publisher, s, keyed}, sub
}

// suitePublisher notes the topics to remove, and gives messages a key.
type suitePublisher struct {
	message.Publisher

	suite *watermillSuite
	keyed bool
}

func (p suitePublisher) Publish(topic string, msgs ...*message.Message) error {
	p.suite.mu.Lock()
	p.suite.topics[topic] = true
	p.suite.mu.Unlock()
	if p.keyed {
		for _, msg := range msgs {
			msgmeta.SetKey(msg, string(msg.Payload))
		}
	}

	return p.Publisher.Publish(topic, msgs...)
}
