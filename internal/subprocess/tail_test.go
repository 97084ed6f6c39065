package subprocess_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/subprocess"
)

func TestTailKeepsTheEnd(t *testing.T) {
	t.Parallel()
	tail := subprocess.Tail{Most: 8}
	for i := range 4 {
		n, err := fmt.Fprintf(&tail, "line %d;", i)
		require.NoError(t, err)
		require.Equal(t, 7, n, "all of it was taken")
	}
	require.Equal(t, ";line 3;", tail.String())
}
