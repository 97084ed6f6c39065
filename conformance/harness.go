package conformance

import (
	"context"
	cryptorand "crypto/rand"
	"database/sql"
	"encoding/base32"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
)

// Defaults of a Harness.
const (
	DefaultPatience = 30 * time.Second
	DefaultQuiet    = 3 * time.Second
	DefaultParallel = 8

	// DefaultHandlings is what a continuous integration has time for.
	DefaultHandlings = 2000
)

// SeedVariable is the environment's name for a Harness's Seed.
const SeedVariable = "HEADRACE_CONFORMANCE_SEED"

// Harness says how to use a broker. Its functions may be called concurrently.
type Harness struct {
	// Name of the broker in reports. Required.
	Name string

	// Capabilities are what the broker promises; the suite checks them.
	Capabilities brokers.Capabilities

	// Publisher opens a publisher. The suite closes it. Required.
	Publisher func(ctx context.Context) (message.Publisher, error)

	// Subscriber opens a subscriber of a consumer group: one_ or two_ and random
	// letters and digits, so that facts don't meet in a group. Each call gives one
	// whose Close leaves the others alone; the suite closes it. Required.
	Subscriber func(ctx context.Context, group string) (message.Subscriber, error)

	// Topic makes a topic that nobody else uses and returns its name. Default: a
	// random name of letters, digits and underscores, and nothing made.
	Topic func(ctx context.Context) (string, error)

	// DeleteTopic removes a topic after its fact. Optional.
	DeleteTopic func(ctx context.Context, topic string) error

	// Own returns the harness of an instance of this broker that nobody else uses,
	// for the facts that cut it off and restart it. It is called once, when it is
	// needed, and nothing but Publisher, Subscriber, Topic, DeleteTopic, Restart,
	// Cut and State of it is used; whoever made it ends it after the run. Default:
	// this harness itself, with all other facts waiting meanwhile.
	Own func(ctx context.Context) (Harness, error)

	// Restart ends the broker, best as a crash does, starts it again with its
	// data, and returns when it serves. Optional.
	Restart func(ctx context.Context) error

	// Cut takes the network away between the broker and everything that Publisher
	// and Subscriber opened: connections break, and new ones are refused, until
	// the function that it returns is called. Optional.
	Cut func(ctx context.Context) (mend func(), err error)

	// Consumer starts a consumer in a process of its own, which calls
	// ConsumerMain: facts kill and freeze it. Optional; see Reexec.
	Consumer func(ctx context.Context, spec ConsumerSpec) (Process, error)

	// Join opens a subscriber whose handlers work in the transaction that records
	// their ack, where Capabilities.JoinsTx says that there is such a thing.
	// Handlers that hold a message get some seconds at most. Optional.
	Join func(ctx context.Context, group string) (Joined, error)

	// Grow gives an existing topic more partitions. Optional.
	Grow func(ctx context.Context, topic string) error

	// Foreign publishes a payload as a producer that knows nothing of watermill.
	// Optional.
	Foreign func(ctx context.Context, topic string, payload []byte) error

	// State returns the broker's own words about a topic and group, printed when a
	// fact fails. Optional.
	State func(ctx context.Context, topic, group string) (string, error)

	// Database opens a database for a service of the composition facts: PostgreSQL,
	// MySQL, MariaDB or SQLite. Each call gives a *sql.DB that the suite closes;
	// several may lead to one database, in which the suite's tables have names of
	// their own and are removed in the end. Default: SQLite, in a temporary folder.
	Database func(ctx context.Context) (*sql.DB, error)

	// Handlings is how many messages the longest of the composition facts handles.
	// Default 2,000.
	Handlings int

	// Seed chooses the faults of the composition facts; those that fail name it.
	// How messages meet is the machine's, so that a seed brings back the faults and
	// not each race. Default: the environment's HEADRACE_CONFORMANCE_SEED, or a
	// random one.
	Seed uint64

	// Without leaves out protections of Headrace in the composition facts, which
	// then are to fail. Default: none.
	Without []Protection

	// Known are facts ("group/name") that this broker is known to break, with the
	// reason. They are still tried, and reported as "no" instead of failing.
	Known map[string]string

	// Sometimes are facts that this broker is known to break in some runs and not
	// in others, with the reason. They are tried, and always reported as "no".
	Sometimes map[string]string

	// Bare: without Headrace. What the broker doesn't promise is "no", whatever
	// Headrace would do about it.
	Bare bool

	// Patience is how long to wait for what should come soon. Default 30 s. A
	// fact's own deadline is four times as long.
	Patience time.Duration

	// Quiet is how long nothing must come before "nothing comes" is believed.
	// Default 3 s; more than the broker's longest poll.
	Quiet time.Duration

	// Parallel is how many facts run side by side. Default 8.
	Parallel int
}

// ErrHarness is matched by the errors of a Harness that can't be used.
var ErrHarness = errors.New("the harness can't be used")

