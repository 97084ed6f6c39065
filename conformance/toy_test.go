package conformance_test

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// toyDeadline outlasts a busy machine's pauses.
const toyDeadline = 2 * time.Second

// Kinds of toy: both sides of each guarantee are somewhere.
func ordered() toy.Config {
	return toy.Config{KeyOrder: true, Lanes: true, Groups: true, NilPayload: true, MaxBody: 200_000}
}

func total() toy.Config {
	return toy.Config{KeyOrder: true, TotalOrder: true, Groups: true, AckDeadline: toyDeadline}
}

func plain() toy.Config {
	return toy.Config{Lanes: true, AckDeadline: toyDeadline, OneGroup: brokers.ErrOneGroup}
}

func joined() toy.Config {
	c := ordered()
	c.Joins, c.SendDedup = true, true

	return c
}

// harness opens a toy and says what it would promise if it were sound.
func harness(t *testing.T, c toy.Config) conformance.Harness {
	t.Helper()

	b := toy.New(c)
	t.Cleanup(b.Close)

	h := conformance.Harness{
		Name: "toy",
		Capabilities: brokers.Capabilities{
			Groups: c.Groups, KeyOrder: c.KeyOrder, TotalOrder: c.TotalOrder, Lanes: c.Lanes, Durable: true,
			NilPayload: c.NilPayload, MaxBody: c.MaxBody, AckDeadline: c.AckDeadline, Takeover: c.AckDeadline,
		},
		Publisher:  func(context.Context) (message.Publisher, error) { return b.Publisher(), nil },
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) { return b.Subscriber(group), nil },
		Restart:    func(context.Context) error { b.Restart(); return nil },
		Cut:        func(context.Context) (func(), error) { b.Cut(); return b.Mend, nil },
		Consumer: func(_ context.Context, spec conformance.ConsumerSpec) (conformance.Process, error) {
			return startToy(b, b.Subscriber(spec.Group), spec.Topic), nil
		},
		Grow:      func(context.Context, string) error { return nil },
		Foreign:   func(_ context.Context, topic string, payload []byte) error { b.Foreign(topic, payload); return nil },
		Handlings: 100,
		Patience:  4 * time.Second,
		Quiet:     300 * time.Millisecond,
	}
	if c.SendDedup {
		h.Capabilities.SendDedup = time.Minute
	}
	if c.Joins {
		h.Capabilities.JoinsTx = true
		h.Join = joinToy(t, b, c.Faults)
	}

	return h
}

func TestSoundToysPass(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]toy.Config{
		"ordered": ordered(), "joined": joined(), "total": total(), "plain": plain(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var facts []string
			for _, f := range conformance.Facts() {
				if !f.Busy { // see TestServicesOnSoundToysPass
					facts = append(facts, f.Name)
				}
			}
			report, err := conformance.Check(t.Context(), harness(t, config), conformance.Options{Only: only(facts...)})
			require.NoError(t, err)
			require.Empty(t, report.Failed(), report.Text())
			require.Len(t, report.Results, len(facts))
			for _, r := range report.Results {
				require.Empty(t, r.Declaration, "%s: %s", r.Fact, r.Note)
			}
		})
	}
}

// only matches facts by their whole names.
func only(facts ...string) *regexp.Regexp {
	quoted := make([]string, len(facts))
	for i, fact := range facts {
		quoted[i] = regexp.QuoteMeta(fact)
	}

	return regexp.MustCompile("^(" + strings.Join(quoted, "|") + ")$")
}
