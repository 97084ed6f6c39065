package adopt_test

import (
	"sync"
	"testing"
)

// supervised is a program that is started again when it dies, as a platform
// does.
type supervised struct {
	start func() *process

	mu      sync.Mutex
	running *process
}

func (e *environment) supervise(t *testing.T, binary string, env ...string) *supervised {
	t.Helper()
	s := &supervised{start: func() *process { return e.start(t, binary, "worker", env...) }}
	s.running = s.start()
	return s
}

// crash kills the program and starts it again.
func (s *supervised) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running.kill()
	s.running = s.start()
}

func (s *supervised) stop(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running.stop(t)
}
