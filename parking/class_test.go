package parking_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

var errPlain = errors.New("plain")

func TestClassOfErrors(t *testing.T) {
	t.Parallel()
	syntax := json.Unmarshal([]byte("{"), &struct{}{})
	for name, c := range map[string]struct {
		err  error
		want parking.Class
	}{
		"nil":             {nil, ""},
		"plain":           {errPlain, parking.Unknown},
		"marked":          {fmt.Errorf("wrapped: %w", parking.AsConflict(errPlain)), parking.Conflict},
		"the outer mark":  {parking.AsPermanent(fmt.Errorf("x: %w", parking.AsTransient(errPlain))), parking.Permanent},
		"over its nature": {parking.AsTransient(syntax), parking.Transient},
		"after":           {parking.After(errPlain, time.Minute), parking.Transient},
		"deadline":        {fmt.Errorf("x: %w", context.DeadlineExceeded), parking.Transient},
		"JSON":            {syntax, parking.Permanent},
		"no key":          {keys.ErrNoKey, parking.Permanent},
		"contention":      {store.ErrContention, parking.Transient},
		"says so":         {permanent{}, parking.Permanent},
		"the class's own": {parking.ErrConflict, parking.Conflict},
		"joined":          {errors.Join(errPlain, parking.AsPermanent(errPlain)), parking.Permanent},
		"cancelled":       {context.Canceled, parking.Unknown},
	} {
		require.Equal(t, c.want, parking.Classify(c.err), name)
	}
}

type permanent struct{}

func (permanent) Error() string { return "never" }

func (permanent) Permanent() bool { return true }

func TestMarksKeepTheErrorAndItsMatches(t *testing.T) {
	t.Parallel()
	require.NoError(t, parking.AsTransient(nil))
	require.NoError(t, parking.After(nil, time.Second))
	err := parking.AsPermanent(errPlain)
	require.ErrorIs(t, err, errPlain)
	require.ErrorIs(t, err, parking.ErrPermanent)
	require.NotErrorIs(t, err, parking.ErrTransient)
	require.EqualError(t, err, "plain")
}

func TestRetryAfterIsFoundInside(t *testing.T) {
	t.Parallel()
	wait, ok := parking.RetryAfter(parking.AsTransient(fmt.Errorf("x: %w", parking.After(errPlain, time.Minute))))
	require.True(t, ok)
	require.Equal(t, time.Minute, wait)
	_, ok = parking.RetryAfter(parking.After(errPlain, -time.Minute))
	require.False(t, ok)
}

func TestUsersClassifiersComeBeforeCommonKnowledge(t *testing.T) {
	t.Parallel()
	none := func(error) parking.Class { return "" }
	conflict := func(error) parking.Class { return parking.Conflict }
	require.Equal(t, parking.Conflict, parking.Classify(context.DeadlineExceeded, none, conflict))
	require.Equal(t, parking.Permanent, parking.Classify(parking.AsPermanent(errPlain), conflict), "a mark is said of this error")
}

func TestClassOfStatus(t *testing.T) {
	t.Parallel()
	for want, codes := range map[parking.Class][]int{
		"":                {200, 204, 302, 0, 600},
		parking.Transient: {408, 425, 429, 500, 502, 503, 504},
		parking.Conflict:  {409, 412},
		parking.Permanent: {400, 401, 403, 404, 422, 501, 505},
	} {
		for _, code := range codes {
			require.Equal(t, want, parking.ClassOfStatus(code), code)
		}
	}
}
