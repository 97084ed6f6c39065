// Package reach asks a service until it answers, in bounded time.
package reach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// First and longest wait between two attempts.
const (
	firstWait   = 50 * time.Millisecond
	longestWait = time.Second
)

// Failure says how long a service was tried, and what came of it.
type Failure struct {
	Tried    time.Duration // from the first attempt to the last
	Attempts int
	// Hopeless says that another attempt wouldn't have helped.
	Hopeless bool
	// Err is the last attempt's that was not cut off by the time running out.
	Err error
}

// Try calls try until it succeeds, and returns nil then. It ends after timeout,
// with which each attempt's context ends too; when ctx ends, whose cause is then
// in the error; and at an error of which hopeless says that another attempt
// won't change it.
func Try(
	ctx context.Context, timeout time.Duration, try func(context.Context) error, hopeless func(error) bool,
) *Failure {
	started := time.Now()
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed := &Failure{}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := try(bounded)
		if err == nil {
			return nil
		}
		failed.Attempts++
		// The attempt that the deadline cut off knows less than the one before.
		if failed.Err == nil || bounded.Err() == nil {
			failed.Err = err
		}
		failed.Hopeless = hopeless(err)
		if !failed.Hopeless {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
				continue
			case <-bounded.Done():
				timer.Stop()
			}
		}
		failed.Tried = time.Since(started)
		if cause := context.Cause(ctx); cause != nil && !errors.Is(failed.Err, cause) {
			failed.Err = fmt.Errorf("%w: %w", cause, failed.Err)
		}
		return failed
	}
}

// Text says how long a service was tried, and why it failed, on one line:
// drivers write one for each address and mode that they tried, often the same.
func Text(tried time.Duration, attempts int, err error) string {
	noun := "attempts"
	if attempts == 1 {
		noun = "attempt"
	}
	return fmt.Sprintf("tried for %v (%d %s): %s", tried.Round(time.Millisecond), attempts, noun, oneLine(err.Error()))
}

func oneLine(text string) string {
	var out strings.Builder
	said := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" || said[line] {
			continue
		}
		said[line] = true
		switch {
		case out.Len() == 0:
		case strings.HasSuffix(out.String(), ":"):
			out.WriteByte(' ')
		default:
			out.WriteString("; ")
		}
		out.WriteString(line)
	}
	return out.String()
}
