package brokers

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/headrace-go/headrace/internal/redact"
)

// First and longest wait between two attempts to reach a broker.
const (
	connectWait    = 50 * time.Millisecond
	connectWaitMax = time.Second
)

// Connect calls try until it succeeds, for cfg.ConnectTimeout at most, and
// returns an *UnreachableError when it doesn't. Each attempt's context ends with
// that time. An error wrapped by Hopeless (a wrong password, an unknown
// database) ends it at once.
func Connect(ctx context.Context, u *url.URL, cfg Config, try func(ctx context.Context) error) error {
	started := time.Now()
	bounded, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()

	var last error
	for attempts, wait := 1, connectWait; ; attempts, wait = attempts+1, min(2*wait, connectWaitMax) {
		err := try(bounded)
		if err == nil {
			return nil
		}
		// The attempt that the deadline cut off knows less than the one before.
		if last == nil || bounded.Err() == nil {
			last = err
		}

		var hopeless *hopelessError
		if !errors.As(err, &hopeless) {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
				continue
			case <-bounded.Done():
				timer.Stop()
			}
		}

		return &UnreachableError{
			Broker: redact.Describe(u), Tried: time.Since(started), Attempts: attempts, Err: redact.New(u).Err(last),
		}
	}
}

// Hopeless marks an error that another attempt to connect won't change.
func Hopeless(err error) error { return &hopelessError{err} }

type hopelessError struct{ error }

func (e *hopelessError) Unwrap() error { return e.error }
