package conformance

import (
	"bytes"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"
)

// leakLabel marks a fact's goroutines in profiles. A goroutine inherits the
// labels of the one that starts it, however deep inside a client library.
const leakLabel = "conformance"

func (t *Trial) label() string { return fmt.Sprintf("%p", t) }

// goroutinesOf counts the goroutines that a fact has made, by their stacks.
func goroutinesOf(label string) map[string]int {
	const withLabels = 1 // and with equal stacks counted
	var profile bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&profile, withLabels) // a Buffer takes everything
	found := map[string]int{}
	mark := fmt.Sprintf("%q:%q", leakLabel, label)
	for block := range strings.SplitSeq(profile.String(), "\n\n") {
		if !strings.Contains(block, mark) {
			continue
		}
		head, stack, _ := strings.Cut(block, "\n")
		count, _, _ := strings.Cut(head, " ")
		if n, err := strconv.Atoi(count); err == nil {
			found[stack] += n
		}
	}

	return found
}

// poll asks until something is so, for what sends no signal.
func (t *Trial) poll(patience time.Duration, is func() bool) bool {
	over := time.NewTimer(patience)
	defer over.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-over.C:
			return is()
		case <-t.ctx.Done():
			t.Unknownf("the fact's deadline was over")
		}
	}

	return true
}
