package conformance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
)

func TestBadHarnessIsRefusedWithAllThatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := conformance.Check(t.Context(), conformance.Harness{
		Capabilities: brokers.Capabilities{
			TotalOrder: true, Lanes: true, MaxBody: -1, AckDeadline: time.Hour, RedeliveryWindow: time.Minute,
		},
		Known:    map[string]string{"order/of magnitude": "no such fact"},
		Patience: -1,
		Without:  []conformance.Protection{"luck"},
	}, conformance.Options{})
	require.ErrorIs(t, err, conformance.ErrHarness)
	for _, text := range []string{
		"Name is empty", "Publisher is nil", "Subscriber is nil", "TotalOrder without KeyOrder", "TotalOrder with Lanes",
		"MaxBody", "RedeliveryWindow 1m0s is shorter than AckDeadline 1h0m0s", `"order/of magnitude"`, "Patience", `"luck"`,
	} {
		require.ErrorContains(t, err, text)
	}

	_, err = conformance.Check(t.Context(), harness(t, ordered()), conformance.Options{Only: only("no/such")})
	require.ErrorContains(t, err, "no fact's name matches")
}

func TestDeclarationsThatAreTooBoldOrTooModestAreTold(t *testing.T) {
	t.Parallel()
	h := harness(t, plain())
	h.Capabilities.KeyOrder = true // it isn't so
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("order/per key within a batch")})
	require.NoError(t, err)
	require.Len(t, report.Failed(), 1)
	require.Equal(t, conformance.TooBold, report.Results[0].Declaration)
	require.Contains(t, report.Text(), "KeyOrder is declared")

	h = harness(t, ordered())
	h.Capabilities.Groups = false
	report, err = conformance.Check(t.Context(), h, conformance.Options{Only: only(
		"groups/each hears everything", "groups/a late one hears the past", "groups/failures stay in their group",
		"composition/two services on one topic",
	)})
	require.NoError(t, err)
	require.Empty(t, report.Failed())
	require.Equal(t, conformance.VerdictOpen, report.Results[0].Verdict)
	require.Equal(t, conformance.TooModest, report.Results[0].Declaration)

	h = harness(t, total())
	h.Capabilities.KeyOrder, h.Capabilities.TotalOrder = false, false
	report, err = conformance.Check(t.Context(), h, conformance.Options{})
	require.NoError(t, err)
	modest := map[string]bool{}
	for _, r := range report.Results {
		if r.Declaration == conformance.TooModest {
			modest[r.Needs] = true
		}
	}
	require.Equal(t, map[string]bool{"KeyOrder": true, "TotalOrder": true}, modest, report.Text())
}

// One consumer alone may see a total order of a broker that several consumers see
// none of: declaring it would contradict the rest.
func TestTotalOrderIsNotTooModestWithoutKeyOrder(t *testing.T) {
	t.Parallel()
	for keyOrder, want := range map[bool]string{true: conformance.TooModest, false: ""} {
		h := harness(t, total())
		h.Capabilities.TotalOrder, h.Capabilities.KeyOrder = false, keyOrder
		report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(
			"order/per key", "order/total", "order/total with nacks",
		)})
		require.NoError(t, err)
		require.Equal(t, "order/total", report.Results[1].Fact)
		require.Equal(t, want, report.Results[1].Declaration)
	}
}

func TestWhatABrokerIsKnownToBreakIsReportedAndFailsNothing(t *testing.T) {
	t.Parallel()
	config := ordered()
	config.Faults = []toy.Fault{toy.HotLoop}
	h := harness(t, config)
	h.Known = map[string]string{"delivery/nack is no hot loop": "it is a toy", "delivery/nacked comes again": "it isn't so"}
	report, err := conformance.Check(t.Context(), h,
		conformance.Options{Only: only("delivery/nack is no hot loop", "delivery/nacked comes again")})
	require.NoError(t, err)
	require.Empty(t, report.Failed())
	require.Equal(t, conformance.VerdictHolds, report.Results[0].Verdict)
	require.Equal(t, conformance.TooModest, report.Results[0].Declaration)
	require.Equal(t, conformance.VerdictNo, report.Results[1].Verdict)
	require.Contains(t, report.Text(), "known: it is a toy")
}

// gate lets publishes through until it is shut; then they hang or fail.
type gate struct {
	message.Publisher

	left  *atomic.Int64
	after func() error
}

func (g gate) Publish(topic string, messages ...*message.Message) error {
	if g.left.Add(-int64(len(messages))) < 0 {
		return g.after()
	}

	return g.Publisher.Publish(topic, messages...)
}

