package middleware_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestVersionsThatCannotBeComparedAreRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		h := l.protected(t, middleware.VersionSkipConfig{})
		for version, says := range map[any]string{
			nil:                   "has no number or string at",
			"":                    "is no integer",
			"x":                   "is no integer",
			true:                  "has no number or string at",
			1.5:                   "is no integer",
			-1:                    "-1 is negative",
			"+1":                  "is no integer",
			"9223372036854775808": "is not within 0 and 9223372036854775807",
			1e300:                 "is no integer",
		} {
			_, err := h(changed("1", version, `"due":"June"`))
			require.ErrorIs(t, err, middleware.ErrVersion, "%v", version)
			require.ErrorContains(t, err, says)
			require.Equal(t, parking.Permanent, parking.Classify(err))
		}
		deliver(t, h, changed("1", int64(math.MaxInt64), `"due":"June"`), changed("1", "12", `"due":"May"`))
		require.Equal(t, "June", l.line(t, "1"))

		clock := func(version string) middleware.VersionSkipConfig {
			return middleware.VersionSkipConfig{MaxAhead: time.Minute, States: middleware.StateOf(
				keys.OfType("clock", keys.FromJSON("id")), middleware.TimeVersionFromJSON(version), nil)}
		}
		h = l.protected(t, clock("version"))
		_, err := h(changed("1", time.Now().Add(time.Hour), `"due":"June"`))
		require.ErrorIs(t, err, middleware.ErrVersion)
		require.ErrorContains(t, err, "ahead of this process's clock")
		_, err = h(changed("1", "yesterday", `"due":"June"`))
		require.ErrorContains(t, err, "is no time")
		now := time.Now()
		deliver(t, h, changed("2", now, `"due":"now"`), changed("2", now.Add(-time.Nanosecond), `"due":"before"`))
		require.Equal(t, "now", l.line(t, "2"))
		kinds := clock("version")
		kinds.States = middleware.StateOf(keys.OfType("clock", keys.FromJSON("id")), middleware.VersionFromJSON("version"), nil)
		_, err = l.protected(t, kinds)(changed("2", 1, `"due":"June"`))
		require.ErrorContains(t, err, "are of different kinds")
	})
}

func TestTextVersionsAreComparedByTheUser(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		states := middleware.StateOf(keys.OfType("line", keys.FromJSON("id")),
			func(msg *message.Message) (middleware.Version, error) {
				text, err := keys.FromJSON("version")(msg)
				return middleware.TextVersion(text), err
			}, nil)
		h := l.protected(t, middleware.VersionSkipConfig{
			States: states, Compare: func(a, b string) (int, error) { return len(a) - len(b), nil },
		})
		deliver(t, h, changed("1", "iii", `"due":"June"`), changed("1", "vi", `"due":"May"`))
		require.Equal(t, "June", l.line(t, "1"))
		_, err := l.protected(t, middleware.VersionSkipConfig{States: states})(changed("1", "iv", `"due":"May"`))
		require.ErrorContains(t, err, "a TextVersion needs VersionSkipConfig.Compare")
		_, err = h(changed("1", strings.Repeat("x", 255), `"due":"May"`))
		require.ErrorIs(t, err, middleware.ErrVersion)
	})
}

func TestEntitiesWithOddNames(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		var state middleware.State
		applied := 0
		skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{
			States: func(*message.Message) ([]middleware.State, error) { return []middleware.State{state}, nil },
		})
		require.NoError(t, err)
		h := l.dedupe.Middleware(skip.Middleware(func(*message.Message) ([]*message.Message, error) {
			applied++
			return nil, nil
		}))
		hash := store.Identity(strings.Repeat("b", 300))
		for _, id := range []string{strings.Repeat("a", 10_000), hash, "\xff", "A", "a", "a "} {
			for _, group := range []string{strings.Repeat("g", 300), "g"} {
				before := applied
				for _, version := range []int64{2, 1, 3, 2} {
					state = middleware.State{
						Entity: keys.Entity{Type: "t", ID: id}, Version: middleware.IntVersion(version), Groups: []string{group},
					}
					deliver(t, h, message.NewMessage(watermill.NewUUID(), nil))
				}
				require.Equal(t, before+2, applied, "%q", shortID(id))
			}
		}
	})
}

func shortID(id string) string { return id[:min(len(id), 20)] }

func TestNullsOfAGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		null    middleware.NullMeaning
		payload string
		carried bool
		err     error
	}{
		{middleware.NullClears, `{"a":null}`, true, nil},
		{middleware.NullIsAbsent, `{"a":null}`, false, nil},
		{middleware.NullIsAbsent, `{"a":null,"b":1}`, true, nil},
		{middleware.NullIsRefused, `{"a":null}`, false, middleware.ErrGroup},
		{middleware.NullIsRefused, `{"b":0}`, true, nil},
		{middleware.NullClears, `{}`, false, nil},
		{middleware.NullClears, `{`, false, middleware.ErrGroup},
	} {
		groups := middleware.GroupsFromJSON(middleware.FieldGroup{Name: "g", Fields: []string{"a", "b"}, Null: c.null})
		carried, err := groups(message.NewMessage("1", []byte(c.payload)))
		require.ErrorIs(t, err, c.err, c.payload)
		require.Equal(t, c.carried, len(carried) == 1, c.payload)
	}
}

func TestVersionSkipNeedsItsConfiguration(t *testing.T) {
	t.Parallel()
	_, err := middleware.NewVersionSkip(nil, middleware.VersionSkipConfig{})
	require.ErrorContains(t, err, "needs a store")
	st := &store.Store{}
	_, err = middleware.NewVersionSkip(st, middleware.VersionSkipConfig{})
	require.ErrorContains(t, err, "VersionSkipConfig.States is required")
	_, err = middleware.NewVersionSkip(st, middleware.VersionSkipConfig{States: lineStates(), MaxAhead: -1})
	require.ErrorContains(t, err, "must not be negative")
}
