package disrupt

import (
	"fmt"
	"strings"
	"sync"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/stream"
	"github.com/Shopify/toxiproxy/v2/toxics"
)

// gate is what all connections of a proxy go through. It holds bytes back and loses
// none. (Toxiproxy's timeout drops what it holds back.)
type gate struct {
	// passing counts the directions of connections that haven't ended.
	passing sync.WaitGroup

	mu     sync.Mutex
	flow   chan struct{} // closed while bytes pass
	cut    chan struct{} // closed while everybody is turned away; a new one after that
	served int
}

func newGate() *gate {
	g := &gate{flow: make(chan struct{}), cut: make(chan struct{})}
	close(g.flow)

	return g
}

// placeIn puts the gate into a proxy that isn't started yet: a toxic that comes
// later waits, with everything else, for whoever doesn't read, and for ever when
// that one goes away.
func (g *gate) placeIn(proxy *toxiproxy.Proxy) error {
	for _, direction := range []stream.Direction{stream.Upstream, stream.Downstream} {
		added, err := proxy.Toxics.AddToxicJson(strings.NewReader(
			fmt.Sprintf(`{"type": %q, "stream": %q}`, gateType, direction)))
		if err != nil {
			return fmt.Errorf("a toxic for the proxy: %w", err)
		}
		added.Toxic.(*gateToxic).gate = g
		added.Toxic.(*gateToxic).counts = direction == stream.Upstream
	}

	return nil
}

// hold keeps back what comes from now on.
func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if isClosed(g.flow) {
		g.flow = make(chan struct{})
	}
}

// turnAway ends all connections, and each new one.
func (g *gate) turnAway() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !isClosed(g.cut) {
		close(g.cut)
	}
}

// open ends hold and turnAway.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !isClosed(g.flow) {
		close(g.flow)
	}
	if isClosed(g.cut) {
		g.cut = make(chan struct{})
	}
}

func (g *gate) connections() int {
	g.mu.Lock()
	defer g.mu.Unlock()

	return g.served
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// gateToxic is one direction of a gate.
type gateToxic struct {
	gate   *gate
	counts bool // so that one direction does
}

const gateType = "gate"

func init() { //nolint:gochecknoinits // how toxics make themselves known
	toxics.Register(gateType, new(gateToxic))
}

// NewState is called once a connection, before Pipe is, and before its proxy can
// have stopped. It returns what ends the connection: the next cut.
func (d *gateToxic) NewState() any {
	g := d.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passing.Add(1)
	if d.counts && !isClosed(g.cut) {
		g.served++
	}

	return g.cut
}

// Pipe passes what comes in one direction of one connection, its end included.
func (d *gateToxic) Pipe(stub *toxics.ToxicStub) {
	defer d.gate.passing.Done()

	cut := stub.State.(chan struct{})
	for more := true; more; {
		select {
		case chunk := <-stub.Input:
			more = d.gate.pass(chunk, stub.Output, cut)
		case <-cut:
			more = false
		}
	}
	stub.Close()
	for range stub.Input { //nolint:revive // toxiproxy's reader ends only when it is rid of what it has read
	}
}

// pass lets a chunk through when it may, and reports whether another may follow.
func (g *gate) pass(chunk *stream.StreamChunk, to chan<- *stream.StreamChunk, cut <-chan struct{}) bool {
	g.mu.Lock()
	flow := g.flow
	g.mu.Unlock()
	select {
	case <-flow:
	case <-cut:
		return false
	}
	if chunk == nil { // the end
		return false
	}
	select {
	case to <- chunk:
		return true
	case <-cut: // toxiproxy's writer takes nothing after its first error
		return false
	}
}
