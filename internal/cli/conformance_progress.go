package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/headrace-go/headrace/conformance"
)

// progressView shows how a run of the suite goes: on a terminal by one line that
// is written anew, and a line for each failure; elsewhere by a line a fact.
type progressView struct {
	app   *app
	began time.Time
	stop  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	running map[string]time.Time
	failed  int
	n, of   int
	said    time.Time
	broken  map[string]bool // why facts are unknown that were told so
}

func newProgressView(a *app, facts int) *progressView {
	v := &progressView{
		app: a, of: facts, began: time.Now(), said: time.Now(), stop: make(chan struct{}), ended: make(chan struct{}),
		running: map[string]time.Time{}, broken: map[string]bool{},
	}
	go v.tick()
	return v
}

func (v *progressView) tick() {
	defer close(v.ended)
	every := v.app.ProgressEvery
	if v.app.Terminal {
		every = min(every, time.Second)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			v.mu.Lock()
			v.waiting()
			v.mu.Unlock()
		case <-v.stop:
			return
		}
	}
}

// end removes the line.
func (v *progressView) end() {
	close(v.stop)
	<-v.ended
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clear()
	if !v.app.Terminal {
		v.app.sayf("")
	}
}

func (v *progressView) started(fact string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.running[fact] = time.Now()
	if v.app.Terminal {
		v.draw()
	}
}

func (v *progressView) done(r conformance.Result, done, all int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.running, r.Fact)
	v.n = done
	if r.Failed {
		v.failed++
	}
	if r.Failed && r.Verdict == conformance.VerdictUnknown {
		// When the broker is gone, one line says it for all that follow.
		if v.broken[r.Note] {
			return
		}
		v.broken[r.Note] = true
	}
	if !v.app.Terminal {
		v.said = time.Now()
		v.app.sayf("%*d/%d  %s", len(number(int64(all))), done, all, factLine(r))
		return
	}
	if r.Failed {
		v.clear()
		v.app.sayf("%s", factLine(r))
	}
	v.draw()
}

// factLine is one fact's result on a line.
func factLine(r conformance.Result) string {
	word := string(r.Verdict)
	if r.Failed {
		word += " ✗"
	}
	line := fmt.Sprintf("%-11s  %s  %s", word, r.Fact, rounded(r.Took))
	if r.Note != "" {
		line += "  " + cell(r.Note)
	}
	return line
}

// waiting says what takes long. The lock is held.
func (v *progressView) waiting() {
	const quiet = 10 // ticks, where each line stays
	if v.app.Terminal {
		v.draw()
		return
	}
	if len(v.running) == 0 || time.Since(v.said) < quiet*v.app.ProgressEvery {
		return
	}
	v.said = time.Now()
	v.app.sayf("still trying %s", v.slowest())
}

// slowest names the facts that are being tried, the oldest first.
func (v *progressView) slowest() string {
	facts := slices.SortedFunc(maps.Keys(v.running), func(a, b string) int { return v.running[a].Compare(v.running[b]) })
	const most = 3
	var named []string
	for _, fact := range facts[:min(most, len(facts))] {
		named = append(named, fmt.Sprintf("%s (%s)", fact, time.Since(v.running[fact]).Round(time.Second)))
	}
	if more := len(facts) - most; more > 0 {
		named = append(named, fmt.Sprintf("%d more", more))
	}
	return strings.Join(named, ", ")
}

// draw writes the line anew. The lock is held.
func (v *progressView) draw() {
	const width = 79 // wrapped lines can't be written anew
	line := fmt.Sprintf("%s  %d/%d", time.Since(v.began).Round(time.Second), v.n, v.of)
	if v.failed > 0 {
		line += fmt.Sprintf(", %d failed", v.failed)
	}
	if len(v.running) > 0 {
		line += "  " + v.slowest()
	}
	if runes := []rune(line); len(runes) > width {
		line = string(runes[:width-1]) + "…"
	}
	_, _ = fmt.Fprint(v.app.Err, "\r\x1b[K"+line) // nobody to tell when stderr is gone
}

// clear takes the line away. The lock is held.
func (v *progressView) clear() {
	if v.app.Terminal {
		_, _ = fmt.Fprint(v.app.Err, "\r\x1b[K")
	}
}
