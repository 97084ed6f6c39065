package adopt_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
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
}

func newPartners(t *testing.T) *partners {
	t.Helper()
	p := &partners{troubles: map[string]func(){}, calls: map[string]int{}}
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
	if troubled {
		trouble()
		http.Error(w, "out of order", http.StatusInternalServerError)
	}
}

// handled counts the things that a call was made for.
func (p *partners) handled(call string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path := range p.calls {
		if strings.HasPrefix(path, call) {
			n++
		}
	}
	return n
}

// untroubled reports whether every trouble has happened.
func (p *partners) untroubled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.troubles) == 0
}
