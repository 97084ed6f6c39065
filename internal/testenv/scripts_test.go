package testenv_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process that was killed and reaped while scripts/brokers looked at it must not
// end the script: bash does that at $(<file) of a file that is missing.
func TestBrokersScriptOutlivesAProcessThatIsGone(t *testing.T) {
	t.Parallel()
	const script = `set -euo pipefail
. ../../scripts/brokers.d/process.sh
true & wait $!
if ! birth $!; then echo not born; fi
if stopped $!; then echo stopped; fi`
	said, err := exec.CommandContext(t.Context(), "bash", "-c", script).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "not born\nstopped\n", string(said))
}
