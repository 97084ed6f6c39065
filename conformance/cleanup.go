package conformance

import (
	"context"
	"sync"
	"time"
)

// end lets go of all that a fact has opened, in bounded time, and returns what
// didn't end.
func (t *Trial) end(bound time.Duration) (left string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.endAll(bound)
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return ""
	case <-timer.C:
		return "what the fact had opened did not close within " + bound.String()
	}
}

func (t *Trial) endAll(bound time.Duration) {
	t.mu.Lock()
	consumers, closers, pub := t.consumers, t.closers, t.publisher
	t.mu.Unlock()

	var wg sync.WaitGroup
	for _, c := range consumers {
		for _, d := range c.deliveries() {
			d.Nack()
		}
		c.cancel()
		wg.Go(func() {
			c.mu.Lock()
			pumping := c.pumping
			c.mu.Unlock()
			if pumping != nil {
				<-pumping

				return
			}
			for msg := range c.messages {
				if msg == nil {
					return
				}
				msg.Nack()
			}
		})
	}
	for _, c := range closers {
		wg.Go(func() { _ = t.safely(c) })
	}
	wg.Wait()
	if pub != nil {
		_ = t.safely(pub.Close)
	}
	if t.Harness.DeleteTopic == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), bound)
	defer cancel()
	t.mu.Lock()
	topics := t.topics
	t.mu.Unlock()
	for _, topic := range topics {
		_ = t.safely(func() error { return t.Harness.DeleteTopic(ctx, topic) }) // what is left over harms nobody
	}
}
