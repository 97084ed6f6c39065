// Package limits says how often something outside may be called.
package limits

import (
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
)

// Rate is a number of calls a second, of which Burst may come at once (default 1).
type Rate struct {
	PerSecond float64
	Burst     uint
}

// Limiter returns what keeps to the rate, nil for no limit.
func (r Rate) Limiter() ratelimiter.RateLimiter[any] {
	if r.PerSecond <= 0 {
		return nil
	}
	burst := max(r.Burst, 1)
	return ratelimiter.NewBursty[any](burst, time.Duration(float64(burst)/r.PerSecond*float64(time.Second)))
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
