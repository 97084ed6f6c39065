package conformance

import (
	"context"
	"fmt"
	"regexp"
	"time"
)

// Options of Check.
type Options struct {
	// Only tries the facts whose names match. Default: all.
	Only *regexp.Regexp

	// Progress is called with each result as it comes, one at a time. Optional.
	Progress func(r Result, done, all int)

	// Started is called when a fact begins to be tried, possibly several at once.
	// Optional.
	Started func(fact string)
}

// Check tries the facts on a broker and reports. The error says why nothing
// could be tried (it matches ErrHarness when that is the harness's fault); that
// facts fail is in the report. When the context ends, facts that aren't over are
// unknown.
func Check(ctx context.Context, h Harness, o Options) (Report, error) {
	r, err := newRunner(ctx, h)
	if err != nil {
		return Report{}, err
	}

	report := Report{Broker: h.Name, Began: time.Now()}
	r.started = o.Started
	var chosen []Fact
	for _, f := range Facts() {
		if o.Only == nil || o.Only.MatchString(f.Name) {
			chosen = append(chosen, f)
		}
	}
	if len(chosen) == 0 {
		return report, fmt.Errorf("conformance: no fact's name matches %v", o.Only)
	}
	type finished struct {
		place  int
		result Result
	}
	results := make(chan finished, len(chosen))
	for place, f := range chosen {
		pending := r.start(f)
		go func() { results <- finished{place, <-pending} }()
	}
	report.Results = make([]Result, len(chosen))
	for done := range chosen {
		last := <-results
		report.Results[last.place] = last.result
		if o.Progress != nil {
			o.Progress(last.result, done+1, len(chosen))
		}
	}
	modest(report.Results)
	report.Took = time.Since(report.Began)

	return report, nil
}
