package cli

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/headrace-go/headrace/conformance"
)

// tell writes all reports, and says what is left at the broker.
func (s *suite) tell(report conformance.Report, files files) error {
	cases := report // dashboards make a tree of dots and slashes, of which an address has many
	cases.Broker = s.kind
	for _, f := range []struct {
		file  *os.File
		write func(io.Writer) error
	}{{files.junit, cases.WriteJUnit}, {files.json, report.WriteJSON}} {
		if f.file == nil {
			continue
		}
		if err := f.write(f.file); err != nil {
			return fmt.Errorf("%s: %w", f.file.Name(), err)
		}
	}
	err := func() error {
		if !s.json {
			return s.write(s.text(report))
		}
		var text bytes.Buffer
		if err := report.WriteJSON(&text); err != nil {
			return err
		}
		return s.write(text.String())
	}()
	if err != nil {
		return err
	}
	s.tellLeft()
	if len(report.Failed()) > 0 {
		return errFound
	}
	return nil
}

// tellLeft says which topics are still there.
func (s *suite) tellLeft() {
	s.topics.mu.Lock()
	defer s.topics.mu.Unlock()
	left := slices.Sorted(maps.Keys(s.topics.left))
	switch {
	case len(left) == 0:
	case s.keep:
		s.sayf("Kept %s, named conf_…", plural(int64(len(left)), "topic"))
	default:
		why := "not let go in time"
		for _, topic := range left {
			if err := s.topics.left[topic]; err != nil {
				why = oneLine(s.secrets.Text(err.Error()))
				break
			}
		}
		s.sayf("%s could not be deleted: %s\n  %s", plural(int64(len(left)), "topic"), why, strings.Join(left, "\n  "))
	}
}

// scrubbed takes the URL's secrets out of what the broker said.
func (s *suite) scrubbed(report conformance.Report) conformance.Report {
	for i, r := range report.Results {
		r.Note, r.State = s.secrets.Text(r.Note), s.secrets.Text(r.State)
		for j, line := range r.History {
			r.History[j] = s.secrets.Text(line)
		}
		report.Results[i] = r
	}
	report.Broker = s.broker.Name()
	return report
}

// text is the report for people: what isn't guaranteed or known, then what failed;
// and what holds where it was asked for.
func (s *suite) text(report conformance.Report) string {
	var out strings.Builder
	with := func(v conformance.Verdict) (results []conformance.Result) {
		for _, r := range report.Results {
			if r.Verdict == v && !r.Failed {
				results = append(results, r)
			}
		}
		return results
	}
	section(&out, "By Headrace: the broker doesn't promise it; with Headrace it holds", with(conformance.VerdictByHeadrace))
	section(&out, "Open: the broker doesn't promise it, and Headrace doesn't make up for it yet", with(conformance.VerdictOpen))
	section(&out, "No: the broker doesn't promise it, or is known to break it", with(conformance.VerdictNo))
	if s.verbose {
		section(&out, "Holds", with(conformance.VerdictHolds))
	}
	writeUntried(&out, with(conformance.VerdictUnknown))
	writeFailures(&out, report.Failed())

	fmt.Fprintf(&out, "%s about %s in %s: ", plural(int64(len(report.Results)), "fact"), report.Broker, rounded(report.Took))
	for _, v := range []conformance.Verdict{
		conformance.VerdictHolds, conformance.VerdictByHeadrace, conformance.VerdictOpen, conformance.VerdictNo,
		conformance.VerdictUnknown,
	} {
		if n := report.Count(v); n > 0 {
			fmt.Fprintf(&out, "%s %d, ", v, n)
		}
	}
	fmt.Fprintf(&out, "failed %d\n", len(report.Failed()))
	return out.String()
}

// writeFailures shows what failed. Facts that are unknown for one reason, as when
// the broker is gone, share it.
func writeFailures(out *strings.Builder, failed []conformance.Result) {
	alike := map[string][]string{}
	for _, r := range failed {
		if len(r.History) == 0 {
			alike[r.Note] = append(alike[r.Note], r.Fact)
		}
	}
	told := map[string]bool{}
	for _, r := range failed {
		facts := alike[r.Note]
		if len(r.History) > 0 || len(facts) == 1 {
			writeFailure(out, r)
			continue
		}
		if !told[r.Note] {
			told[r.Note] = true
			fmt.Fprintf(out, "✗ %s are %s: %s\n", plural(int64(len(facts)), "fact"), r.Verdict, indented(r.Note))
			for _, fact := range facts {
				fmt.Fprintf(out, "    %s\n", fact)
			}
			out.WriteString("\n")
		}
	}
}

