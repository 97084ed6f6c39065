package handlertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Run looks for the shortest sequence of events that breaks the case's invariant,
// first without Headrace and then with it. The test fails when there is one with
// Headrace; what breaks without is logged.
func Run(t testing.TB, c Case) Report {
	t.Helper()
	report, err := Explore(t.Context(), c, func(far string) { t.Log(far) })
	if err != nil {
		t.Fatal(err)
	}
	c = c.withDefaults()
	if c.Replay != "" {
		replayed(t, c, report)
		return report
	}
	if found := report.Naked.Counterexample; found != nil {
		t.Logf("without Headrace this breaks:\n%s", found)
	} else {
		t.Logf("without Headrace nothing has broken in: %s", report.Naked)
	}
	if found := report.Protected.Counterexample; found != nil {
		t.Errorf("with Headrace this breaks (tried before: %s):\n%s\n%s", report.Protected, found, legend(c.Messages))
		return report
	}
	t.Logf("with Headrace nothing has broken in: %s", report.Protected)
	if !report.Protected.singles() {
		t.Log("not even all sequences with one fault were tried: raise Case.Runs or Case.Within, or send fewer messages")
	}
	if c.MustBreak && report.Naked.Counterexample == nil {
		t.Error("nothing breaks the invariant without Headrace either (Case.MustBreak): can it fail at all? " +
			"If the handler is right by itself, leave MustBreak out")
	}
	return report
}

// replayed says what became of the one sequence of Case.Replay. That it no longer
// breaks is what whoever mends the handler wants to see, whatever MustBreak says.
func replayed(t testing.TB, c Case, report Report) {
	t.Helper()
	if found := report.Naked.Counterexample; found != nil {
		t.Logf("without Headrace this breaks:\n%s", found)
		return
	}
	if found := report.Protected.Counterexample; found != nil {
		t.Errorf("with Headrace this breaks:\n%s\n%s", found, legend(c.Messages))
		return
	}
	t.Logf("the sequence %q breaks nothing; without Case.Replay the others are tried, too", c.Replay)
}

// legend says which message is which.
func legend(msgs []*message.Message) string {
	lines := make([]string, len(msgs))
	for i, msg := range msgs {
		lines[i] = fmt.Sprintf("  m%d is message %q", i+1, msg.UUID)
	}
	return strings.Join(lines, "\n")
}
