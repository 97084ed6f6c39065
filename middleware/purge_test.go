package middleware_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
)

type purged chan middleware.PurgeStats

func (p purged) OnPurge(s middleware.PurgeStats) { p <- s }

func TestConsumersOfAnyNameArePurged(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		told := make(purged, 1)
		for _, handler := range []string{"effect", "my handler", "Lädchen", "o'hara", `a\b`, strings.Repeat("x", 255)} {
			p, err := middleware.NewPurge(b.st, middleware.PurgeConfig{
				Consumers: []string{"test." + handler}, Hooks: []any{told},
			})
			require.NoError(t, err)
			p.PurgeNow(t.Context())
			require.NoError(t, (<-told).Err, handler)
		}
	})
}

// A moment's failure must not put the purge off until the next night.
func TestAPurgeThatFailsGoesOnUntilItFailsForLong(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		boom := errors.New("boom")
		for failures, want := range map[int]error{3: nil, 100: boom} {
			told, asked := make(purged, 1), 0
			p, err := middleware.NewPurge(b.st, middleware.PurgeConfig{
				Consumers: []string{"test.effect"}, Hooks: []any{told}, Pause: time.Microsecond,
				Backlog: func(context.Context, string) (int64, error) {
					if asked++; asked <= failures {
						return 0, boom
					}
					return 0, nil
				},
			})
			require.NoError(t, err)
			p.PurgeNow(t.Context())
			require.ErrorIs(t, (<-told).Err, want)
			require.Less(t, asked, 20)
		}
	})
}