// shutAfter has a harness's publishers work for some messages only.
func shutAfter(h conformance.Harness, n int64, after func() error) conformance.Harness {
	open, left := h.Publisher, &atomic.Int64{}
	left.Store(n)
	h.Publisher = func(ctx context.Context) (message.Publisher, error) {
		pub, err := open(ctx)

		return gate{pub, left, after}, err
	}

	return h
}

func TestBrokerThatDiesLeavesFactsUnknown(t *testing.T) {
	t.Parallel()
	refused := errors.New("connection refused")
	h := shutAfter(harness(t, ordered()), 200, func() error { return refused })
	report, err := conformance.Check(t.Context(), h, conformance.Options{})
	require.NoError(t, err)
	require.Positive(t, report.Count(conformance.VerdictHolds), "what was tried before counts")
	require.Greater(t, report.Count(conformance.VerdictUnknown), 20)
	for _, r := range report.Failed() {
		require.Equal(t, conformance.VerdictUnknown, r.Verdict, "%s: %s", r.Fact, r.Note)
		require.Contains(t, r.Note, "connection refused")
	}
}

func TestBrokerThatFallsSilentLeavesFactsUnknown(t *testing.T) {
	t.Parallel()
	h := shutAfter(harness(t, ordered()), 0, func() error { return nil })
	h.Patience = 200 * time.Millisecond
	began := time.Now()
	report, err := conformance.Check(t.Context(), h, conformance.Options{})
	require.NoError(t, err)
	requireUnknown(t, report)
	require.Contains(t, report.Results[0].Note, "did not take and deliver a single message at the beginning")
	require.Less(t, time.Since(began), 10*time.Second, "a dead broker is found out once")
}

func TestBrokerThatHangsIsLeftBehindAtTheDeadline(t *testing.T) {
	t.Parallel()
	hanging := make(chan struct{})
	t.Cleanup(func() { close(hanging) })
	h := shutAfter(harness(t, ordered()), 5, func() error { <-hanging; return nil })
	h.Patience = 100 * time.Millisecond
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("delivery/what is published arrives")})
	require.NoError(t, err)
	require.Len(t, report.Failed(), 1)
	require.Equal(t, conformance.VerdictUnknown, report.Results[0].Verdict)
	require.Contains(t, report.Results[0].Note, "publish did not return before the fact's deadline")
}

// requireUnknown says that nothing was found out, and that this fails the run:
// all but what the harness has no function for.
func requireUnknown(t *testing.T, report conformance.Report) {
	t.Helper()
	require.Equal(t, len(report.Results), report.Count(conformance.VerdictUnknown))
	for _, r := range report.Results {
		require.NotEqual(t, r.Failed, strings.HasPrefix(r.Note, "the harness"), "%s: %s", r.Fact, r.Note)
	}
}

func TestEndOfTheRunLeavesFactsUnknown(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report, err := conformance.Check(ctx, harness(t, ordered()), conformance.Options{})
	require.NoError(t, err)
	requireUnknown(t, report)
}

func TestReports(t *testing.T) {
	t.Parallel()
	config := ordered()
	config.Faults = []toy.Fault{toy.RewritesJSON}
	h := harness(t, config)
	h.Foreign = nil
	var progress int
	report, err := conformance.Check(t.Context(), h, conformance.Options{
		Only:     only("content/payload", "content/key", "content/foreign producer"),
		Progress: func(_ conformance.Result, done, all int) { progress += done * all },
	})
	require.NoError(t, err)
	require.Equal(t, 3*(1+2+3), progress)

	text := report.Text()
	require.Contains(t, text, "toy: 3 facts")
	require.Contains(t, text, "✗ content/payload")
	require.Regexp(t, `received +json-0  by consumer 1 of group one`, text)
	require.Contains(t, text, "the harness has no Foreign")

	var js bytes.Buffer
	require.NoError(t, report.WriteJSON(&js))
	var back conformance.Report
	require.NoError(t, json.Unmarshal(js.Bytes(), &back))
	require.Equal(t, report.Results, back.Results)

	var junit bytes.Buffer
	require.NoError(t, report.WriteJUnit(&junit))
	var suite struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Skipped  int `xml:"skipped,attr"`
		Cases    []struct {
			Name string `xml:"name,attr"`
		} `xml:"testcase"`
	}
	require.NoError(t, xml.Unmarshal(junit.Bytes(), &suite))
	require.Equal(t, []int{3, 1, 1}, []int{suite.Tests, suite.Failures, suite.Skipped})
	require.Equal(t, "payload", suite.Cases[0].Name)
}
