package limits

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Within runs f, which what names in errors, in bounded time, even if it doesn't return:
// then it is left behind, with a context that is over. A panic is an error.
func Within[V any](ctx context.Context, timeout time.Duration, what string, f func(ctx context.Context) (V, error)) (V, error) {
	type result struct {
		value V
		err   error
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	results := make(chan result, 1)
	go func() {
		defer cancel()
		r := result{err: errors.New(what + " ended its goroutine")}
		defer func() {
			if value := recover(); value != nil {
				r = result{err: fmt.Errorf("%s panicked: %v", what, value)}
			}
			results <- r
		}()
		value, err := f(ctx)
		r = result{value, err}
	}()
	select {
	case r := <-results:
		return r.value, r.err
	case <-ctx.Done():
	}
	select { // it may have ended by then
	case r := <-results:
		return r.value, r.err
	default:
		var none V
		return none, fmt.Errorf("%s didn't return: %w", what, ctx.Err())
	}
}
