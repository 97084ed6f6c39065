package conformance

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found out about a broker.
type Report struct {
	Broker  string        `json:"broker"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Results []Result      `json:"results"`
}

// Failed returns the facts for which the run must not pass.
func (r Report) Failed() []Result {
	var failed []Result
	for _, result := range r.Results {
		if result.Failed {
			failed = append(failed, result)
		}
	}

	return failed
}

// Count returns how many facts got a verdict.
func (r Report) Count(v Verdict) int {
	n := 0
	for _, result := range r.Results {
		if result.Verdict == v {
			n++
		}
	}

	return n
}

// Text is the report for people: a line a fact, then the histories of what
// failed.
func (r Report) Text() string {
	var text strings.Builder
	_ = r.WriteText(&text) // a Builder takes everything

	return text.String()
}

// WriteText writes Text.
func (r Report) WriteText(w io.Writer) error {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: %d facts in %v: ", r.Broker, len(r.Results), r.Took.Round(time.Second/10))
	for i, v := range []Verdict{VerdictHolds, VerdictByHeadrace, VerdictOpen, VerdictNo, VerdictUnknown} {
		if i > 0 {
			text.WriteString(", ")
		}
		fmt.Fprintf(&text, "%d %s", r.Count(v), v)
	}
	fmt.Fprintf(&text, "; %d failed\n\n", len(r.Failed()))

	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, result := range r.Results {
		mark := " "
		if result.Failed {
			mark = "✗"
		}
		words := append(result.detail(), firstLine(result.Note))
		_, _ = fmt.Fprintf(table, "%s %s\t%s\t%.1fs\t%s\n", mark, result.Fact, result.Verdict, result.Took.Seconds(),
			strings.Join(words, "  "))
	}
	_ = table.Flush() // to a Builder

	for _, result := range r.Failed() {
		if len(result.History) == 0 && result.State == "" && result.Note == firstLine(result.Note) {
			continue // its line in the table says all
		}
		fmt.Fprintf(&text, "\n✗ %s: %s\n  %s: %s\n", result.Fact, result.Claim, result.Verdict, result.Note)
		if result.Topic != "" {
			fmt.Fprintf(&text, "  on topic %s\n", result.Topic)
		}
		if result.State != "" {
			fmt.Fprintf(&text, "  the broker says: %s\n", result.State)
		}
		for _, line := range result.History {
			text.WriteString("  " + line + "\n")
		}
	}
	_, err := io.WriteString(w, text.String())
	if err != nil {
		return fmt.Errorf("conformance: write the report: %w", err)
	}

	return nil
}

// detail is what a result says beside its verdict and note.
func (r Result) detail() (words []string) {
	switch {
	case r.Declaration == TooBold && r.Needs != "":
		words = append(words, "[too bold: "+r.Needs+" is declared]")
	case r.Declaration == TooBold:
		words = append(words, "[every broker must]")
	case r.Declaration == TooModest && r.Known != "":
		words = append(words, "[too modest: known as broken, and it held]")
	case r.Declaration == TooModest:
		words = append(words, "[too modest? "+r.Needs+" is not declared, and it held]")
	}
	if r.Known != "" && r.Declaration == "" {
		words = append(words, "[known: "+r.Known+"]")
	}

	return words
}

func firstLine(text string) string {
	line, _, cut := strings.Cut(text, "\n")
	if cut {
		line += " …"
	}

	return line
}

// WriteJSON writes the report for programs.
func (r Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("conformance: write the report as JSON: %w", err)
	}

	return nil
}

// Shape of a JUnit report, as test dashboards read it.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string     `xml:"classname,attr"`
		Name    string     `xml:"name,attr"`
		Time    string     `xml:"time,attr"`
		Failure *junitText `xml:"failure"`
		Error   *junitText `xml:"error"`
		Skipped *junitText `xml:"skipped"`
		Out     string     `xml:"system-out,omitempty"`
	}
	junitText struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML: what couldn't be tried because
// something went wrong is an error, what the harness has no hook for is skipped.
func (r Report) WriteJUnit(w io.Writer) error {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
	suite := junitSuite{Name: "conformance." + r.Broker, Tests: len(r.Results), Time: seconds(r.Took)}
	for _, result := range r.Results {
		group, name, _ := strings.Cut(result.Fact, "/")
		c := junitCase{Class: "conformance." + r.Broker + "." + group, Name: name, Time: seconds(result.Took)}
		text := &junitText{Message: firstLine(result.Note), Text: strings.Join(result.History, "\n")}
		switch {
		case result.Failed && result.Verdict == VerdictUnknown:
			suite.Errors++
			c.Error = text
		case result.Failed:
			suite.Failures++
			c.Failure = text
		case result.Verdict == VerdictUnknown:
			suite.Skipped++
			c.Skipped = text
		default:
			c.Out = strings.TrimSpace(strings.Join(slices.Concat([]string{string(result.Verdict)}, result.detail(),
				[]string{result.Note}), "  "))
		}
		suite.Cases = append(suite.Cases, c)
	}

	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("conformance: write the report as JUnit XML: %w", err)
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(suite); err != nil {
		return fmt.Errorf("conformance: write the report as JUnit XML: %w", err)
	}

	return nil
}
