package conformance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/headrace-go/headrace/brokers"
)

// Matrix is what several brokers guarantee, side by side, as a document shows
// it. It holds verdicts and what is known about them, and nothing that differs
// from run to run.
type Matrix struct {
	Tables []Table
}

// Table is one way to use brokers.
type Table struct {
	Title   string
	Columns []Column
}

// Column is one broker.
type Column struct {
	// Report of a run of all facts.
	Report Report
	// Tried is what the harness declared.
	Tried brokers.Capabilities
	// Default is what the broker declares when nothing is configured. The zero
	// value: the same.
	Default *brokers.Capabilities
}

// Marks between which a document holds the matrix.
const (
	matrixBegin = "<!-- Written by make matrix: from here -->"
	matrixEnd   = "<!-- Written by make matrix: to here -->"
)

// Replace puts the matrix into a document, in place of the one between its marks.
func (m Matrix) Replace(document string) (string, error) {
	before, rest, begins := strings.Cut(document, matrixBegin)
	_, after, ends := strings.Cut(rest, matrixEnd)
	if !begins || !ends {
		return "", fmt.Errorf("conformance: the document has no place for the matrix: it needs the lines %q and %q",
			matrixBegin, matrixEnd)
	}

	return before + matrixBegin + "\n\n" + m.Markdown() + "\n" + matrixEnd + after, nil
}

// Markdown is the matrix as text: tables of verdicts, tables of limits and, below
// them, the reasons as footnotes.
func (m Matrix) Markdown() string {
	var text strings.Builder
	notes := &footnotes{}
	for _, table := range m.Tables {
		fmt.Fprintf(&text, "## %s\n\n", table.Title)
		for facts := range slices.Values(groupedFacts()) {
			fmt.Fprintf(&text, "### %s\n\n", facts[0].Group())
			table.head(&text, "fact")
			for _, f := range facts {
				fmt.Fprintf(&text, "| `%s` %s |", f.Name, cellText(f.Claim))
				for _, c := range table.Columns {
					fmt.Fprintf(&text, " %s |", c.cell(f, notes))
				}
				text.WriteString("\n")
			}
			text.WriteString("\n")
		}
	}
	for _, table := range m.Tables {
		fmt.Fprintf(&text, "## Limits: %s\n\n", table.Title)
		table.head(&text, "declared")
		for _, l := range limits() {
			fmt.Fprintf(&text, "| %s |", l.name)
			for _, c := range table.Columns {
				fmt.Fprintf(&text, " %s |", c.limit(l))
			}
			text.WriteString("\n")
		}
		text.WriteString("\n")
	}
	for i, reason := range notes.reasons {
		fmt.Fprintf(&text, "[^%d]: %s.\n", i+1, strings.TrimSuffix(reason, "."))
	}

	return text.String()
}

func (t Table) head(text *strings.Builder, first string) {
	fmt.Fprintf(text, "| %s |", first)
	for _, c := range t.Columns {
		fmt.Fprintf(text, " %s |", c.Report.Broker)
	}
	fmt.Fprintf(text, "\n| --- |%s\n", strings.Repeat(" --- |", len(t.Columns)))
}

// groupedFacts are all facts by their groups, both in the order of reports.
func groupedFacts() [][]Fact {
	var groups [][]Fact
	at := map[string]int{}
	for _, f := range Facts() {
		i, there := at[f.Group()]
		if !there {
			i = len(groups)
			at[f.Group()] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], f)
	}

	return groups
}

// footnotes are reasons, each once.
type footnotes struct{ reasons []string }

func (n *footnotes) mark(reason string) string {
	if reason == "" {
		return ""
	}
	i := slices.Index(n.reasons, reason)
	if i < 0 {
		i = len(n.reasons)
		n.reasons = append(n.reasons, reason)
	}

	return fmt.Sprintf("[^%d]", i+1)
}

func (c Column) cell(f Fact, notes *footnotes) string {
	for _, r := range c.Report.Results {
		if r.Fact == f.Name {
			return string(r.Verdict) + notes.mark(reason(f, r))
		}
	}

	return string(VerdictUnknown) + notes.mark("not tried")
}

// reason is what a footnote says about a result: what is known beforehand, never
// what one run saw.
func reason(f Fact, r Result) string {
	switch r.Verdict {
	case VerdictNo:
		return r.Known
	case VerdictOpen:
		return bringing(f.Issue)
	case VerdictUnknown:
		return "not tried: " + firstLine(r.Note)
	case VerdictHolds, VerdictByHeadrace:
	}

	return ""
}

// bringing says in plain words what will make up for a lack.
func bringing(work string) string {
	const notYet = ", which is not built yet"
	switch work {
	case orderIssue:
		return "It takes Headrace's own ordering in front of the broker" + notYet
	case groupsIssue:
		return "It takes Headrace's copying of one queue to several groups" + notYet
	case "parking":
		return "It takes Headrace's parking of messages that keep failing" + notYet
	case "deadline extension":
		return "It takes Headrace's extending of the deadline while a handler works" + notYet
	default:
		return "It takes Headrace's " + work + notYet
	}
}

// limit is a row of what brokers declare.
type limit struct {
	name string
	of   func(c brokers.Capabilities) string
}

func limits() []limit {
	is := func(yes bool) string {
		if yes {
			return "yes"
		}

		return "no"
	}

	return []limit{
		{"order", orderOf},
		{"consumer groups", func(c brokers.Capabilities) string { return is(c.Groups) }},
		{"a stuck key holds up no other", func(c brokers.Capabilities) string { return is(c.Lanes) }},
		{"survives all processes", func(c brokers.Capabilities) string { return is(c.Durable) }},
		{"ack and effects in one transaction", func(c brokers.Capabilities) string { return is(c.JoinsTx) }},
		{"nil payload stays nil", func(c brokers.Capabilities) string { return is(c.NilPayload) }},
		{"largest body", func(c brokers.Capabilities) string { return bytesOr("none declared", c.MaxBody) }},
		{"ack deadline", func(c brokers.Capabilities) string { return durationOr("none", c.AckDeadline) }},
		{"a frozen consumer loses its message after", func(c brokers.Capabilities) string {
			return durationOr("unknown", c.Takeover)
		}},
		{"copies may come for", func(c brokers.Capabilities) string { return durationOr("ever", c.RedeliveryWindow) }},
		{"repeats of one sending are dropped for", func(c brokers.Capabilities) string {
			return durationOr("none", c.SendDedup)
		}},
	}
}

func (c Column) limit(l limit) string {
	tried := l.of(c.Tried)
	if c.Default == nil {
		return tried
	}
	if usual := l.of(*c.Default); usual != tried {
		return usual + " (tried: " + tried + ")"
	}

	return tried
}

func orderOf(c brokers.Capabilities) string {
	switch {
	case c.TotalOrder:
		return "all of a topic"
	case c.KeyOrder:
		return "per key"
	default:
		return "none"
	}
}

func bytesOr(none string, n int) string {
	const kibi = 1 << 10
	switch {
	case n == 0:
		return none
	case n%(kibi*kibi) == 0:
		return fmt.Sprintf("%d MiB", n/kibi/kibi)
	case n%kibi == 0:
		return fmt.Sprintf("%d KiB", n/kibi)
	default:
		return fmt.Sprintf("%d B", n)
	}
}

func durationOr(none string, d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return none
	case d%day == 0:
		return fmt.Sprintf("%d d", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d%time.Second == 0:
		return fmt.Sprintf("%d s", d/time.Second)
	default:
		return d.String()
	}
}

// cellText keeps text within its cell.
func cellText(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
