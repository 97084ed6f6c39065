package testenv

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy stands between a client and a service and takes the service away: the
// way to restart a database or a broker that other tests use, too. It is safe
// for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	down  bool
	ended bool
	// flow is closed while bytes pass.
	flow   chan struct{}
	frozen bool
	served int
}

// Through starts a proxy in front of the service behind a URL and returns the
// URL by which clients go through it. It ends with the test.
func Through(t testing.TB, serviceURL string) (*Proxy, string) {
	t.Helper()

	address, err := url.Parse(serviceURL)
	require.NoError(t, err)
	var listen net.ListenConfig
	listener, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{
		target: address.Host, listener: listener, conns: map[net.Conn]struct{}{}, flow: make(chan struct{}),
	}
	close(p.flow)
	p.running.Go(p.accept)
	t.Cleanup(p.end)
	address.Host = listener.Addr().String()

	return p, address.String()
}

// Cut breaks all connections, as the service's death would, and refuses new ones
// until Mend is called.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	p.breakAll()
}

// Freeze lets no byte pass in either direction, with all connections open, until
// Mend is called: a network that drops packets, a machine that sleeps.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.frozen {
		p.frozen, p.flow = true, make(chan struct{})
	}
}

// Mend ends Cut and Freeze.
func (p *Proxy) Mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
	if p.frozen {
		p.frozen = false
		close(p.flow)
	}
}

// Served returns how many connections were let through so far.
func (p *Proxy) Served() int {
	p.mu.Lock()
	defer p.mu.Unlock()

	return p.served
}

func (p *Proxy) end() {
	p.Mend()
	_ = p.listener.Close() // an error says that it is closed
	p.mu.Lock()
	p.ended = true
	p.breakAll()
	p.mu.Unlock()
	p.running.Wait()
}

// breakAll resets the connections: nothing that is on its way arrives.
func (p *Proxy) breakAll() {
	for conn := range p.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // best effort: Close breaks it in any case
		}
		_ = conn.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}

			continue
		}
		p.running.Go(func() { p.serve(conn) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	var dialer net.Dialer
	service, err := dialer.DialContext(context.Background(), "tcp", p.target) // a local port answers at once
	if err != nil {
		_ = client.Close()

		return
	}
	p.mu.Lock()
	p.conns[client], p.conns[service] = struct{}{}, struct{}{}
	if p.down || p.ended {
		p.breakAll() // which is these two
	} else {
		p.served++
	}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.pass(service, client) })
	both.Go(func() { p.pass(client, service) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, service)
}

// pass copies until either side ends, and then ends both.
func (p *Proxy) pass(to, from net.Conn) {
	defer to.Close()   //nolint:errcheck // it may be closed already
	defer from.Close() //nolint:errcheck // as said
	const most = 32 << 10
	buffer := make([]byte, most)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		flow := p.flow
		p.mu.Unlock()
		<-flow
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return // io.EOF included
		}
	}
}