// withDefaults checks everything and returns all that is wrong at once.
func (h Harness) withDefaults() (Harness, error) {
	var wrong []error
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	if h.Name == "" {
		bad("Name is empty; name the broker as reports should")
	}
	if h.Publisher == nil {
		bad("Publisher is nil; it opens a publisher")
	}
	if h.Subscriber == nil {
		bad("Subscriber is nil; it opens a subscriber of a group")
	}
	if h.Patience < 0 || h.Quiet < 0 || h.Parallel < 0 || h.Handlings < 0 {
		bad("Patience, Quiet, Parallel and Handlings must not be negative; 0 is the default")
	}
	for _, p := range h.Without {
		if p != Dedupe && p != Outbox {
			bad("Without names %q, which is no protection; there are %q and %q", p, Dedupe, Outbox)
		}
	}
	if h.Seed == 0 {
		var err error
		if h.Seed, err = seed(); err != nil {
			wrong = append(wrong, err)
		}
	}
	for field, facts := range map[string]map[string]string{"Known": h.Known, "Sometimes": h.Sometimes} {
		for name, reason := range facts {
			if reason == "" {
				bad("%s gives no reason for %q", field, name)
			}
			if !slices.ContainsFunc(Facts(), func(f Fact) bool { return f.Name == name }) {
				bad("%s names %q, which is no fact; Facts() lists them", field, name)
			}
		}
	}
	wrong = append(wrong, contradictions(h.Capabilities)...)
	if len(wrong) > 0 {
		list := make([]string, len(wrong))
		for i, err := range wrong {
			list[i] = "\n  - " + err.Error()
		}

		return h, fmt.Errorf("conformance: %w: %q:%s", ErrHarness, h.Name, strings.Join(list, ""))
	}

	if h.Patience == 0 {
		h.Patience = DefaultPatience
	}
	if h.Quiet == 0 {
		h.Quiet = min(DefaultQuiet, h.Patience)
	}
	if h.Parallel == 0 {
		h.Parallel = DefaultParallel
	}
	if h.Handlings == 0 {
		h.Handlings = DefaultHandlings
	}
	if h.Topic == nil {
		h.Topic = func(context.Context) (string, error) { return TopicName(), nil }
	}

	return h, nil
}

// seed is the environment's, or a random one.
func seed() (uint64, error) {
	text := os.Getenv(SeedVariable)
	if text == "" {
		return rand.Uint64(), nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no seed: it must be a number, as a fact that failed has named it", SeedVariable)
	}

	return n, nil
}

// contradictions lists what can't be true together.
func contradictions(c brokers.Capabilities) (wrong []error) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if c.TotalOrder && !c.KeyOrder {
		bad("capabilities contradict: TotalOrder without KeyOrder; what orders all messages orders those of a key")
	}
	if c.TotalOrder && c.Lanes {
		bad("capabilities contradict: TotalOrder with Lanes; where several are in flight at once, there is no total order")
	}
	if c.MaxBody < 0 || c.AckDeadline < 0 || c.Takeover < 0 || c.RedeliveryWindow < 0 || c.SendDedup < 0 {
		bad("capabilities: MaxBody, AckDeadline, Takeover, RedeliveryWindow and SendDedup must not be negative")
	}
	if c.RedeliveryWindow > 0 && c.RedeliveryWindow < c.AckDeadline {
		bad("capabilities contradict: RedeliveryWindow %v is shorter than AckDeadline %v, which is followed by another copy",
			c.RedeliveryWindow, c.AckDeadline)
	}

	return wrong
}

// Opened returns the harness of a broker that brokers.Open opened. The caller
// closes the broker after the run.
func Opened(b *brokers.Broker) Harness {
	h := Harness{
		Name:         b.Capabilities.Name,
		Capabilities: b.Capabilities,
		Publisher:    func(context.Context) (message.Publisher, error) { return b.Publisher, nil },
		Subscriber:   func(_ context.Context, group string) (message.Subscriber, error) { return b.SubscriberFor(group) },
		DeleteTopic:  b.DeleteTopic,
	}
	if backlog := b.Capabilities.Backlog; backlog != nil {
		h.State = func(ctx context.Context, topic, group string) (string, error) {
			n, err := backlog(ctx, topic, group)

			return fmt.Sprintf("%d not acked", n), err
		}
	}

	return h
}

// TopicName returns a name that no topic has yet, conf_ and random letters and
// digits, for a Harness.Topic that makes the topic.
func TopicName() string { return uniqueName("conf") }

// uniqueName returns prefix_random, which every broker takes as a topic.
func uniqueName(prefix string) string { return prefix + "_" + random() }

// random returns 16 random letters and digits.
func random() string {
	const bytes = 10
	var drawn [bytes]byte
	_, _ = cryptorand.Read(drawn[:]) // never fails: it ends the program instead

	return strings.ToLower(base32.StdEncoding.EncodeToString(drawn[:]))
}
