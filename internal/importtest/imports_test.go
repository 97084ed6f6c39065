package importtest

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// load asks the go command for the product's packages and all they depend on.
func load(t *testing.T) graph {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	list.Dir = root(t)
	watch(t, list.Dir)
	out, err := list.Output()
	require.NoError(t, err, "go list: %s", stderrOf(err))
	g := graph{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		g[words[0]] = words[1:]
	}
	require.Contains(t, g, module+"/store", "go list didn't see the product")
	return g
}

// watch looks at every folder of the module, so that a change in any of them
// makes the result that go test has cached for this one too old: it can't know
// what the go command has read.
func watch(t *testing.T, folder string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != folder && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		return err
	}))
}

func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMOD").Output()
	require.NoError(t, err, stderrOf(err))
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func stderrOf(err error) string {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

func TestPackagesImportOnlyWhatTheirRuleAllows(t *testing.T) {
	t.Parallel()
	require.Empty(t, violations(load(t), rules))
}

func TestCorePullsInNoClientDriverOrTestLibrary(t *testing.T) {
	t.Parallel()
	require.Empty(t, foreign(load(t)))
}

func TestNothingThatServicesLinkPullsInASuite(t *testing.T) {
	t.Parallel()
	require.Empty(t, suitesReached(load(t)))
}

func TestRulesHaveNoCircle(t *testing.T) {
	t.Parallel()
	require.Empty(t, circle(rules))
	seen := map[string]bool{}
	for _, r := range rules {
		require.False(t, seen[r.pkg], "%s has two rules", r.pkg)
		seen[r.pkg] = true
	}
	for _, pkg := range core {
		require.True(t, seen[pkg], "%s has no rule", pkg)
	}
}

// Files of other packages in this folder would be part of the product.
func TestBrokersTestHoldsTestsOnly(t *testing.T) {
	t.Parallel()
	require.Empty(t, notTests(t, filepath.Join(root(t), "brokers_test")))
}

// notTests lists the Go files in a folder that aren't tests.
func notTests(t *testing.T, folder string) (files []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			files = append(files, path)
		}
		return err
	}))
	return files
}
