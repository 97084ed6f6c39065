package doctest

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// tests are the repository's test functions, and the files that they are in.
func tests(t *testing.T) map[string][]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	names := map[string][]string{}
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
		code, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllSubmatch(code, -1) {
			names[string(match[1])] = append(names[string(match[1])], filepath.Clean(path))
		}
		return nil
	})
	require.NoError(t, err)
	return names
}

// missing lists the tests that a page in docs names and nobody has, or which aren't in
// the file that it links.
func missing(page []byte, known map[string][]string) (names []string) {
	for _, match := range regexp.MustCompile("`(Test\\w+)`(?:\\]\\(([^)]*)\\))?").FindAllSubmatch(page, -1) {
		name, link := string(match[1]), string(match[2])
		files := known[name]
		if len(files) == 0 || link != "" && !slices.Contains(files, filepath.Join(root, "docs", link)) {
			names = append(names, name)
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
	self := "[`TestPagesNameTestsThatExist`](../internal/doctest/"
	require.Empty(t, missing([]byte(self+"contract_test.go)"), known))
	require.NotEmpty(t, missing([]byte(self+"doc.go)"), known))
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range pages {
		text, err := os.ReadFile(page)
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
		require.Contains(t, cells[5], "[`Test", line)
	}
	require.GreaterOrEqual(t, rows, 20)
}
