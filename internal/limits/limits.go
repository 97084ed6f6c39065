// Package limits says how often something outside may be called.
package limits

import (
	"math"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
)

// Rate is a number of calls a second, of which Burst may come at once (default 1).
type Rate struct {
	PerSecond float64
	Burst     uint
}

// Valid reports whether it is a number of calls, or 0 for any.
func (r Rate) Valid() bool { return r.PerSecond >= 0 && !math.IsInf(r.PerSecond, 0) }

// Limiter returns what keeps to the rate, nil for no limit.
func (r Rate) Limiter() ratelimiter.RateLimiter[any] {
	if r.PerSecond <= 0 {
		return nil
	}
	burst := max(r.Burst, 1)
	return ratelimiter.NewBursty[any](burst, r.period(burst))
}

// Every is how long a call takes its turn for.
func (r Rate) Every() time.Duration { return r.period(1) }

func (r Rate) period(calls uint) time.Duration {
	const longest = 365 * 24 * time.Hour
	seconds := float64(calls) / r.PerSecond
	if seconds > longest.Seconds() {
		return longest
	}
	return max(time.Duration(seconds*float64(time.Second)), 1)
}

// Breaker opens for Open (default 30 s) after Failures failed calls in a row.
type Breaker struct {
	Failures uint
	Open     time.Duration
}

// New returns a closed breaker, nil for none.
func (b Breaker) New() circuitbreaker.CircuitBreaker[any] {
	if b.Failures == 0 {
		return nil
	}
	open := b.Open
	if open == 0 {
		open = 30 * time.Second
	}
	return circuitbreaker.NewBuilder[any]().WithFailureThreshold(b.Failures).WithDelay(open).Build()
}
