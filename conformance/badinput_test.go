package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
)

// badSubscriber is a subscriber with some of its methods replaced.
type badSubscriber struct {
	message.Subscriber

	subscribe func() (<-chan *message.Message, error)
	close     func() error
}

func (s badSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if s.subscribe == nil {
		return s.Subscriber.Subscribe(ctx, topic)
	}

	return s.subscribe()
}

func (s badSubscriber) Close() error {
	if s.close == nil {
		return s.Subscriber.Close()
	}

	return errors.Join(s.close(), s.Subscriber.Close())
}

// withSubscribers has a harness open bad ones.
func withSubscribers(h *conformance.Harness, bad badSubscriber) {
	open := h.Subscriber
	h.Subscriber = func(ctx context.Context, group string) (_ message.Subscriber, err error) {
		opened := bad
		opened.Subscriber, err = open(ctx, group)

		return opened, err
	}
}

// mistake is what a function of a harness does instead of its work, and what the
// report says of it.
type mistake[T any] struct {
	do   func() (T, error)
	said string
}

// mistakes are those that any function can make. What they return is of no use.
func mistakes[T any](doing, none string, forever <-chan struct{}) map[string]mistake[T] {
	var nothing T

	return map[string]mistake[T]{
		"none":   {func() (T, error) { return nothing, nil }, none},
		"fails":  {func() (T, error) { return nothing, errors.New("no route") }, doing + ": no route"},
		"panics": {func() (T, error) { panic("no client") }, doing + " panicked: no client"},
		"hangs": {func() (T, error) {
			<-forever

			return nothing, errors.New("late")
		}, doing + " did not return before the fact's deadline"},
	}
}

// A harness whose functions don't do what they should says nothing about a
// broker: all facts are unknown, with the reason, and nothing waits for long.
func TestWhatAHarnessDoesWrongIsToldAndNeverAPass(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	allUnknown := func(name, said string, spoil func(h *conformance.Harness)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := harness(t, ordered())
			h.Patience = 100 * time.Millisecond
			spoil(&h)
			began := time.Now()
			report, err := conformance.Check(t.Context(), h, conformance.Options{Only: regexp.MustCompile("^(delivery|order)/")})
			require.NoError(t, err)
			require.Len(t, report.Failed(), len(report.Results), report.Text())
			require.Equal(t, len(report.Results), report.Count(conformance.VerdictUnknown), report.Text())
			require.Contains(t, report.Text(), said)
			require.Less(t, time.Since(began), 20*time.Second)
		})
	}

	topics := mistakes[string]("make a topic", "Topic returned an empty name", forever)
	topics["again"] = mistake[string]{func() (string, error) { return "events", nil }, `Topic returned "events" a second time`}
	for name, m := range topics {
		allUnknown("Topic "+name, m.said, func(h *conformance.Harness) {
			h.Topic = func(context.Context) (string, error) { return m.do() }
		})
	}
	for name, m := range mistakes[message.Publisher]("open a publisher", "the harness returned none", forever) {
		allUnknown("Publisher "+name, m.said, func(h *conformance.Harness) {
			h.Publisher = func(context.Context) (message.Publisher, error) { return m.do() }
		})
	}
	for name, m := range mistakes[message.Subscriber]("open a subscriber", "the harness returned no subscriber", forever) {
		allUnknown("Subscriber "+name, m.said, func(h *conformance.Harness) {
			h.Subscriber = func(context.Context, string) (message.Subscriber, error) { return m.do() }
		})
	}
	channels := mistakes[<-chan *message.Message]("subscribe", "Subscribe returned no channel", forever)
	channels["ends at once"] = mistake[<-chan *message.Message]{func() (<-chan *message.Message, error) {
		ended := make(chan *message.Message)
		close(ended)

		return ended, nil
	}, "the subscription of consumer 1 ended by itself"}
	for name, m := range channels {
		allUnknown("Subscribe "+name, m.said, func(h *conformance.Harness) {
			withSubscribers(h, badSubscriber{subscribe: m.do})
		})
	}
	allUnknown("Publish panics", "publish panicked: no client", func(h *conformance.Harness) {
		*h = shutAfter(*h, 0, func() error { panic("no client") })
	})
}

// Names with odd characters go to the broker as they are. What it makes of them
// is its answer.
func TestOddTopicNamesOfAHarnessReachTheBroker(t *testing.T) {
	t.Parallel()
	var number atomic.Int64
	h := harness(t, ordered())
	h.Topic = func(context.Context) (string, error) { return fmt.Sprintf(" a/b ü\n\"%d", number.Add(1)), nil }
	some := only("delivery/what is published arrives", "lifecycle/two topics", "order/per key")
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: some})
	require.NoError(t, err)
	require.Equal(t, len(report.Results), report.Count(conformance.VerdictHolds), report.Text())

	h = shutAfter(h, 0, func() error { return errors.New("invalid topic name") })
	report, err = conformance.Check(t.Context(), h, conformance.Options{Only: some})
	require.NoError(t, err)
	require.Equal(t, len(report.Results), report.Count(conformance.VerdictUnknown))
	require.Contains(t, report.Failed()[0].Note, "publish: invalid topic name")
}

