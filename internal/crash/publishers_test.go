package crash_test

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/internal/step"
)

type tellingPublisher struct {
	message.Publisher

	published func(stockChanged)
}

func (p tellingPublisher) Publish(topic string, msgs ...*message.Message) error {
	if err := p.Publisher.Publish(topic, msgs...); err != nil {
		return err
	}
	for _, msg := range msgs {
		var change stockChanged
		if json.Unmarshal(msg.Payload, &change) == nil {
			p.published(change)
		}
	}
	return nil
}

// tooLatePublisher says that it has published and does it when the relay has
// confirmed: what a relay would be that confirms first.
type tooLatePublisher struct {
	message.Publisher

	mu      sync.Mutex
	pending []pending
}

type pending struct {
	topic string
	msgs  []*message.Message
}

func (p *tooLatePublisher) Publish(topic string, msgs ...*message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = append(p.pending, pending{topic, msgs})
	return nil
}

// watching returns a context whose steps publish what is pending after a
// confirmation, unless it was the process's last step.
func (p *tooLatePublisher) watching(ctx context.Context) context.Context {
	return step.With(ctx, func(_ context.Context, name string) {
		step.Reach(ctx, name)
		if name == step.RelayAfterConfirm {
			p.flush()
		}
	})
}

func (p *tooLatePublisher) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, late := range p.pending {
		_ = p.Publisher.Publish(late.topic, late.msgs...) // an error is a loss, too
	}
	p.pending = nil
}
