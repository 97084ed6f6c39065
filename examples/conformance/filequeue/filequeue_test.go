//go:build unix

package filequeue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
)

// TestConformance tries all facts on the queue: go test -v shows what each came to.
//
//	go test -v -run 'TestConformance//order/per key'
func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("a test for the long run: make test")
	}
	report := conformance.Run(t, harness(t))
	for _, r := range report.Results {
		require.Empty(t, r.Declaration, "%s is declared otherwise than it is: %s", r.Fact, r.Note)
	}
}
