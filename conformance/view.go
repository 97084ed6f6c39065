package conformance

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// View returns a subscriber of its own on one that is shared, for pub/subs that
// are publisher and all subscribers in one, such as those in memory: its Close
// ends the subscriptions that were made by it, and no others.
func View(shared message.Subscriber) message.Subscriber {
	return &view{shared: shared, closing: make(chan struct{})}
}

type view struct {
	shared message.Subscriber

	mu      sync.Mutex
	closing chan struct{}
	closed  bool
	running sync.WaitGroup
}

func (v *view) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, errors.New("the subscriber is closed")
	}
	ctx, cancel := context.WithCancel(ctx)
	in, err := v.shared.Subscribe(ctx, topic)
	if err != nil {
		cancel()

		return nil, err //nolint:wrapcheck // the shared subscriber's, as it is
	}
	out := make(chan *message.Message)
	v.running.Go(func() {
		defer close(out)
		defer cancel()
		v.pass(ctx, cancel, in, out)
	})

	return out, nil
}

// pass hands messages on until the subscription ends. Its context ends it, and
// Close by way of it.
func (v *view) pass(ctx context.Context, cancel func(), in <-chan *message.Message, out chan<- *message.Message) {
	closing := v.closing
	for {
		select {
		case msg, open := <-in:
			if !open {
				return
			}
			select {
			case out <- msg:
			case <-ctx.Done():
				msg.Nack()
			case <-closing:
				cancel()
				msg.Nack()
			}
		case <-closing:
			cancel()
			closing = nil // and wait for the shared one to end the channel
		}
	}
}

// Close ends the view's subscriptions and waits for them.
func (v *view) Close() error {
	v.mu.Lock()
	if !v.closed {
		v.closed = true
		close(v.closing)
	}
	v.mu.Unlock()
	v.running.Wait()

	return nil
}
