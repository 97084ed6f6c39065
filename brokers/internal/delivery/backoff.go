package delivery

import "time"

// maxBackoff bounds the doubling, as a multiple of the first wait.
const maxBackoff = 100

// Backoff is the wait after a message's nth failure in a row: first, doubled with
// each, 100 times first at most.
func Backoff(first time.Duration, n int64) time.Duration {
	if n > 7 { // 2^7 is beyond maxBackoff, and far on the shift overflows
		return maxBackoff * first
	}

	return first << max(n-1, 0)
}
