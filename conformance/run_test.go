package conformance_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
)

// faultOfRun has TestRunOnAToy try a toy with a fault, in a process of its own.
const faultOfRun = "HEADRACE_CONFORMANCE_TEST_FAULT"

// TestRunOnAToy passes by itself. Other tests start it again.
func TestRunOnAToy(t *testing.T) {
	t.Parallel()
	config := ordered()
	if fault := os.Getenv(faultOfRun); fault != "" {
		config.Faults = []toy.Fault{toy.Fault(fault)}
	}
	t.Run("toy", func(t *testing.T) {
		t.Parallel()
		h := harness(t, config)
		if len(config.Faults) == 0 { // nothing is missed there, so nothing is waited for in vain
			h.Patience = 20 * time.Second
		}
		report := conformance.Run(t, h)
		for _, r := range report.Failed() {
			require.NotEmpty(t, os.Getenv(faultOfRun), "%s: %s", r.Fact, r.Note)
		}
	})
}

// goTest is `go test -v -run pattern` on this package, with a fault.
func goTest(t *testing.T, fault toy.Fault, pattern string) (said string, passed bool) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), self, "-test.v", "-test.run", pattern)
	command.Env = append(os.Environ(), faultOfRun+"="+string(fault))
	out, err := command.CombinedOutput()
	if err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, string(out))
	}

	return string(out), err == nil
}

func TestFactsAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string][]string{
		"TestRunOnAToy/toy//order/per_key$":                {"order/per_key"},
		"TestRunOnAToy/toy//order/per key with":            {"order/per_key_with_nacks", "order/per_key_within_a_batch"},
		"TestRunOnAToy/toy//content/(key|UUID)$":           {"content/UUID", "content/key"},
		"TestRunOnAToy/toy//lifecycle/publishing_nothing$": {"lifecycle/publishing_nothing"},
	} {
		said, passed := goTest(t, "", pattern)
		require.True(t, passed, said)
		require.Regexp(t, `toy: `+strconv.Itoa(len(want))+` facts`, said, "no others are tried")
		for _, fact := range want {
			require.Contains(t, said, "--- PASS: TestRunOnAToy/toy/facts/"+fact+" (")
		}
	}
}

func TestFailingFactPrintsTheHistoryOfItsKey(t *testing.T) {
	t.Parallel()
	said, passed := goTest(t, toy.ReordersAfterNack, "TestRunOnAToy/toy//order/per key with nacks")
	require.False(t, passed)
	require.Contains(t, said, "--- FAIL: TestRunOnAToy/toy/facts/order/per_key_with_nacks (")
	// The lines of one key, and of no other.
	_, history, found := strings.Cut(said, "s  published       ")
	require.True(t, found, said)
	key := history[:1]
	require.Regexp(t, `\d\.\d{3}s  nacked          `+key+`-\d  by consumer 1 of group one`, said)
	for _, other := range []string{"a", "b", "c"} {
		if other != key {
			require.NotRegexp(t, `s  (published|received|acked|nacked) +`+other+`-\d`, said)
		}
	}
}
