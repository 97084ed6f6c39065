package crash_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
)

func TestCrashAnywhereLosesAndDoublesNothing(t *testing.T) {
	onEach(t, func(t *testing.T, c combination) {
		s := newStory(t, c)
		s.run(t, makePlan(s.rng, c))
		s.requireRight(t)
		t.Logf("seed %d: %d kills, %d changes sent, %d of them again on purpose", s.seed, len(s.kills), len(s.sent), s.copies)
	})
}

// The checker itself is on trial here: with a protection taken away, the same
// story must end in findings.

func TestCrashFindsUnprotectedDoubles(t *testing.T) {
	t.Parallel()
	findings := findUnprotected(t, noInbox, killPoint{apply, step.AckBefore, 1}, killPoint{recommend, step.AckBefore, 2})
	require.NotEmpty(t, findings.doubled)
	require.NotEmpty(t, findings.totals)
	require.Empty(t, findings.lost)
}

func TestCrashFindsUnprotectedLosses(t *testing.T) {
	t.Parallel()
	findings := findUnprotected(t, latePublish, killPoint{apply, step.TxAfterCommit, 1}, killPoint{apply, step.TxAfterCommit, 3})
	require.NotEmpty(t, findings.lost)
	require.NotEmpty(t, findings.totals)
}

func TestCrashFindsARelayThatConfirmsFirst(t *testing.T) {
	t.Parallel()
	findings := findUnprotected(t, earlyConfirm,
		killPoint{relay, step.RelayAfterConfirm, 1}, killPoint{relay, step.RelayAfterConfirm, 3})
	require.NotEmpty(t, findings.lost)
	require.NotEmpty(t, findings.totals)
	require.Empty(t, findings.doubled)
}

// findUnprotected kills at the points and returns what the checker says then.
func findUnprotected(t *testing.T, p protection, points ...killPoint) *findings {
	t.Helper()
	s := unprotected(t, p)
	s.run(t, onePhase(points...))
	found, err := check(t.Context(), s.db, s.sent)
	require.NoError(t, err)
	t.Logf("found:\n%s", excerpt(found.wrong()))
	return found
}

// unprotected is a story on embedded parts in which only kills make doubles.
func unprotected(t *testing.T, p protection) *story {
	t.Helper()
	s := newStory(t, combinations(t)[0])
	s.Protection, s.repeats, s.FailOneIn = p, false, 0
	return s
}

func onePhase(points ...killPoint) []phase {
	both := slot{name: "both", consume: true, forward: true}
	for _, point := range points {
		both.kills = append(both.kills, kill{point: point})
	}
	return []phase{{"together", []slot{both}}}
}
