package handlertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Counterexample is a sequence of events after which an invariant is broken.
type Counterexample struct {
	// Steps tell it in words.
	Steps []string
	// Broken is what the invariant said.
	Broken error
	// Replay is the code for Case.Replay.
	Replay string
	// Repeated: it broke when it was run again, too. False points to real
	// concurrency, in the handler or the database.
	Repeated bool
}

func (c *Counterexample) String() string {
	text := numbered(c.Steps) + fmt.Sprintf("  replay: Replay: %q", c.Replay)
	if !c.Repeated {
		text += "\n  (It did not break when it was run again: something in it runs at once that is not under control here.)"
	}
	return text
}

// Side is what was tried with Headrace, or without.
type Side struct {
	// Runs is how many sequences were tried, Of how many there are with so many
	// faults: index 0 holds those without any, 1 those with one, and so on.
	Runs, Of []int
	// Counterexample is the shortest sequence that breaks the invariant, or nil.
	Counterexample *Counterexample
}

// singles reports whether all sequences with one fault were tried.
func (s Side) singles() bool { return len(s.Of) > 1 && s.Runs[1] == s.Of[1] }

// String says how much was tried.
func (s Side) String() string {
	parts := make([]string, len(s.Runs))
	for faults, runs := range s.Runs {
		parts[faults] = fmt.Sprintf("%d of %d with %d faults", runs, s.Of[faults], faults)
		if faults == 1 {
			parts[faults] = strings.TrimSuffix(parts[faults], "s")
		}
	}
	return strings.Join(parts, ", ")
}

// The sides, as codes name them.
const (
	with    = "with"
	without = "without"
)

// Report is what was found.
type Report struct {
	Protected, Naked Side
}

// Explore is Run without a test: it looks for the shortest sequence that breaks
// the case's invariant, with Headrace and without. The error says that this was
// not possible. progress is told now and then how far it is; nil is none.
func Explore(ctx context.Context, c Case, progress func(string)) (report Report, err error) {
	c = c.withDefaults()
	if err := c.validate(); err != nil {
		return Report{}, err
	}
	var only plan
	replayed, code, _ := strings.Cut(c.Replay, " ")
	if c.Replay != "" {
		if replayed != with && replayed != without {
			return Report{}, fmt.Errorf("%w: %q", errCode, c.Replay)
		}
		if only, err = parsePlan(code, len(c.Messages)); err != nil {
			return Report{}, err
		}
	}
	e, err := open(ctx, c)
	if err != nil {
		return Report{}, err
	}
	defer func() {
		if freed := e.close(); err == nil {
			err = freed
		}
	}()
	if progress == nil {
		progress = func(string) {}
	}
	for _, side := range []struct {
		name  string
		found *Side
	}{{without, &report.Naked}, {with, &report.Protected}} {
		if c.Replay != "" && replayed != side.name {
			continue
		}
		name := side.name + " Headrace"
		s := search{
			e: e, name: side.name, left: c.Runs, until: time.Now().Add(c.Within),
			progress: func(far string) { progress(name + ": " + far) },
		}
		if c.Replay != "" {
			err = s.replay(ctx, only)
		} else {
			err = s.all(ctx)
		}
		*side.found = s.Side
		if err != nil {
			return report, fmt.Errorf("%s: %w", name, err)
		}
	}
	return report, nil
}

// search goes through sequences, the shorter ones first.
type search struct {
	Side

	e        *environment
	name     string // with or without
	left     int
	until    time.Time
	progress func(string)
}

func (s *search) all(ctx context.Context) error {
	var level []plan
	for sent := range s.e.c.Messages {
		level = append(level, plan{sent: sent + 1})
	}
	random := rand.New(rand.NewPCG(s.e.c.Seed, 0))
	for faults := 0; len(level) > 0 && s.left > 0; faults++ {
		s.Of = append(s.Of, len(level))
		s.Runs = append(s.Runs, 0)
		if len(level) > s.left {
			if faults > 1 { // those with one fault are tried shortest first, as far as it goes
				random.Shuffle(len(level), func(i, j int) { level[i], level[j] = level[j], level[i] })
			}
			level = level[:s.left]
			byCost(level)
		}
		var next []plan
		for _, p := range level {
			if time.Now().After(s.until) && s.Runs[0] > 0 {
				return nil
			}
			s.left--
			s.Runs[faults]++
			further, err := s.try(ctx, p)
			if err != nil || s.Counterexample != nil {
				return err
			}
			if s.Runs[faults]%100 == 0 {
				s.progress(s.String())
			}
			for _, c := range further {
				next = append(next, p.with(c))
			}
		}
		byCost(next)
		level = next
	}
	return nil
}

// replay runs one sequence, which must still be one.
func (s *search) replay(ctx context.Context, p plan) error {
	out, err := s.e.run(ctx, s.name == with, p)
	if err == nil && out.taken < len(p.choices) {
		err = fmt.Errorf("handlertest: Case.Replay %q no longer fits: only %d of its %d faults have a place in\n%s",
			s.e.c.Replay, out.taken, len(p.choices), numbered(out.story))
	}
	if err != nil {
		return err
	}
	_, err = s.try(ctx, p)
	return err
}

// try runs one sequence. One that breaks the invariant is run twice.
func (s *search) try(ctx context.Context, p plan) ([]choice, error) {
	out, err := s.e.run(ctx, s.name == with, p)
	if err != nil {
		return nil, fmt.Errorf("sequence %q: %w", p, err)
	}
	if out.broken == nil {
		return out.further, nil
	}
	second, err := s.e.run(ctx, s.name == with, p)
	if err != nil {
		return nil, fmt.Errorf("sequence %q, repeated: %w", p, err)
	}
	s.Counterexample = &Counterexample{
		Steps: slices.Clone(out.story), Broken: out.broken, Replay: s.name + " " + p.String(), Repeated: second.broken != nil,
	}
	return nil, nil
}
