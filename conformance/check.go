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
	var pending []<-chan Result
	for _, f := range Facts() {
		if o.Only == nil || o.Only.MatchString(f.Name) {
			pending = append(pending, r.start(f))
		}
	}
	if len(pending) == 0 {
		return report, fmt.Errorf("conformance: no fact's name matches %v", o.Only)
	}
	for i, result := range pending {
		report.Results = append(report.Results, <-result)
		if o.Progress != nil {
			o.Progress(report.Results[i], i+1, len(pending))
		}
	}
	modest(report.Results)
	report.Took = time.Since(report.Began)

	return report, nil
}
