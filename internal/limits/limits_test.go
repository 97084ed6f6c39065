package limits

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOddRates(t *testing.T) {
	t.Parallel()
	require.True(t, Rate{}.Valid())
	require.Nil(t, Rate{}.Limiter())
	for _, bad := range []float64{-1, math.NaN(), math.Inf(1), math.Inf(-1)} {
		require.False(t, Rate{PerSecond: bad}.Valid(), bad)
	}
	for _, odd := range []float64{1e-300, 1e-9, 1e300} {
		limiter := Rate{PerSecond: odd}.Limiter()
		require.True(t, limiter.TryAcquirePermit(), odd)
	}
	require.Equal(t, 50*time.Millisecond, Rate{PerSecond: 20, Burst: 10}.Every())
	require.Nil(t, Breaker{}.New())
	require.True(t, Breaker{Failures: 1}.New().IsClosed())
}
