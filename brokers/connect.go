package brokers

import (
	"context"
	"errors"
	"net/url"

	"github.com/headrace-go/headrace/internal/reach"
	"github.com/headrace-go/headrace/internal/redact"
)

// Connect calls try until it succeeds, for cfg.ConnectTimeout at most, and
// returns an *UnreachableError when it doesn't. Each attempt's context ends with
// that time. An error wrapped by Hopeless (a wrong password, an unknown
// database) ends it at once.
func Connect(ctx context.Context, u *url.URL, cfg Config, try func(ctx context.Context) error) error {
	failed := reach.Try(ctx, cfg.ConnectTimeout, try, func(err error) bool {
		var hopeless *hopelessError
		return errors.As(err, &hopeless)
	})
	if failed == nil {
		return nil
	}

	return &UnreachableError{
		Broker: redact.Describe(u), Tried: failed.Tried, Attempts: failed.Attempts, Err: redact.New(u).Err(failed.Err),
	}
}

// Hopeless marks an error that another attempt to connect won't change.
func Hopeless(err error) error { return &hopelessError{err} }

type hopelessError struct{ error }

func (e *hopelessError) Unwrap() error { return e.error }
