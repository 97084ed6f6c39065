package reach_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/reach"
)

var errRefused = errors.New("connection refused")

func never(error) bool { return false }

func TestItTriesUntilTheServiceAnswers(t *testing.T) {
	t.Parallel()
	attempts := 0
	require.Nil(t, reach.Try(t.Context(), time.Minute, func(context.Context) error {
		if attempts++; attempts < 3 {
			return errRefused
		}
		return nil
	}, never))
	require.Equal(t, 3, attempts)
}

func TestItGivesUpInTimeWithTheLastAttemptThatKnewSomething(t *testing.T) {
	t.Parallel()
	first := true
	failed := reach.Try(t.Context(), 100*time.Millisecond, func(ctx context.Context) error {
		if first {
			first = false
			return errRefused
		}
		<-ctx.Done() // hangs
		return ctx.Err()
	}, never)
	require.Equal(t, errRefused, failed.Err)
	require.Equal(t, 2, failed.Attempts)
	require.GreaterOrEqual(t, failed.Tried, 100*time.Millisecond)
	require.False(t, failed.Hopeless)
}

func TestAHopelessErrorAndTheEndOfTheContextEndItAtOnce(t *testing.T) {
	t.Parallel()
	failed := reach.Try(t.Context(), time.Hour, func(context.Context) error { return errRefused },
		func(err error) bool { return errors.Is(err, errRefused) })
	require.Equal(t, 1, failed.Attempts)
	require.True(t, failed.Hopeless)

	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("the program ends")
	failed = reach.Try(ctx, time.Hour, func(context.Context) error { cancel(stop); return errRefused }, never)
	require.ErrorIs(t, failed.Err, stop)
	require.ErrorIs(t, failed.Err, errRefused)
}

func TestTheTextIsOneLineThatSaysEachThingOnce(t *testing.T) {
	t.Parallel()
	require.Equal(t, "tried for 1.5s (2 attempts): failed to connect: 1.2.3.4: refused; 1.2.3.5: refused",
		reach.Text(1500*time.Millisecond, 2,
			errors.New("failed to connect:\n\t1.2.3.4: refused\n\t1.2.3.4: refused\n\n 1.2.3.5:  refused")))
	require.Equal(t, "tried for 0s (1 attempt): x", reach.Text(0, 1, errors.New("x")))
}