// writeFailure shows a fact that failed, with what happened to its messages.
func writeFailure(out *strings.Builder, r conformance.Result) {
	fmt.Fprintf(out, "✗ %s: %s\n  %s: %s\n", r.Fact, r.Claim, r.Verdict, indented(r.Note))
	if r.Needs != "" && r.Declaration == conformance.TooBold {
		fmt.Fprintf(out, "  %s is declared of this broker\n", r.Needs)
	}
	if r.Topic != "" {
		fmt.Fprintf(out, "  topic: %s\n", r.Topic)
	}
	if r.State != "" {
		fmt.Fprintf(out, "  the broker says: %s\n", indented(r.State))
	}
	for _, line := range r.History {
		fmt.Fprintf(out, "  %s\n", line)
	}
	out.WriteString("\n")
}

func indented(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") }

// section lists facts with what was seen.
func section(out *strings.Builder, title string, results []conformance.Result) {
	if len(results) == 0 {
		return
	}
	fmt.Fprintf(out, "%s\n", title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range results {
		note := oneLine(r.Note)
		if note == "" && r.Verdict != conformance.VerdictHolds {
			note = "it held here, which is no promise"
		}
		if r.Known != "" {
			note = strings.TrimSuffix("known: "+r.Known+"; seen: "+note, "; seen: ")
		}
		if r.Declaration == conformance.TooModest {
			note = strings.TrimSuffix("it held here all the same; "+note, "; ")
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\n", r.Fact, note)
	}
	_ = w.Flush() // to a Builder
	out.WriteString("\n")
}

// hookOf returns the function of the harness without which a fact can't be tried.
func hookOf(note string) (name string, is bool) {
	name, is = strings.CutPrefix(note, "the harness has no ")
	return name, is && !strings.Contains(name, " ")
}

// writeUntried lists facts that need more than a URL, by what they need.
func writeUntried(out *strings.Builder, results []conformance.Result) {
	if len(results) == 0 {
		return
	}
	var order []string
	facts := map[string][]string{}
	for _, r := range results {
		if facts[r.Note] == nil {
			order = append(order, r.Note)
		}
		facts[r.Note] = append(facts[r.Note], r.Fact)
	}
	out.WriteString("Unknown: it takes more than a URL (docs/conformance.md)\n")
	for _, note := range order {
		why := oneLine(note)
		if hook, is := hookOf(note); is {
			why = "Harness." + hook
		}
		fmt.Fprintf(out, "  %s: %s\n", why, strings.Join(facts[note], ", "))
	}
	out.WriteString("\n")
}

// planned is a fact as --dry-run tells it.
type planned struct {
	Fact     string `json:"fact"`
	Claim    string `json:"claim"`
	Expected string `json:"expected"`
}

// plan says what would be tried.
func (s *suite) plan(h conformance.Harness) error {
	var facts []planned
	for _, f := range s.chosen() {
		facts = append(facts, planned{f.Name, f.Claim, expected(f, h)})
	}
	if s.json {
		return s.printJSON(facts)
	}
	s.announce(h)
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, f := range facts {
		_, _ = fmt.Fprintf(w, "%s\t%s\n", f.Fact, f.Expected)
	}
	_ = w.Flush() // to a Builder
	return s.write(out.String())
}

// expected says what a fact must come to.
func expected(f conformance.Fact, h conformance.Harness) string {
	if f.Missing != nil {
		if missing := f.Missing(h); missing != "" {
			if hook, is := hookOf(missing); is {
				return "unknown: needs Harness." + hook + ", so a Go test"
			}
			return "unknown: " + missing
		}
	}
	switch {
	case h.Known[f.Name] != "":
		return "known to break: " + h.Known[f.Name]
	case f.Optional:
		return "tried; nobody promises it"
	case f.Needs.In == nil:
		return "must hold on every broker"
	case f.Needs.In(h.Capabilities):
		return "must hold: " + f.Needs.Name + " is declared"
	}
	return "tried; " + f.Needs.Name + " is not declared"
}
