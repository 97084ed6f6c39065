package doctest

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// tests are the names of the repository's test functions.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		code, err := os.ReadFile(path) //nolint:gosec // the repository's own
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllSubmatch(code, -1) {
			names[string(match[1])] = true
		}
		return nil
	})
	require.NoError(t, err)
	return names
}

// missing lists the tests that a page names and nobody has.
func missing(page []byte, known map[string]bool) (names []string) {
	for _, match := range regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(page, -1) {
		if !known[string(match[1])] {
			names = append(names, string(match[1]))
		}
	}
	return names
}

// A promise whose test is gone is no promise.
func TestPagesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	known := tests(t)
	require.Greater(t, len(known), 100, "the tests are found")
	require.Equal(t, []string{"TestNobodyHasWritten"}, missing([]byte("`TestNobodyHasWritten`"), known))
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range pages {
		text, err := os.ReadFile(page) //nolint:gosec // the repository's own
		require.NoError(t, err)
		require.Empty(t, missing(text, known), page)
	}
}

// Each row of the contract's first table names what protects, and a test.
func TestEveryBoundaryOfTheContractHasATest(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(root, "docs", "processing-contract.md"))
	require.NoError(t, err)
	_, rest, found := bytes.Cut(page, []byte("## Boundaries\n"))
	require.True(t, found)
	table, _, _ := bytes.Cut(rest, []byte("\n## "))
	rows := 0
	for line := range strings.Lines(string(table)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| |") || strings.HasPrefix(line, "| ---") {
			continue
		}
		rows++
		cells := strings.Split(strings.TrimSpace(line), "|")
		require.Len(t, cells, 7, line)
		require.NotEmpty(t, strings.TrimSpace(cells[4]), line)
		require.Contains(t, cells[5], "`Test", line)
	}
	require.GreaterOrEqual(t, rows, 20)
}
