package middleware_test

import (
	"strings"
	"testing"

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
