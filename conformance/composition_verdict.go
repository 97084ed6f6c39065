package conformance

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// findings is what is wrong in the services' databases.
type findings struct {
	story *story
	lines []string
	keys  map[string]bool // concerned
}

// verdict asks the databases, which alone know what was done.
func (s *story) verdict() Observation {
	f := &findings{story: s, keys: map[string]bool{}}
	for _, service := range s.services {
		if err := s.t.call("read a service's database", func() error { return f.judge(service) }); err != nil {
			s.t.Unknownf("service %s: %v", service.name, err)
		}
	}
	_, delivered, _ := s.progress()
	if len(f.lines) == 0 {
		o := HoldsWith("%d messages handled, in %d deliveries", s.total(), delivered)
		if len(s.missed) > 0 {
			o.Note += "; no message reached: " + strings.Join(s.missed, ", ")
		}

		return o
	}
	// The history of one key tells enough.
	concerned := slices.Sorted(maps.Keys(f.keys))

	return Lacks("%s; of %d messages to be handled, in %d deliveries (seed %d)",
		strings.Join(f.lines, "; "), s.total(), delivered, s.seed).Of(concerned[:min(1, len(concerned))]...)
}

// judge compares what a service's database holds with what it should.
func (f *findings) judge(of *service) error {
	ctx, expected := f.story.t.ctx, f.story.expected[of]
	ledger, err := of.database.ledger(ctx)
	if err != nil {
		return err
	}
	times := map[effect]int{}
	for _, e := range ledger {
		times[e]++
	}
	var lost, doubled []effect
	for _, e := range expected {
		switch n := times[e]; {
		case n == 0:
			lost = append(lost, e)
		case n > 1:
			doubled = append(doubled, e)
		}
		delete(times, e)
	}
	f.add(of, "lost", lost)
	f.add(of, "done more than once", doubled)
	f.add(of, "done and not asked for", slices.Collect(maps.Keys(times)))
	if f.story.ordered {
		f.add(of, "out of their key's order", f.story.disorder(ledger))
	}
	unsent, err := of.database.unsent(ctx)
	if err != nil {
		return err
	}
	if unsent > 0 {
		f.lines = append(f.lines, fmt.Sprintf("service %s: %d messages are left in the outbox", of.name, unsent))
	}
	remembered, err := of.database.remembered(ctx)
	if err != nil {
		return err
	}
	if remembered != len(expected) && !f.story.without(Dedupe) {
		f.lines = append(f.lines, fmt.Sprintf("service %s: the inbox remembers %d messages instead of %d",
			of.name, remembered, len(expected)))
	}

	return nil
}

// add says what is wrong with some effects, and names the first of them.
func (f *findings) add(of *service, what string, effects []effect) {
	if len(effects) == 0 {
		return
	}
	slices.SortFunc(effects, func(a, b effect) int { return cmp.Or(a.hop-b.hop, a.start-b.start) })
	const most = 3
	var named []string
	for _, e := range effects[:min(most, len(effects))] {
		named = append(named, f.story.name(e))
		f.keys[f.story.key(e.start)] = true
	}
	f.lines = append(f.lines, fmt.Sprintf("service %s: %d effects %s, such as %s",
		of.name, len(effects), what, strings.Join(named, ", ")))
}

// disorder returns the effects that came after a later one of their key and hop.
func (s *story) disorder(ledger []effect) (late []effect) {
	type line struct {
		key string
		hop int
	}
	last := map[line]int{}
	for _, e := range ledger {
		l := line{s.key(e.start), e.hop}
		if newest, seen := last[l]; seen && newest > e.start {
			late = append(late, e)
		}
		last[l] = max(last[l], e.start)
	}

	return late
}