// What panics beside a fact, where nothing waits for it, must not end the program
// either.
func TestPanicsBesideAFactEndNothing(t *testing.T) {
	t.Parallel()
	h := harness(t, ordered())
	h.DeleteTopic = func(context.Context, string) error { panic("DeleteTopic") }
	h.State = func(context.Context, string, string) (string, error) { panic("State") }
	h.Grow = func(context.Context, string) error { panic("Grow") }
	h.Restart = func(context.Context) error { panic("Restart") }
	h.Foreign = func(context.Context, string, []byte) error { panic("Foreign") }
	withSubscribers(&h, badSubscriber{close: func() error { panic("Close") }})
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(
		"delivery/what is published arrives", "delivery/a restart of the broker loses nothing", "order/per key across growth",
		"content/foreign producer", "lifecycle/close twice",
	)})
	require.NoError(t, err)
	verdicts := map[string]conformance.Verdict{}
	for _, r := range report.Results {
		verdicts[r.Fact] = r.Verdict
	}
	require.Equal(t, map[string]conformance.Verdict{
		"delivery/what is published arrives":             conformance.VerdictHolds,
		"delivery/a restart of the broker loses nothing": conformance.VerdictUnknown,
		"order/per key across growth":                    conformance.VerdictUnknown,
		"content/foreign producer":                       conformance.VerdictUnknown,
		"lifecycle/close twice":                          conformance.VerdictNo,
	}, verdicts)
	require.Contains(t, report.Text(), "panicked: Grow")
	require.Contains(t, report.Text(), "the broker says: can't tell: panicked: State")
}

func TestBrokerThatHangsOnCloseIsLeftBehind(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	h := harness(t, ordered())
	h.Patience = 200 * time.Millisecond
	withSubscribers(&h, badSubscriber{close: func() error { <-forever; return nil }})
	began := time.Now()
	some := regexp.MustCompile("^lifecycle/|what is published|acked stays")
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: some})
	require.NoError(t, err)
	require.Less(t, time.Since(began), 30*time.Second)
	require.Zero(t, report.Count(conformance.VerdictUnknown), report.Text())
	for _, r := range report.Results {
		switch r.Fact {
		case "lifecycle/close ends the subscription", "lifecycle/close lets the handler finish", "delivery/acked stays acked":
			require.True(t, r.Failed, r.Fact)
			require.Contains(t, r.Note, "Close of consumer 1 did not return within 200ms")
		case "delivery/what is published arrives":
			require.Equal(t, conformance.VerdictHolds, r.Verdict)
		}
		require.Contains(t, r.Note, "what the fact had opened did not close within 200ms", "%s", r.Fact)
	}
}

// The first fact that breaks the broker opens one for all of them.
func TestBrokerOfItsOwnThatCannotBeOpenedLeavesItsFactsUnknown(t *testing.T) {
	t.Parallel()
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	own := mistakes[conformance.Harness]("open it", "Publisher is nil", forever)
	own["fails"] = mistake[conformance.Harness]{own["fails"].do, "a broker of its own: no route"}
	own["hangs"] = mistake[conformance.Harness]{own["hangs"].do, "the harness's Own did not return within 400ms"}
	for name, m := range own {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := harness(t, ordered())
			h.Patience = 100 * time.Millisecond
			h.Own = func(context.Context) (conformance.Harness, error) { return m.do() }
			report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(
				"delivery/a restart of the broker loses nothing", "network/cut while publishing", "network/cut while receiving",
			)})
			require.NoError(t, err)
			require.Len(t, report.Failed(), 3)
			require.Equal(t, 3, report.Count(conformance.VerdictUnknown), report.Text())
			require.Contains(t, report.Failed()[0].Note, m.said)
		})
	}
}

func TestPublisherThatPanicsWhenItIsCutOffEndsNothing(t *testing.T) {
	t.Parallel()
	h := shutAfter(harness(t, ordered()), 3, func() error { panic("send on closed channel") })
	h.Patience = time.Second
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("network/cut while publishing")})
	require.NoError(t, err)
	require.Len(t, report.Failed(), 1)
	require.Contains(t, strings.Join(report.Failed()[0].History, "\n"), "panicked: send on closed channel")
}

// A broker may be far from everything that facts usually need.
func TestSmallLimitIsNoFault(t *testing.T) {
	t.Parallel()
	config := ordered()
	config.MaxBody = 64
	report, err := conformance.Check(t.Context(), harness(t, config), conformance.Options{
		Only: regexp.MustCompile("^(content|duplicates|order)/"),
	})
	require.NoError(t, err)
	require.Empty(t, report.Failed(), report.Text())
}

func TestSlowBrokerIsUnknownAndPatienceIsAskedFor(t *testing.T) {
	t.Parallel()
	h := harness(t, ordered())
	h.Patience = 200 * time.Millisecond
	h = shutAfter(h, 20, func() error { yieldFor(t, 100*time.Millisecond); return nil })
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("delivery/what is published arrives")})
	require.NoError(t, err)
	require.Len(t, report.Failed(), 1)
	require.Equal(t, conformance.VerdictUnknown, report.Results[0].Verdict)
	require.Contains(t, report.Results[0].Note, "give it more Patience")
}

// yieldFor takes as long as a slow service does.
func yieldFor(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
