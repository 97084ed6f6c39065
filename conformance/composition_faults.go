package conformance

import (
	"math/rand/v2"
	"time"

	"github.com/headrace-go/headrace/conformance/fault"
)

// Faults of stories, as often as they may come without hiding what a broker
// does by itself.
const often = 0.03

type faults struct {
	publisher  fault.PublisherConfig
	subscriber fault.SubscriberConfig
}

// faults are those of an instance. Each has its own, by the story's seed and the
// number of the instance.
func (s *story) faults(number int) faults {
	if !s.faulty {
		return faults{}
	}
	source := rand.New(rand.NewPCG(s.seed, uint64(number))) //nolint:gosec // never negative
	const delay = 300 * time.Microsecond
	f := faults{
		publisher: fault.PublisherConfig{
			Seed: source.Uint64(), FailBefore: often, FailAfter: often, Partial: often, Duplicate: often, MaxDelay: delay,
		},
		subscriber: fault.SubscriberConfig{Seed: source.Uint64(), DropAck: often, Duplicate: often, MaxDelay: delay},
	}
	if !s.t.Capabilities.KeyOrder { // else it would be the fault's disorder, not the broker's
		f.publisher.Reorder, f.subscriber.Reorder, f.subscriber.MaxHold = often, often, 20*time.Millisecond
	}

	return f
}
