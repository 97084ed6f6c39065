package conformance_test

import (
	"os"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
)

func TestEveryFieldOfTheHarnessAndEveryVerdictIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/conformance.md")
	require.NoError(t, err)
	for field := range reflect.TypeFor[conformance.Harness]().Fields() {
		require.Regexp(t, "\n\\| `"+field.Name+"` \\|", string(text))
	}
	for _, v := range []conformance.Verdict{
		conformance.VerdictHolds, conformance.VerdictByHeadrace, conformance.VerdictOpen, conformance.VerdictNo,
		conformance.VerdictUnknown,
	} {
		require.Contains(t, string(text), "\n| **"+string(v)+"** |")
	}
}
