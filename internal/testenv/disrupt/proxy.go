// Package disrupt takes services away from tests: with a proxy, which leaves the service to
// the other tests, or by killing one that a test has to itself. It is apart from testenv,
// whose users needn't all link a proxy and its metrics.
package disrupt

import (
	"net"
	"net/url"
	"strconv"
	"sync"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// Proxy stands between a client and a service. It is safe for concurrent use.
//
// It is a toxiproxy within the test's process, with a toxic of its own.
type Proxy struct {
	t    testing.TB
	gate *gate

	mu    sync.Mutex // one Cut, Freeze or Mend at a time
	proxy *toxiproxy.Proxy
}

// Through starts a proxy in front of the service behind a URL and returns the
// URL by which clients go through it. It ends with the test.
func Through(t testing.TB, serviceURL string) (*Proxy, string) {
	t.Helper()

	address, err := url.Parse(serviceURL)
	require.NoError(t, err)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	own := net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort()))
	proxy := toxiproxy.NewProxy(server, t.Name(), own, address.Host)
	p := &Proxy{t: t, gate: newGate(), proxy: proxy}
	require.NoError(t, p.gate.placeIn(proxy))
	require.NoError(t, proxy.Start())
	t.Cleanup(p.end)
	address.Host = own

	return p, address.String()
}

// Cut breaks all connections, as the service's death would, and new ones as soon
// as they stand, until Mend is called. The test fails when the port is lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate.turnAway()
	p.proxy.Stop()
	// Now the port is anybody's, so it isn't left until Mend. It is free for moments,
	// and none that the kernel gives to who asks for any.
	if err := p.proxy.Start(); err != nil {
		p.t.Errorf("the proxy couldn't take its port back: %v", err)
	}
}

// Freeze lets no byte pass in either direction, with all connections open, until
// Mend is called: a network that drops packets, a machine that sleeps.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate.hold()
}

// Mend ends Cut and Freeze.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate.open()
}

// Served returns how many connections were let through so far.
func (p *Proxy) Served() int { return p.gate.connections() }

func (p *Proxy) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate.turnAway()
	p.proxy.Stop()
	p.gate.passing.Wait()
}
