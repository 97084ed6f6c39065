// Package subprocess is what programs here need around the processes that they start:
// the end of what one logs, and its end with its parent.
package subprocess

import "sync"

// Tail keeps the end of what a process logs. Its methods may be called by several
// goroutines at once.
type Tail struct {
	// Most is how many bytes are kept. Default 64 KiB.
	Most int

	mu  sync.Mutex
	end []byte
}

const defaultMost = 64 << 10

// Write takes all of p.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	most := t.Most
	if most == 0 {
		most = defaultMost
	}
	t.end = append(t.end, p...)
	if excess := len(t.end) - most; excess > 0 {
		t.end = append([]byte(nil), t.end[excess:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.end)
}
