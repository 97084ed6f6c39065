package conformance_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance"
)

const place = "# Guarantees\n\nBy hand.\n\n" +
	"<!-- Written by make matrix: from here -->\nyesterday's\n<!-- Written by make matrix: to here -->\n\nBelow.\n"

// column is a broker of which every fact got one verdict, but for some.
func column(name string, but map[string]conformance.Result) conformance.Column {
	c := conformance.Column{
		Report: conformance.Report{Broker: name},
		Tried:  brokers.Capabilities{KeyOrder: true, MaxBody: 1 << 20},
	}
	for _, f := range conformance.Facts() {
		r, other := but[f.Name]
		if !other {
			r.Verdict = conformance.VerdictHolds
		}
		r.Fact = f.Name
		c.Report.Results = append(c.Report.Results, r)
	}

	return c
}

func written(t *testing.T, columns ...conformance.Column) string {
	t.Helper()

	m := conformance.Matrix{Tables: []conformance.Table{{Title: "Alone", Columns: columns}}}
	text, err := m.Replace(place)
	require.NoError(t, err)
	again, err := m.Replace(text)
	require.NoError(t, err)
	require.Equal(t, text, again)

	return text
}

func TestMatrixIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	one := column("one", map[string]conformance.Result{
		"order/per key":   {Verdict: conformance.VerdictNo, Known: "keys are | ignored"},
		"order/total":     {Verdict: conformance.VerdictOpen, Note: "b-7 came before a-3"},
		"content/payload": {Verdict: conformance.VerdictByHeadrace},
	})
	two := column("two", map[string]conformance.Result{
		"order/per key": {Verdict: conformance.VerdictNo, Known: "keys are | ignored"},
		"content/UUID":  {Verdict: conformance.VerdictUnknown, Note: "the harness has no UUID\nand more"},
	})
	two.Default = &brokers.Capabilities{MaxBody: 1 << 10, AckDeadline: 90 * time.Second}
	text := written(t, one, two)

	for _, c := range []conformance.Column{one, two} {
		require.Empty(t, c.Differences("g.md", text, "Alone"))
	}
	require.Contains(t, text, "By hand.")
	require.Contains(t, text, "Below.")
	require.NotContains(t, text, "yesterday")
	require.Contains(t, text, "| no[^1] | no[^1] |")
	require.Contains(t, text, "[^1]: keys are | ignored.\n")
	require.Contains(t, text, "| largest body | 1 MiB | 1 KiB (tried: 1 MiB) |")
	require.Contains(t, text, "not tried: the harness has no UUID …")
	require.NotContains(t, text, "came before a-3", "what one run saw is no part of it")
	require.Len(t, conformance.Rows(text, "Alone"), len(conformance.Facts()))
}

func TestMatrixDifferencesSayWhatToDo(t *testing.T) {
	t.Parallel()
	one := column("one", nil)
	text := written(t, one)
	i := slices.IndexFunc(one.Report.Results, func(r conformance.Result) bool { return r.Fact == "order/per key" })

	one.Report.Results[i].Verdict = conformance.VerdictNo
	require.Equal(t, []string{"docs/g.md says holds for one order/per key (Alone), the run says no: run make matrix"},
		one.Differences("docs/g.md", text, "Alone"))
	one.Report.Results[i].Failed = true
	require.Empty(t, one.Differences("g.md", text, "Alone"), "a failure speaks for itself")

	one = column("one", nil)
	one.Tried.MaxBody = 0
	require.Equal(t, []string{`g.md says "1 MiB" for one largest body (Alone), it declares "none declared": run make matrix`},
		one.Differences("g.md", text, "Alone"))

	one = column("one", nil)
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "| `order/per key` ") {
			lines[i] = ""
		}
	}
	require.Equal(t, []string{"g.md says nothing of order/per key (Alone): run make matrix"},
		one.Differences("g.md", strings.Join(lines, ""), "Alone"))

	two := column("two", nil)
	differences := two.Differences("g.md", text, "Alone")
	require.Greater(t, len(differences), len(conformance.Facts()))
	require.Equal(t, "g.md says nothing of two about "+two.Report.Results[0].Fact+" (Alone): run make matrix", differences[0])

	two.Report.Results = two.Report.Results[:1]
	require.Len(t, two.Differences("g.md", text, "Alone"), 1+len(differences)-len(conformance.Facts()), "only what was tried")
}

func TestMatrixWithoutAPlaceIsRefused(t *testing.T) {
	t.Parallel()
	_, err := conformance.Matrix{}.Replace("# Guarantees\n")
	require.ErrorContains(t, err, "make matrix: from here")
}

func TestFactsBrokenAtTimesAreAlwaysNo(t *testing.T) {
	t.Parallel()
	h := harness(t, ordered())
	h.Sometimes = map[string]string{"delivery/a batch arrives whole": "on Sundays"}
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("delivery/a batch arrives whole")})
	require.NoError(t, err)
	require.Equal(t, conformance.VerdictNo, report.Results[0].Verdict)
	require.Equal(t, "on Sundays", report.Results[0].Known)
	require.Empty(t, report.Results[0].Declaration)
	require.False(t, report.Results[0].Failed)

	h.Sometimes = map[string]string{"delivery/a batch": "", "order/total": ""}
	_, err = conformance.Check(t.Context(), h, conformance.Options{})
	require.ErrorContains(t, err, `Sometimes names "delivery/a batch"`)
	require.ErrorContains(t, err, `Sometimes gives no reason for "order/total"`)
}

func TestWithoutHeadraceNothingIsOpen(t *testing.T) {
	t.Parallel()
	h := harness(t, plain())
	for bare, want := range map[bool]conformance.Verdict{false: conformance.VerdictOpen, true: conformance.VerdictNo} {
		h.Bare = bare
		report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("order/per key within a batch")})
		require.NoError(t, err)
		require.Equal(t, want, report.Results[0].Verdict)
	}
}
