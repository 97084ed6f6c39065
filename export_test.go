package headrace

import "github.com/jonboulle/clockwork"

// Patience is how long a plugin may be in use without Attach.
const Patience = patience

// SetClock replaces the clock by which that is measured.
func (p *Plugin) SetClock(clock clockwork.Clock) { p.watch.clock = clock }
