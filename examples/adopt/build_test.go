package adopt_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxPatch is how many added and removed lines adoption may take.
const maxPatch = 10

// patch copies an example's files into a directory of their own, applies its
// patch there, and returns the directory.
func patch(t *testing.T, app string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "examples", "adopt", app)
	require.NoError(t, os.CopyFS(dir, os.DirFS(app)))

	file, err := filepath.Abs(filepath.Join(app, "headrace.patch"))
	require.NoError(t, err)
	git := exec.CommandContext(t.Context(), "git", "apply", "--whitespace=error-all", file)
	git.Dir = root
	// The directory may lie within some repository, whose root it isn't.
	git.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(root))
	out, err := git.CombinedOutput()
	require.NoError(t, err, "git apply: %s", out)
	return dir
}

// build compiles an example, before its patch or after it. With any parts the
// files that name the database and the broker are replaced by ones that take
// every URL, and the placeholders by those of the database.
func build(t *testing.T, app string, patched bool, p parts) string {
	t.Helper()
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	replace := map[string]string{}
	if patched {
		replace[filepath.Join(here, app, "main.go")] = filepath.Join(patch(t, app), "main.go")
	}
	if !p.own {
		for _, name := range []string{"broker.go", "database.go"} {
			replace[filepath.Join(here, app, name)] = filepath.Join(here, "testdata", "any", name)
		}
		replace[filepath.Join(here, app, "queries.go")] = rebound(t, filepath.Join(app, "queries.go"), p)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	dir := t.TempDir()
	overlayFile, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, app)
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlayFile, "-o", binary, "./"+app).CombinedOutput()
	require.NoError(t, err, "go build: %s", out)
	return binary
}

var postgresPlaceholder = regexp.MustCompile(`\$\d`)

func rebound(t *testing.T, file string, p parts) string {
	t.Helper()
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	if !strings.HasPrefix(p.db, "postgres") {
		source = postgresPlaceholder.ReplaceAll(source, []byte("?"))
	}
	changed := filepath.Join(t.TempDir(), "queries.go")
	require.NoError(t, os.WriteFile(changed, source, 0o600))
	return changed
}

func TestS71_ThePatchesAreTenLinesAndTouchNoHandler(t *testing.T) {
	t.Parallel()
	for _, app := range []string{"router", "cqrs"} {
		t.Run(app, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join(app, "headrace.patch"))
			require.NoError(t, err)
			changed := 0
			for line := range strings.Lines(string(text)) {
				added := strings.HasPrefix(line, "+") && !strings.HasPrefix(line, "+++")
				removed := strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "---")
				if added || removed {
					changed++
				}
			}
			require.Positive(t, changed)
			require.LessOrEqual(t, changed, maxPatch)

			before, after := os.DirFS(app), os.DirFS(patch(t, app))
			files, err := filepath.Glob(filepath.Join(app, "*.go"))
			require.NoError(t, err)
			for _, file := range files {
				if strings.HasSuffix(file, "_test.go") { // they try the handlers with Headrace and without
					continue
				}
				name := filepath.Base(file)
				was, err := fs.ReadFile(before, name)
				require.NoError(t, err)
				is, err := fs.ReadFile(after, name)
				require.NoError(t, err)
				if name == "main.go" {
					require.NotContains(t, string(was), `"github.com/headrace-go/headrace`)
					require.NotEqual(t, string(was), string(is))
					continue
				}
				require.Equal(t, string(was), string(is), name)
				require.NotContains(t, string(is), "headrace", name)
			}
		})
	}
}
