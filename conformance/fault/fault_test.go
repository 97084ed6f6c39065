package fault_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/fault"
	"github.com/headrace-go/headrace/conformance/internal/toy"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// harness is a sound toy behind faults.
func harness(t *testing.T, pc fault.PublisherConfig, sc fault.SubscriberConfig) conformance.Harness {
	t.Helper()
	b := toy.New(toy.Config{KeyOrder: true, Lanes: true, Groups: true, NilPayload: true, MaxBody: 200_000})
	t.Cleanup(b.Close)

	return conformance.Harness{
		Name: "toy with faults",
		Capabilities: brokers.Capabilities{
			KeyOrder: true, Lanes: true, Groups: true, NilPayload: true, MaxBody: 200_000,
		},
		Publisher: func(context.Context) (message.Publisher, error) { return fault.NewPublisher(b.Publisher(), pc) },
		Subscriber: func(_ context.Context, group string) (message.Subscriber, error) {
			return fault.NewSubscriber(b.Subscriber(group), sc)
		},
		Handlings: 100,
		Patience:  4 * time.Second,
		Quiet:     300 * time.Millisecond,
	}
}

func TestWithoutFaultsNothingChanges(t *testing.T) {
	t.Parallel()
	report := conformance.Run(t, harness(t, fault.PublisherConfig{}, fault.SubscriberConfig{}))
	require.Empty(t, report.Failed())
}

func TestTheSuiteFindsTheFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pub  fault.PublisherConfig
		sub  fault.SubscriberConfig
		fact string
	}{
		"publish doubles":  {pub: fault.PublisherConfig{Duplicate: 1}, fact: "duplicates/none without trouble"},
		"publish reorders": {pub: fault.PublisherConfig{Reorder: 1}, fact: "order/per key within a batch"},
		"delivers twice":   {sub: fault.SubscriberConfig{Duplicate: 0.5}, fact: "duplicates/none without trouble"},
		"loses acks":       {sub: fault.SubscriberConfig{DropAck: 0.5}, fact: "duplicates/none without trouble"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report, err := conformance.Check(t.Context(), harness(t, c.pub, c.sub),
				conformance.Options{Only: regexp.MustCompile("^" + c.fact + "$")})
			require.NoError(t, err)
			require.Len(t, report.Failed(), 1, report.Text())
			require.Equal(t, conformance.VerdictNo, report.Results[0].Verdict)
		})
	}
}

// recorder is a publisher that notes what it is given.
type recorder struct{ calls []string }

func (r *recorder) Publish(_ string, messages ...*message.Message) error {
	var call strings.Builder
	for _, msg := range messages {
		call.WriteString(msg.UUID)
	}
	r.calls = append(r.calls, call.String())

	return nil
}

func (*recorder) Close() error { return nil }

func batch() []*message.Message {
	var all []*message.Message
	for _, id := range []string{"a", "b", "c", "d"} {
		all = append(all, message.NewMessage(id, nil))
	}

	return all
}

func TestPublisherFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config fault.PublisherConfig
		fails  bool
		sent   string
	}{
		"none":       {fault.PublisherConfig{}, false, `^\[abcd\]$`},
		"FailBefore": {fault.PublisherConfig{FailBefore: 1}, true, `^\[\]$`},
		"FailAfter":  {fault.PublisherConfig{FailAfter: 1}, true, `^\[abcd\]$`},
		"Partial":    {fault.PublisherConfig{Partial: 1}, true, `^\[(a|ab|abc)\]$`},
		"Duplicate":  {fault.PublisherConfig{Duplicate: 1}, false, `^\[abcd abcd\]$`},
		"Reorder":    {fault.PublisherConfig{Reorder: 1, Seed: 3}, false, `^\[[a-d]{4}\]$`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := &recorder{}
			pub, err := fault.NewPublisher(sent, c.config)
			require.NoError(t, err)
			err = pub.Publish("topic", batch()...)
			require.Equal(t, c.fails, err != nil)
			if c.fails {
				require.ErrorIs(t, err, fault.ErrInjected)
				require.ErrorContains(t, err, name)
			}
			require.Regexp(t, c.sent, fmt.Sprint(sent.calls))
			if name != "none" {
				require.Equal(t, name, pub.Injected()[0].What)
			}
			require.NoError(t, pub.Close())
		})
	}
}

func TestASeedReplays(t *testing.T) {
	t.Parallel()
	run := func(seed uint64) ([]string, []fault.Injected) {
		sent := &recorder{}
		pub, err := fault.NewPublisher(sent, fault.PublisherConfig{
			Seed: seed, FailBefore: 0.2, FailAfter: 0.2, Partial: 0.2, Duplicate: 0.2, Reorder: 0.2, MaxDelay: time.Microsecond,
		})
		require.NoError(t, err)
		for range 100 {
			_ = pub.Publish("topic", batch()...)
		}

		return sent.calls, pub.Injected()
	}
	sent, injected := run(1)
	again, injectedAgain := run(1)
	require.Equal(t, sent, again)
	require.Equal(t, injected, injectedAgain)
	other, _ := run(2)
	require.NotEqual(t, sent, other)
	require.Greater(t, len(injected), 20)
}

func TestBadConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	_, err := fault.NewPublisher(&recorder{}, fault.PublisherConfig{FailBefore: 1.5, Reorder: -1})
	require.ErrorContains(t, err, "FailBefore must be a probability")
	require.ErrorContains(t, err, "Reorder")
	_, err = fault.NewPublisher(nil, fault.PublisherConfig{})
	require.Error(t, err)
	_, err = fault.NewSubscriber(nil, fault.SubscriberConfig{})
	require.Error(t, err)
}

func TestReorderLetsTheNextMessageOvertake(t *testing.T) {
	t.Parallel()
	b := toy.New(toy.Config{KeyOrder: true, Lanes: true, Groups: true})
	t.Cleanup(b.Close)
	sub, err := fault.NewSubscriber(b.Subscriber("one"), fault.SubscriberConfig{Seed: 1, Reorder: 0.5, MaxHold: time.Minute})
	require.NoError(t, err)
	const n = 20
	messages, err := sub.Subscribe(t.Context(), "topic")
	require.NoError(t, err)
	for i := range n {
		require.NoError(t, b.Publisher().Publish("topic", message.NewMessage(fmt.Sprint(i), nil)))
	}
	var order []string
	for range n - 1 { // the last may be held for its minute
		msg := <-messages
		order = append(order, msg.UUID)
		msg.Ack()
	}
	require.NotEmpty(t, sub.Injected())
	moved := 0
	for i, id := range order {
		if id != fmt.Sprint(i) {
			moved++
		}
	}
	require.Positive(t, moved, "%v", order)
	require.NoError(t, sub.Close())
}
