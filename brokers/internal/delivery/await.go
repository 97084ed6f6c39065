package delivery

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Outcome is what became of a message that was handed out.
type Outcome int

// What can become of it: the handler's answer, or none.
const (
	Acked Outcome = iota
	Nacked
	// Late says that the deadline passed.
	Late
	// Abandoned says that the subscription ended, and the drain time after it.
	Abandoned
)

// Wait bounds the wait for a handler's answer.
type Wait struct {
	// Stop and Lost are closed when the subscription ends, and when the message's
	// partition goes to somebody else. The handler then has the drain time left.
	Stop, Lost <-chan struct{}
	Drain      time.Duration
	// Deadline bounds the whole wait; 0 does not.
	Deadline time.Duration
}

// Await waits for the answer to a message.
func Await(msg *message.Message, wait Wait) Outcome {
	var late, drained <-chan time.Time
	if wait.Deadline > 0 {
		timer := time.NewTimer(wait.Deadline)
		defer timer.Stop()
		late = timer.C
	}
	for {
		select {
		case <-msg.Acked():
			return Acked
		case <-msg.Nacked():
			return Nacked
		case <-late:
			return Late
		case <-drained:
			return Abandoned
		case <-wait.Stop:
			wait.Stop = nil
		case <-wait.Lost:
			wait.Lost = nil
		}
		if drained == nil {
			timer := time.NewTimer(wait.Drain)
			defer timer.Stop()
			drained = timer.C
		}
	}
}
