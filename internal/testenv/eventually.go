package testenv

import (
	"testing"
	"time"
)

// Eventually waits until condition holds and ends the test when it doesn't
// within timeout. The condition is asked at once and then every interval; it
// also describes what it saw, and the last description is in the failure.
//
// It runs on the test's own goroutine, so the condition may use require. It is
// for states of the outside world that send no signal (a broker's backlog, a row
// that another process writes): where the code under test can signal, wait for
// the signal.
func Eventually(t testing.TB, timeout, interval time.Duration, condition func() (bool, string)) {
	t.Helper()

	deadline := time.NewTimer(timeout)
	defer deadline.Stop()

	ticker := time.NewTicker(interval)
	defer ticker.Stop()

	for {
		holds, state := condition()
		if holds {
			return
		}

		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("condition did not hold within %v; last seen: %s", timeout, state)
		}
	}
}
