package brokers_test

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv"
)

// brokerCase is one kind of broker under test.
type brokerCase struct {
	name string
	// url returns the URL of a broker that no other test uses, or on which
	// unique topics are enough. Two brokers opened by it share their messages
	// where shared is true.
	url func(t *testing.T) string
	// quick are the options with which it redelivers quickly.
	quick map[string]string
	// topic returns a topic that no other test uses. Default: testenv.Topic.
	topic func(t *testing.T) string
	// shared: what one opened broker publishes another one, opened by the same
	// URL, hears.
	shared bool
	// unreachable is a URL of this kind where nothing answers; "" when there is
	// no such thing.
	unreachable string
	// limit is the option that sets the largest body, "" where it is fixed.
	limit string
	// conformance are options for the conformance suite, beside the quick ones.
	conformance map[string]string
	// hooks adds to the conformance suite's harness. Optional.
	hooks func(t *testing.T, rawURL string, h *conformance.Harness)
	// parallel is how many facts run at once, where it must be less than usual.
	parallel int
	// known are the facts that the broker is known to break, with the reason.
	known map[string]string
	// sometimes are those that it breaks in some runs.
	sometimes map[string]string
	// service: it needs a running service, so -short leaves it out.
	service bool
}

// cases are the kinds of broker that can be tried: with -short, those that need
// no service.
func cases(t *testing.T) []brokerCase {
	t.Helper()

	all := everyCase()
	chosen := all[:0]
	for _, c := range all {
		if !c.service || !testing.Short() {
			chosen = append(chosen, c)
		}
	}

	return chosen
}

// everyCase are all kinds of broker, one line of options each.
func everyCase() []brokerCase {
	return []brokerCase{
		{
			name:  "mem",
			url:   func(*testing.T) string { return "mem:" },
			quick: map[string]string{"nack_delay": "20ms"},
			limit: "max_body",
		},
		{
			name: "mem-file",
			url: func(t *testing.T) string {
				t.Helper()
				return "mem:?file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue #1.db"))
			},
			// Claims outlast a machine too busy to extend them in time.
			quick:       map[string]string{"nack_delay": "20ms", "poll": "10ms", "ack_deadline": "2m"},
			shared:      true,
			unreachable: "mem:?file=/nowhere/at/all/queue.db",
			limit:       "max_body",
		},
		{
			name: "postgres",
			url: func(t *testing.T) string {
				t.Helper()

				return testenv.Postgres(t)
			},
			quick:       map[string]string{"nack_delay": "20ms", "poll_max": "20ms"},
			shared:      true,
			unreachable: "postgres://user:hunter2@127.0.0.1:1/db",
			limit:       "max_body",
			service:     true,
		},
		{
			name: "mariadb",
			url: func(t *testing.T) string {
				t.Helper()

				return testenv.MariaDB(t)
			},
			quick:       map[string]string{"nack_delay": "20ms", "poll_max": "20ms"},
			shared:      true,
			unreachable: "mariadb://user:hunter2@127.0.0.1:1/db",
			limit:       "max_body",
			service:     true,
		},
		{
			name:        "kafka",
			url:         func(t *testing.T) string { return testenv.Kafka(t) },
			quick:       map[string]string{"nack_delay": "20ms"},
			shared:      true,
			hooks:       withKafka,
			sometimes:   sometimesOfKafka,
			unreachable: "kafka://user:hunter2@127.0.0.1:1",
			limit:       "max_body",
			service:     true,
		},
		sqsCase("sqs", "false"),
		sqsCase("sqs-fifo", "true"),
	}
}

var sometimesOfKafka = map[string]string{
	"order/per key across growth": "Kafka puts keys elsewhere when a topic grows, consumers look for partitions every 10 minutes",
}

func sqsCase(name, fifo string) brokerCase {
	// ElasticMQ turns in a circle, a processor a poll, while receivers wait for a
	// FIFO queue whose messages are all behind one in hand.
	parallel, receivers := 0, "8"
	if fifo == "true" {
		parallel, receivers = 4, "5"
	}

	return brokerCase{
		parallel:    parallel,
		name:        name,
		url:         func(t *testing.T) string { return testenv.SQS(t) },
		quick:       map[string]string{"nack_delay": "20ms", "fifo": fifo},
		conformance: map[string]string{"visibility": "10s", "receivers": receivers},
		hooks:       func(t *testing.T, _ string, h *conformance.Harness) { withSQS(t, fifo == "true", h) },
		shared:      true,
		unreachable: "sqs://127.0.0.1:1?region=us-east-1&access_key=user&secret_key=hunter2",
		limit:       "max_body",
		service:     true,
	}
}

// patience bounds every wait of a test for something that should come soon.
const patience = 60 * time.Second

// bundle is one open broker of a case, with a topic of its own.
type bundle struct {
	*brokers.Broker
	brokerCase

	rawURL string
	topic  string
}

// onEach runs a test on every kind of broker, in parallel.
func onEach(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()

	for _, c := range cases(t) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			test(t, setup(t, c))
		})
	}
}

func setup(t *testing.T, c brokerCase) *bundle {
	t.Helper()

	b := &bundle{brokerCase: c, rawURL: withOptions(t, c.url(t), c.quick)}
	b.Broker = open(t, b.rawURL)
	if c.topic != nil {
		b.topic = c.topic(t)
	} else {
		b.topic = testenv.Topic(t, "suite")
	}

	return b
}

func open(t *testing.T, rawURL string) *brokers.Broker {
	t.Helper()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := brokers.Open(ctx, rawURL, brokers.Config{Openers: all.Openers(), Group: "one", Logger: testLogger{t}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	return b
}

func withOptions(t *testing.T, rawURL string, options map[string]string) string {
	t.Helper()

	for name, value := range options {
		separator := "?"
		if strings.Contains(rawURL, "?") {
			separator = "&"
		}
		rawURL += separator + name + "=" + url.QueryEscape(value)
	}

	return rawURL
}
