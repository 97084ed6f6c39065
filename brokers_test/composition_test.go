package brokers_test

import (
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
)

// handlings is how many messages go round the ring: as many as a continuous
// integration has time for, and 10,000 by make faults.
func handlings() int {
	const all = 10_000
	if os.Getenv("HEADRACE_FAULTS") == "full" {
		return all
	}

	return conformance.DefaultHandlings
}

// TestCompositionUnprotected tells the ring's story with a protection of Headrace
// switched off, and it must not end well: else the facts would prove nothing.
func TestCompositionUnprotected(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("many times the work of the facts themselves")
	}
	for protection, found := range map[conformance.Protection]string{
		conformance.Dedupe: "effects done more than once",
		conformance.Outbox: "effects lost",
	} {
		for _, c := range cases(t) {
			t.Run(c.name+"/"+string(protection), func(t *testing.T) {
				t.Parallel()
				h := opened(t, c)
				h.Without = []conformance.Protection{protection}
				// By these faults dozens are doubled or lost: none at all, by chance, isn't
				// to be expected in anybody's lifetime.
				h.Handlings, h.Seed = 200, 1
				h.Patience = 20 * time.Second
				report, err := conformance.Check(t.Context(), h, conformance.Options{
					Only: regexp.MustCompile("^composition/a ring of two services$"),
				})
				require.NoError(t, err)
				require.Len(t, report.Failed(), 1, report.Text())
				require.Equal(t, conformance.VerdictNo, report.Results[0].Verdict, report.Text())
				require.Contains(t, report.Results[0].Note, found)
				require.Contains(t, report.Results[0].Note, "(seed 1)")
				require.NotEmpty(t, report.Results[0].History)
			})
		}
	}
}
