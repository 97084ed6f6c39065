package toy

import (
	"slices"

	"github.com/headrace-go/headrace/msgmeta"
)

// lose does what faults do to a message whose consumer goes.
func (s *subscription) lose(e *entry) {
	b := s.s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.has(ReordersOnLoss) {
		s.g.moveToEnd(e)
	}
	if b.has(ForgetsKeyOnLoss) {
		delete(e.msg.Metadata, msgmeta.Key)
	}
}

// leave does what faults do to a group when a consumer goes. The lock is held.
func (s *subscription) leave() {
	b := s.s.b
	last := -1
	for i, e := range s.g.entries {
		if e.gone {
			last = i
		}
	}
	for i, e := range s.g.entries {
		if b.has(CommitsPastHeld) && i < last || b.has(LosesNackedOnClose) && e.failures > 0 {
			e.gone = true
		}
	}
}

// crowd swaps the last two messages of a key that nobody has taken yet, if others
// were being published at the same time. The lock is held.
func (g *group) crowd(key string) {
	last := len(g.entries) - 1
	for i, e := range slices.Backward(g.entries[:max(last, 0)]) {
		if e.key == key && e.holder == nil && !e.gone {
			g.entries[i], g.entries[last] = g.entries[last], e

			return
		}
	}
}
