package conformance

import (
	"slices"
	"strings"
	"sync"
	"testing"
)

// Run tries all facts on a broker, each in a subtest of its name, and returns the
// report when all are over. Facts that a -run pattern leaves out are not tried.
//
// A subtest fails when its fact fails (Result.Failed), with the history of the
// messages concerned, and is skipped when the harness lacks what it takes.
func Run(t *testing.T, h Harness) Report {
	t.Helper()

	r, err := newRunner(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	results := map[string]Result{}
	// Subtests begin one after the other, and run side by side as far as the
	// harness says: go test's own -parallel counts processors, and facts wait.
	t.Run("facts", func(t *testing.T) {
		for _, f := range Facts() {
			t.Run(f.Name, func(t *testing.T) {
				pending := r.start(f)
				t.Parallel()
				result := <-pending
				mu.Lock()
				results[f.Name] = result
				mu.Unlock()
				tell(t, result)
			})
		}
	})

	report := Report{Broker: h.Name}
	for _, f := range Facts() {
		if result, ok := results[f.Name]; ok {
			report.Results = append(report.Results, result)
			report.Took = max(report.Took, result.Took)
		}
	}
	modest(report.Results)
	if len(report.Results) > 0 && (t.Failed() || testing.Verbose()) {
		t.Log("\n" + report.Text())
	}

	return report
}

// tell gives a result to the test.
func tell(t *testing.T, r Result) {
	t.Helper()

	switch {
	case r.Failed:
		t.Errorf("%s: %s\n%s", r.Verdict, r.Note, strings.Join(slices.Concat(r.detail(), r.History), "\n"))
	case r.Verdict == VerdictUnknown:
		t.Skip(r.Note)
	case r.Note != "" || r.Declaration != "":
		t.Log(strings.Join(slices.Concat([]string{string(r.Verdict)}, r.detail(), []string{r.Note}), "  "))
	}
}
