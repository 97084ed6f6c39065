package conformance

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
)

// Points at which an instance of a service can crash, in the order in which a
// message reaches them.
const (
	afterReceive  = "a message was received"
	effectWritten = "the handler has written its effect"
	beforeAck     = "the transaction was committed, before the ack"
	beforePublish = "the relay is about to publish"
	afterPublish  = "the relay has published, before that is confirmed"
)

// crashPoints are all of them; those inside of Headrace are its own steps.
func crashPoints() []string {
	return []string{
		afterReceive, step.DedupeInserted, effectWritten, step.OutboxWritten, step.TxBeforeCommit, beforeAck,
		beforePublish, afterPublish,
	}
}

// errCrashed is what an instance that has crashed does from then on.
var errCrashed = errors.New("the instance has crashed, on purpose")

// process is what a crash ends: an instance's handlers and its relay, as if it
// had been killed. Its database connections are given back as the server does
// with those of a dead process: what is open is rolled back.
type process struct {
	mu      sync.Mutex
	armed   string
	over    bool
	crashed chan struct{} // closed at the crash
	buried  chan struct{} // closed when the broker may learn of it
}

func newProcess() *process {
	return &process{crashed: make(chan struct{}), buried: make(chan struct{})}
}

// arm has the process crash when a point is next reached; "" calls it off.
func (p *process) arm(point string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = point
}

// dies reports whether the process dies at a point, or is dead already.
func (p *process) dies(point string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over && p.armed == point {
		p.over = true
		close(p.crashed)
	}

	return p.over
}

// reach goes no further where the process dies.
func (p *process) reach(point string) {
	if p.dies(point) {
		panic(errCrashed)
	}
}

// steps has the process crash at Headrace's own steps. Those of brokers and of
// the relay are reached on goroutines that must not panic.
func (p *process) steps(ctx context.Context) context.Context {
	return step.With(ctx, func(_ context.Context, name string) {
		switch name {
		case step.DedupeInserted, step.OutboxWritten, step.TxBeforeCommit:
			p.reach(name)
		}
	})
}

// mortal is a handler in the process: when that dies, the broker hears nothing
// of the message until the process is buried.
func (p *process) mortal(over <-chan struct{}) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (produced []*message.Message, err error) {
			outer := msg.Context()
			defer func() {
				msg.SetContext(outer)
				if r := recover(); r != nil {
					if r != any(errCrashed) {
						panic(r)
					}
					select {
					case <-p.buried:
					case <-over:
					}
					produced, err = nil, errCrashed
				}
			}()
			msg.SetContext(p.steps(outer))
			p.reach(afterReceive)
			produced, err = h(msg)
			if err == nil {
				p.reach(beforeAck)
			}

			return produced, err
		}
	}
}

// relayTo is the publisher of the process's relay.
type relayTo struct {
	message.Publisher

	process *process
}

// Publish dies before or after. A dead process does not confirm what it has
// published, which is what the error is for.
func (r relayTo) Publish(topic string, messages ...*message.Message) error {
	if r.process.dies(beforePublish) {
		return errCrashed
	}
	if err := r.Publisher.Publish(topic, messages...); err != nil {
		return err //nolint:wrapcheck // the publisher's, as it is
	}
	if r.process.dies(afterPublish) {
		return errCrashed
	}

	return nil
}
