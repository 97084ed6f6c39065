package sqs

import (
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// keeper keeps one message invisible while its handler waits for something that isn't
// the message's fault. SQS counts each time that it delivers a message, and moves it to
// the dead-letter queue when it has done so too often.
type keeper struct {
	sub     *subscription
	msg     *message.Message
	receipt string

	mu    sync.Mutex
	ended bool
	// waiting counts who waits; stop ends the keeping, and kept says that it has ended.
	waiting int
	stop    chan struct{}
	kept    sync.WaitGroup
}

// keep keeps the message until release is called, or it was settled.
func (k *keeper) keep() (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return func() {}
	}
	if k.waiting++; k.waiting == 1 {
		k.stop = make(chan struct{})
		stop := k.stop
		k.kept.Go(func() { k.run(stop) })
	}
	return sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.waiting--; k.waiting == 0 && !k.ended {
			close(k.stop)
		}
	})
}

// run begins at once: the handler may have had the message for a while.
func (k *keeper) run(stop <-chan struct{}) {
	visibility := k.sub.settings.visibility
	ticker := time.NewTicker(visibility / 2)
	defer ticker.Stop()
	for {
		k.sub.show(k.msg, k.receipt, visibility)
		select {
		case <-ticker.C:
		case <-stop:
			return
		}
	}
}

// end ends all keeping, before the message is settled.
func (k *keeper) end() {
	k.mu.Lock()
	if !k.ended && k.waiting > 0 {
		close(k.stop)
	}
	k.ended = true
	k.mu.Unlock()
	k.kept.Wait()
}
