package conformance

import (
	"fmt"
	"regexp"
	"strings"
)

// Differences compares a column with what a document says about it, where the
// matrix has been put, and returns a sentence for each difference. Only facts
// that the column's report has are compared; those whose run failed are not, as
// that is said elsewhere. The document's name is for the sentences.
func (c Column) Differences(name, document, title string) []string {
	var found []string
	verdicts := readTables(document, title)
	say := func(format string, args ...any) {
		found = append(found, fmt.Sprintf(format, args...)+": run make matrix")
	}
	for _, r := range c.Report.Results {
		if r.Failed {
			continue
		}
		row, there := verdicts["`"+r.Fact+"`"]
		if !there {
			say("%s says nothing of %s (%s)", name, r.Fact, title)

			continue
		}
		switch says, there := row[c.Report.Broker]; {
		case !there:
			say("%s says nothing of %s about %s (%s)", name, c.Report.Broker, r.Fact, title)
		case says != string(r.Verdict):
			say("%s says %s for %s %s (%s), the run says %s", name, says, c.Report.Broker, r.Fact, title, r.Verdict)
		}
	}
	declared := readTables(document, "Limits: "+title)
	for _, l := range limits() {
		if says, is := declared[l.name][c.Report.Broker], c.limit(l); says != is {
			say("%s says %q for %s %s (%s), it declares %q", name, says, c.Report.Broker, l.name, title, is)
		}
	}

	return found
}

// Rows returns the names of facts about which a document has a row.
func Rows(document, title string) []string {
	var names []string
	for first := range readTables(document, title) {
		if fact, isFact := strings.CutPrefix(first, "`"); isFact {
			names = append(names, strings.TrimSuffix(fact, "`"))
		}
	}

	return names
}

var (
	footnoteMark = regexp.MustCompile(`\[\^\d+\]`)
	quotedName   = regexp.MustCompile("^`[^`]*`")
)

// readTables reads the cells of the tables below a heading: by the row's name,
// which is what is quoted in its first cell or else all of it, and by the
// column's.
func readTables(document, title string) map[string]map[string]string {
	rows := map[string]map[string]string{}
	_, section, _ := strings.Cut(document, "\n## "+title+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var columns []string
	for line := range strings.SplitSeq(section, "\n") {
		if !strings.HasPrefix(line, "|") {
			columns = nil

			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "\x00"), "| "), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(footnoteMark.ReplaceAllString(cells[i], ""))
		}
		switch {
		case columns == nil:
			columns = cells[1:]
		case strings.HasPrefix(cells[0], "---"):
		default:
			name := cells[0]
			if quoted := quotedName.FindString(name); quoted != "" {
				name = quoted
			}
			rows[name] = map[string]string{}
			for i, cell := range cells[1:] {
				if i < len(columns) {
					rows[name][columns[i]] = cell
				}
			}
		}
	}

	return rows
}
