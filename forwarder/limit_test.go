package forwarder

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func TestLargeRowsAreNotAskedForByTheThousand(t *testing.T) {
	t.Parallel()
	limit := readLimit{rows: 1000, most: 1000, bytes: 4 << 20}
	read := func(n, size int) (rows []store.OutboxRow) {
		for range n {
			rows = append(rows, store.OutboxRow{Payload: make([]byte, size)})
		}
		return rows
	}
	limit.learn(read(1000, 100), nil)
	require.Equal(t, 1000, limit.rows)
	limit.learn(read(5, 1<<20), nil)
	require.Equal(t, 5, limit.rows, "a reading ended by its bytes")
	limit.learn(read(2, 100), nil)
	require.Equal(t, 5, limit.rows, "the partition's last rows say nothing")
	for _, want := range []int{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		limit.learn(read(limit.rows, 100), nil)
		require.Equal(t, want, limit.rows)
	}
	for _, want := range []int{125, 15, 1, 1} {
		limit.learn(nil, errors.New("took too long"))
		require.Equal(t, want, limit.rows)
	}
	limit.learn(read(1, 16<<20), nil)
	require.Equal(t, 1, limit.rows, "one is asked for, however large")
}
