package brokers_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
)

// guarantees is the document that holds the matrix. With HEADRACE_MATRIX=write
// (make matrix) a run of TestConformance and TestConformanceRaw rewrites it;
// without, each fact that was tried must be as it says.
const guarantees = "../docs/guarantees.md"

// The matrix has a table for each way to use brokers.
const (
	titleOpened = "As Headrace opens it"
	titleRaw    = "Watermill's adapters alone"
)

// columns are those of this run, by title and broker.
var columns = struct {
	sync.Mutex

	of map[string]map[string]conformance.Column
	// wrong: a test of this run has failed.
	wrong bool
}{of: map[string]map[string]conformance.Column{}}

// sideBySide tries brokers, those of different services at the same time: facts
// mostly wait.
func sideBySide(t *testing.T, names []string, try func(t *testing.T, broker int)) {
	t.Helper()

	byService := map[string][]int{}
	for i, name := range names {
		service := "databases, and Kafka"
		switch {
		case strings.HasPrefix(name, "sqs"):
			service = "sqs"
		case strings.HasPrefix(name, "mem"):
			service = name
		}
		byService[service] = append(byService[service], i)
	}
	var lanes sync.WaitGroup
	for _, lane := range byService {
		lanes.Go(func() {
			for _, i := range lane {
				t.Run(names[i], func(t *testing.T) { try(t, i) })
			}
		})
	}
	lanes.Wait()
}

// tryColumn tries a broker, and keeps the column that it makes or compares it
// with the document's.
func tryColumn(t *testing.T, title string, h conformance.Harness, c conformance.Column) {
	t.Helper()

	progress(title, h.Name, "begins")
	c.Tried = h.Capabilities
	c.Report = conformance.Run(t, h)
	if len(c.Report.Results) == 0 {
		return // -run chose none of it
	}
	if !writesMatrix() {
		text, err := os.ReadFile(guarantees)
		require.NoError(t, err)
		for _, difference := range c.Differences("docs/guarantees.md", string(text), title) {
			t.Error(difference)
		}

		return
	}

	progress(title, h.Name, fmt.Sprintf("done: %d facts, %d failed", len(c.Report.Results), len(c.Report.Failed())))
	for _, r := range c.Report.Results {
		if r.Declaration == conformance.TooModest {
			t.Errorf("%s is declared or known otherwise than it is: %s", r.Fact, r.Note)
		}
	}
	columns.Lock()
	defer columns.Unlock()
	if columns.of[title] == nil {
		columns.of[title] = map[string]conformance.Column{}
	}
	columns.of[title][h.Name] = c
}

func writesMatrix() bool { return os.Getenv("HEADRACE_MATRIX") == "write" }

// progress is for people who wait for make matrix.
func progress(title, broker, what string) {
	if writesMatrix() {
		_, _ = fmt.Fprintf(os.Stderr, "matrix: %s: %s: %s\n", title, broker, what)
	}
}

// writeMatrix rewrites the document when the last column is there.
func writeMatrix(t *testing.T) {
	t.Helper()

	columns.Lock()
	defer columns.Unlock()
	columns.wrong = columns.wrong || t.Failed()
	if !writesMatrix() || columns.wrong {
		return
	}
	m := conformance.Matrix{}
	for title, names := range allColumns(t) {
		table := conformance.Table{Title: title}
		for _, name := range names {
			c, there := columns.of[title][name]
			if !there {
				return // the other test isn't over
			}
			table.Columns = append(table.Columns, c)
		}
		m.Tables = append(m.Tables, table)
	}
	slices.SortFunc(m.Tables, func(a, b conformance.Table) int { return strings.Compare(a.Title, b.Title) })
	text, err := os.ReadFile(guarantees)
	require.NoError(t, err)
	replaced, err := m.Replace(string(text))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(guarantees, []byte(replaced), 0o644))
	progress("docs/guarantees.md", "written", "look at what has changed")
}

// allColumns are the names of all brokers, by title.
func allColumns(t *testing.T) map[string][]string {
	t.Helper()

	all := map[string][]string{}
	for _, c := range everyCase() {
		all[titleOpened] = append(all[titleOpened], c.name)
	}
	for _, c := range rawCases() {
		all[titleRaw] = append(all[titleRaw], c.name)
	}

	return all
}

// TestGuaranteesNameEveryFact needs no brokers: a fact that was added, renamed or
// removed is noticed by it.
func TestGuaranteesNameEveryFact(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(guarantees)
	require.NoError(t, err)
	var want []string
	for _, f := range conformance.Facts() {
		want = append(want, f.Name)
	}
	for title := range allColumns(t) {
		require.ElementsMatch(t, want, conformance.Rows(string(text), title), "docs/guarantees.md, %s: run make matrix", title)
	}
}
