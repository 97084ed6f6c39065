package adopt_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// partners are the companies whose API the examples call between their writes
// and their publishes: where a call fails, or the process dies in it, a handler
// is half done.
type partners struct {
	url string

	mu       sync.Mutex
	troubles map[string]func()
	calls    map[string]int
	called   chan struct{}
}

func newPartners(t *testing.T) *partners {
	t.Helper()
	p := &partners{troubles: map[string]func(){}, calls: map[string]int{}, called: make(chan struct{}, 1)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// once makes the first call of a path fail, after doing something.
func (p *partners) once(path string, do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.troubles[path] = do
}

func (p *partners) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.calls[r.URL.Path]++
	trouble, troubled := p.troubles[r.URL.Path]
	delete(p.troubles, r.URL.Path)
	p.mu.Unlock()
	select {
	case p.called <- struct{}{}:
	default:
	}
	if troubled {
		trouble()
		http.Error(w, "out of order", http.StatusInternalServerError)
	}
}

// handled counts the paths that were called.
func (p *partners) handled() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.calls)
}

// untroubled reports whether every trouble has happened.
func (p *partners) untroubled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.troubles) == 0
}
