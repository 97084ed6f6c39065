package conformance_test

import (
	"context"
	"io"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
)

// toyProcess is a process that isn't one: all that comes and goes passes it, and
// it can be frozen and killed.
type toyProcess struct {
	sub  message.Subscriber
	b    *toy.Broker
	in   *io.PipeWriter
	out  *io.PipeReader
	gone chan struct{}
	kill func()

	mu   sync.Mutex
	flow chan struct{} // closed while it isn't frozen
}

func startToy(b *toy.Broker, sub message.Subscriber, topic string) *toyProcess {
	inRead, inWrite := io.Pipe()
	outRead, outWrite := io.Pipe()
	p := &toyProcess{b: b, sub: sub, in: inWrite, out: outRead, gone: make(chan struct{}), flow: make(chan struct{})}
	close(p.flow)
	p.kill = sync.OnceFunc(func() {
		_ = inWrite.Close()
		_ = outWrite.Close()
	})
	go func() {
		defer close(p.gone)
		_ = conformance.ServeConsumer(context.Background(), sub, topic, inRead, outWrite)
		p.kill()
		_ = inRead.Close()
		_ = sub.Close()
	}()

	return p
}

// flowing waits while the process is frozen.
func (p *toyProcess) flowing() {
	p.mu.Lock()
	flow := p.flow
	p.mu.Unlock()
	<-flow
}

func (p *toyProcess) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	p.flowing()

	return n, err
}

func (p *toyProcess) Write(b []byte) (int, error) {
	p.flowing()

	return p.in.Write(b)
}

func (p *toyProcess) Kill() error {
	_ = p.Resume()
	p.kill()
	<-p.gone

	return nil
}

func (p *toyProcess) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flow = make(chan struct{})
	p.b.Freeze(p.sub, true)

	return nil
}

func (p *toyProcess) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.flow:
	default:
		close(p.flow)
	}
	p.b.Freeze(p.sub, false)

	return nil
}

func (p *toyProcess) Wait() error {
	<-p.gone

	return nil
}
