package middleware

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/failsafe-go/failsafe-go/ratelimiter"

	"github.com/headrace-go/headrace/internal/limits"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/parking"
)

// FetchHook is told of each call that Fetch has made, in the goroutine of the call.
type FetchHook interface{ OnFetch(fetching Fetching) }

// Fetching is one call.
type Fetching struct {
	Entity keys.Entity
	Took   time.Duration
	Err    error
}

// call makes one call, when it may.
func (f *Fetch[T]) call(ctx context.Context, entity keys.Entity, began func()) (Current[T], error) {
	if err := f.mayCall(ctx); err != nil {
		return Current[T]{}, err
	}
	began()
	start := time.Now()
	state, err := limits.Within(ctx, f.cfg.Timeout, "FetchConfig.Load", func(ctx context.Context) (Current[T], error) {
		return f.cfg.Load(ctx, entity)
	})
	if f.breaker != nil {
		if err == nil || parking.Classify(err) == parking.Permanent {
			f.breaker.RecordSuccess()
		} else {
			f.breaker.RecordFailure()
		}
	}
	done := Fetching{Entity: entity, Took: time.Since(start), Err: err}
	f.cfg.Logger.Debug("Fetched a state", watermill.LogFields{"took": done.Took, "failed": err != nil})
	for _, hook := range f.hooks {
		hook.OnFetch(done)
	}
	return state, err
}

func (f *Fetch[T]) mayCall(ctx context.Context) error {
	if f.breaker != nil && f.breaker.IsOpen() && f.breaker.RemainingDelay() > 0 { // nobody waits for it
		return parking.After(ErrFetchRests, f.breaker.RemainingDelay())
	}
	if f.limiter != nil {
		err := f.limiter.AcquirePermitWithMaxWait(ctx, f.cfg.MaxWait)
		switch {
		case errors.Is(err, ratelimiter.ErrExceeded):
			return parking.After(ErrFetchLimited, f.cfg.Limit.Every())
		case err != nil:
			return fmt.Errorf("wait for FetchConfig.Limit: %w", err)
		}
	}
	if f.breaker != nil && !f.breaker.TryAcquirePermit() {
		return parking.After(ErrFetchRests, f.breaker.RemainingDelay())
	}
	return nil
}
