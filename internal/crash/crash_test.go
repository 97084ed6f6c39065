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
	s := unprotected(t, noInbox)
	s.run(t, onePhase(killPoint{apply, step.AckBefore, 1}, killPoint{recommend, step.AckBefore, 2}))
	findings, err := check(t.Context(), s.db, s.sent)
	require.NoError(t, err)
	require.NotEmpty(t, findings.doubled)
	require.NotEmpty(t, findings.totals)
	require.Empty(t, findings.lost)
	t.Logf("found:\n%s", excerpt(findings.wrong()))
}

func TestCrashFindsUnprotectedLosses(t *testing.T) {
	t.Parallel()
	s := unprotected(t, latePublish)
	s.run(t, onePhase(killPoint{apply, step.TxAfterCommit, 1}, killPoint{apply, step.TxAfterCommit, 3}))
	findings, err := check(t.Context(), s.db, s.sent)
	require.NoError(t, err)
	require.NotEmpty(t, findings.lost)
	require.NotEmpty(t, findings.totals)
	t.Logf("found:\n%s", excerpt(findings.wrong()))
}

func TestCrashFindsARelayThatConfirmsFirst(t *testing.T) {
	t.Parallel()
	s := unprotected(t, earlyConfirm)
	s.run(t, onePhase(killPoint{relay, step.RelayAfterConfirm, 1}, killPoint{relay, step.RelayAfterConfirm, 3}))
	findings, err := check(t.Context(), s.db, s.sent)
	require.NoError(t, err)
	require.NotEmpty(t, findings.lost)
	require.NotEmpty(t, findings.totals)
	require.Empty(t, findings.doubled)
	t.Logf("found:\n%s", excerpt(findings.wrong()))
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
