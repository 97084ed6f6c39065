package testenv

import (
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// Proxy stands between a client and a service and takes the service away: the
// way to restart a database or a broker that other tests use, too. It is safe
// for concurrent use.
//
// It is a toxiproxy within the test's process, with a toxic of its own for Freeze.
type Proxy struct {
	gate *gate

	mu    sync.Mutex
	proxy *toxiproxy.Proxy
}

// Through starts a proxy in front of the service behind a URL and returns the
// URL by which clients go through it. It ends with the test.
func Through(t testing.TB, serviceURL string) (*Proxy, string) {
	t.Helper()

	address, err := url.Parse(serviceURL)
	require.NoError(t, err)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	// A port of its own: one that the kernel chose could be somebody else's after Cut.
	own := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort()))
	proxy := toxiproxy.NewProxy(server, t.Name(), own, address.Host)
	p := &Proxy{gate: newGate(), proxy: proxy}
	// From the beginning: a toxic that comes later waits, with everything else,
	// for whoever doesn't read.
	for _, toxic := range p.gate.toxics() {
		_, err := proxy.Toxics.AddToxicJson(strings.NewReader(toxic))
		require.NoError(t, err)
	}
	require.NoError(t, proxy.Start())
	t.Cleanup(p.end)
	address.Host = own

	return p, address.String()
}

// Cut breaks all connections, as the service's death would, and refuses new ones
// until Mend is called.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy.Stop()
}

// Freeze lets no byte pass in either direction, with all connections open, until
// Mend is called: a network that drops packets, a machine that sleeps.
func (p *Proxy) Freeze() { p.gate.shut() }

// Mend ends Cut and Freeze. It panics when the proxy's port was taken meanwhile.
func (p *Proxy) Mend() {
	p.gate.open()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proxy.Enabled {
		return
	}
	if err := p.proxy.Start(); err != nil {
		panic("testenv: the proxy can't be mended: " + err.Error())
	}
}

// Served returns how many connections were let through so far.
func (p *Proxy) Served() int { return p.gate.connections() }

func (p *Proxy) end() {
	p.gate.open()
	p.gate.forget()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy.Stop()
}
