package testenv

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/Shopify/toxiproxy/v2/toxics"
)

// gate is a toxic that holds bytes back and loses none. (Toxiproxy's timeout drops
// what it holds back.)
type gate struct {
	id   int64
	seen atomic.Int64 // connections

	mu   sync.Mutex
	flow chan struct{} // closed while bytes pass
}

// gates are those in use, by id: toxiproxy makes toxics from JSON.
var (
	gates    sync.Map     //nolint:gochecknoglobals // as said
	lastGate atomic.Int64 //nolint:gochecknoglobals // as said
)

func newGate() *gate {
	g := &gate{id: lastGate.Add(1), flow: make(chan struct{})}
	close(g.flow)
	gates.Store(g.id, g)

	return g
}

// toxics are the gate's two directions, as toxiproxy's API takes them.
func (g *gate) toxics() []string {
	const json = `{"type": "gate", "name": "gate_%[1]s", "stream": "%[1]s", "attributes": {"gate": %[2]d, "counts": %[3]t}}`

	return []string{fmt.Sprintf(json, "upstream", g.id, true), fmt.Sprintf(json, "downstream", g.id, false)}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen() {
		g.flow = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen() {
		close(g.flow)
	}
}

func (g *gate) isOpen() bool {
	select {
	case <-g.flow:
		return true
	default:
		return false
	}
}

func (g *gate) connections() int { return int(g.seen.Load()) }

func (g *gate) forget() { gates.Delete(g.id) }

func (g *gate) await() {
	g.mu.Lock()
	flow := g.flow
	g.mu.Unlock()
	<-flow
}

// gateToxic is one direction of a gate.
type gateToxic struct {
	Gate   int64 `json:"gate"`
	Counts bool  `json:"counts"`
}

func init() { //nolint:gochecknoinits // how toxics make themselves known
	toxics.Register("gate", new(gateToxic))
}

// Pipe passes what comes in one direction of one connection, its end included.
func (d *gateToxic) Pipe(stub *toxics.ToxicStub) {
	found, ok := gates.Load(d.Gate)
	if !ok {
		stub.Close() // the proxy has ended

		return
	}
	g := found.(*gate)
	if d.Counts {
		g.seen.Add(1)
	}
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			g.await()
			if chunk == nil {
				stub.Close()

				return
			}
			stub.Output <- chunk
		}
	}
}
