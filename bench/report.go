package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// writeReport writes the figures of a whole run, with a chart for each
// comparison of two sides.
func writeReport(path string, results []result) error {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`; not edited by hand. Each comparison runs both sides on the same data " +
		"and servers, alternating them;\nthe value is the median of the rounds' ratios. A bar that falls short says so.\n\n")
	fmt.Fprintf(&b, "Machine: %d cores, %s/%s, %s. Postgres, Kafka and the load share it. %s.\n\n",
		runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version(), time.Now().UTC().Format("2006-01-02"))
	if rev, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		fmt.Fprintf(&b, "Measured at revision %s.\n\n", strings.TrimSpace(string(rev)))
	}
	b.WriteString("| name | value | bar | |\n| --- | --- | --- | --- |\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| [`%s`](#%s) | %.2f %s | %s %g | %s |\n", r.name, r.name, r.value, r.unit, r.op, r.comparison.bar, r.word())
	}
	for _, r := range results {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", r.name, r.what)
		fmt.Fprintf(&b, "| side | median | rounds |\n| --- | --- | --- |\n%s", row(r.ours, r.ourRuns))
		if r.compares() {
			b.WriteString(row(r.theirs, r.theirRuns))
			chart := filepath.Join(filepath.Dir(path), "benchmarks", r.name+".svg")
			if err := writeChart(chart, r); err != nil {
				return err
			}
			fmt.Fprintf(&b, "\n![%s](benchmarks/%s.svg)\n", r.name, r.name)
		}
		fmt.Fprintf(&b, "\nTook %s.\n", r.took.Round(time.Second))
	}
	return os.WriteFile(path, []byte(b.String()), 0o644) //nolint:gosec // documentation
}

func (r result) word() string {
	if r.ok() {
		return "ok"
	}
	return "**short**"
}

func row(s side, runs []float64) string {
	texts := make([]string, len(runs))
	for i, v := range runs {
		texts[i] = fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("| %s | %.0f %s | %s |\n", s.name, median(runs), s.unit, strings.Join(texts, ", "))
}

// writeChart draws one bar a side.
func writeChart(path string, r result) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // documentation
		return err
	}
	const width = 420.0
	ours, theirs := median(r.ourRuns), median(r.theirRuns)
	scale := width / max(ours, theirs)
	var b strings.Builder
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" width="680" height="90" font-family="sans-serif" font-size="13">` + "\n")
	for i, bar := range []struct {
		s     side
		value float64
		color string
	}{{r.ours, ours, "#2b6cb0"}, {r.theirs, theirs, "#a0aec0"}} {
		y := 15 + 35*i
		fmt.Fprintf(&b, `<text x="110" y="%d" text-anchor="end">%s</text>`+
			`<rect x="120" y="%d" width="%.1f" height="22" fill="%s"/>`+
			`<text x="%.1f" y="%d">%.0f %s</text>`+"\n",
			y+16, bar.s.name, y, bar.value*scale, bar.color, 126+bar.value*scale, y+16, bar.value, bar.s.unit)
	}
	b.WriteString("</svg>\n")
	return os.WriteFile(path, []byte(b.String()), 0o644) //nolint:gosec // documentation
}
