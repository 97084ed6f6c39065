package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// comparison measures two sides against each other, or one alone.
type comparison struct {
	name string
	// what is measured, for the report.
	what string
	// ours and theirs return a rate, or for a single side its figure. theirs may
	// be missing.
	ours, theirs side
	// both measures the two sides at once, in place of their own functions.
	both   func(ctx context.Context, env servers, round int) (ours, theirs float64, err error)
	unit   string
	rounds int
	op     string
	bar    float64
	// worstOf are settings in place of sides, each with its own: the worst one's value
	// counts.
	worstOf []setting
}

// setting is where the same two sides meet.
type setting struct {
	name string
	both func(ctx context.Context, env servers, round int) (ours, theirs float64, err error)
}

type side struct {
	name string
	unit string
	run  func(ctx context.Context, env servers) (float64, error)
}

// result is what a comparison's rounds gave.
type result struct {
	comparison
	ourRuns, theirRuns []float64
	value              float64
	took               time.Duration
}

// worst compares in every setting, and returns the result of the one with the lowest
// value.
func (c comparison) worst(ctx context.Context, env servers) (worst result, err error) {
	began := time.Now()
	var each []string
	for _, s := range c.worstOf {
		at := c
		at.worstOf, at.both, at.name = nil, s.both, c.name+" "+s.name
		r, err := at.run(ctx, env)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", s.name, err)
		}
		each = append(each, fmt.Sprintf("%s %.2f", s.name, r.value))
		if worst.ourRuns == nil || r.value < worst.value {
			worst = r
		}
	}
	worst.what += " The worst counts, and is shown, of: " + strings.Join(each, ", ")
	worst.name, worst.took = c.name, time.Since(began)
	return worst, nil
}

// run alternates the sides, and which of them begins. The value is the median of
// the rounds' ratios: a round's two runs lie close together in time.
func (c comparison) run(ctx context.Context, env servers) (result, error) {
	if len(c.worstOf) > 0 {
		return c.worst(ctx, env)
	}
	began := time.Now()
	r := result{comparison: c}
	var values []float64
	for round := range c.rounds {
		ours, theirs, err := c.round(ctx, env, round)
		if err != nil {
			return result{}, err
		}
		r.ourRuns = append(r.ourRuns, ours)
		value := ours
		if c.compares() {
			r.theirRuns = append(r.theirRuns, theirs)
			value = ours / theirs
			fmt.Printf("%s round %d of %d: %s %.0f, %s %.0f, ratio %.2f\n",
				c.name, round+1, c.rounds, c.ours.name, ours, c.theirs.name, theirs, value)
		} else {
			fmt.Printf("%s round %d of %d: %.1f %s\n", c.name, round+1, c.rounds, ours, c.unit)
		}
		values = append(values, value)
	}
	r.value = median(values)
	r.took = time.Since(began)
	return r, nil
}

// compares tells from a side that is measured alone.
func (c comparison) compares() bool { return c.theirs.run != nil || c.both != nil }

func (c comparison) round(ctx context.Context, env servers, round int) (ours, theirs float64, err error) {
	if c.both != nil {
		return c.both(ctx, env, round)
	}
	first, second := func() error {
		ours, err = c.ours.run(ctx, env)
		return err
	}, func() error {
		if c.theirs.run != nil {
			theirs, err = c.theirs.run(ctx, env)
		}
		return err
	}
	if round%2 == 1 {
		first, second = second, first
	}
	if err := first(); err != nil {
		return 0, 0, err
	}
	return ours, theirs, second()
}

func (r result) ok() bool {
	if r.op == "<=" {
		return r.value <= r.comparison.bar
	}
	return r.value >= r.comparison.bar
}

func (r result) bar() string {
	verdict := "short"
	if r.ok() {
		verdict = "ok"
	}
	return fmt.Sprintf("bar %s %.2f %s want %s %g %s", r.name, r.value, r.unit, r.op, r.comparison.bar, verdict)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
