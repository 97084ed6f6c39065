package toy

import (
	"slices"
	"time"
)

// most in hand at once per subscription, with lanes.
const workers = 16

// next takes the entry that a subscription may hand out now, or says how long
// there is certainly none. The lock is held.
func (s *subscription) next() (*entry, time.Duration) {
	b := s.s.b
	if b.down || s.deaf || s.s.frozen {
		return nil, time.Hour
	}
	if s.inHand() >= s.room() || b.has(TopicsBlockOthers) && b.anyElsewhere(s.g) {
		return nil, time.Hour
	}
	now, soonest := time.Now(), time.Hour
	var candidates []*entry
	blocked := map[string]bool{}
	for _, e := range s.g.entries {
		switch {
		case e.gone && (e.heard[s] || !b.has(ConsumersAllHear)):
			continue
		case blocked[e.key] && e.key != "", blocked[""] && b.config.TotalOrder && !b.has(OrdersKeysOnly):
			continue
		case e.holder != nil && !s.mayTakeFrom(e), e.ready.After(now):
			if e.holder == nil {
				soonest = min(soonest, e.ready.Sub(now))
			}
			if b.config.KeyOrder && !s.passes(e) {
				blocked[e.key], blocked[""] = true, true
			}
			if e.failures > 0 && b.has(PoisonBlocksAll) {
				return nil, soonest
			}
		default:
			candidates = append(candidates, e)
			if b.config.KeyOrder && !b.has(TwoOfAKey) {
				blocked[e.key], blocked[""] = true, true
			}
		}
	}
	if hot := slices.IndexFunc(s.g.entries, func(e *entry) bool { return s.g.hot(e.key) }); b.has(HotKeyStarves) && hot >= 0 {
		candidates = slices.DeleteFunc(candidates, func(e *entry) bool { return !s.g.hot(e.key) })
	}
	if len(candidates) == 0 {
		return nil, soonest
	}
	e := candidates[0]
	switch {
	case b.config.TotalOrder && !b.has(OrdersKeysOnly):
	case b.has(OrdersKeysOnly):
		e = candidates[len(candidates)-1]
	case !b.config.KeyOrder:
		e = candidates[b.random.IntN(len(candidates))]
	}
	e.holder, e.since = s, now
	e.heard[s] = true

	return e, 0
}

// passes reports that a key's next message may overtake this one, by a fault.
func (s *subscription) passes(e *entry) bool {
	b := s.s.b
	switch {
	case b.has(TwoOfAKey):
		return true
	case e.holder != nil && e.holder != s && b.has(TwoOfAKeyAtTwo):
		return true
	default:
		return false
	}
}

// mayTakeFrom reports that a message may be taken from who holds it, by a fault.
func (s *subscription) mayTakeFrom(e *entry) bool {
	return e.holder != s && !e.heard[s] && (s.s.b.has(HandsOutTwice) || s.s.b.has(ConsumersAllHear))
}

func (s *subscription) inHand() int {
	n := 0
	for _, e := range s.g.entries {
		if e.holder == s {
			n++
		}
	}

	return n
}

func (s *subscription) room() int {
	b := s.s.b
	if !b.config.Lanes || b.has(OneAtATime) {
		return 1
	}

	return workers
}

func (b *Broker) anyElsewhere(g *group) bool {
	for s := range b.all {
		if s.g != g && s.inHand() > 0 {
			return true
		}
	}

	return false
}

// hot reports that a key has a long backlog.
func (g *group) hot(key string) bool {
	const long = 20
	backlog := 0
	for _, e := range g.entries {
		if !e.gone && e.key == key {
			backlog++
		}
	}

	return backlog > long
}

func (g *group) moveToEnd(e *entry) {
	if i := slices.Index(g.entries, e); i >= 0 {
		g.entries = append(slices.Delete(g.entries, i, i+1), e)
	}
}

func (s *subscription) acked(e *entry, doubled bool) {
	b := s.s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	e.gone = !doubled
	if e.holder == s {
		e.holder = nil
	}
	b.wake()
}

func (s *subscription) nacked(e *entry) {
	b := s.s.b
	if b.has(NeverRedelivers) {
		s.acked(e, false)

		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e.failures++
	if b.has(DriftsAway) && e.failures >= 5 {
		e.gone = true
	}
	if b.has(ReordersAfterNack) {
		s.g.moveToEnd(e)
	}
	delay := b.config.NackDelay << min(e.failures-1, 4)
	if b.has(HotLoop) {
		delay = 0
	}
	e.ready = time.Now().Add(delay)
	if e.holder == s {
		e.holder = nil
	}
	if b.has(NackHitsAllGroups) {
		b.nackEverywhere(e)
	}
	b.wake()
}

// nackEverywhere has every group hear the message again.
func (b *Broker) nackEverywhere(e *entry) {
	for _, t := range b.topics {
		for _, g := range t.groups {
			for _, other := range g.entries {
				if other.msg == e.msg {
					other.gone = false
				}
			}
		}
	}
}

// release gives an entry back without a verdict.
func (s *subscription) release(e *entry) {
	b := s.s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.holder == s {
		e.holder = nil
		e.ready = time.Now()
	}
	b.wake()
}
