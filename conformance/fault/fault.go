// Package fault wraps publishers and subscribers so that they misbehave as
// brokers do, by a seed: the n-th call of a wrapped publisher and the n-th
// message of a wrapped subscription meet the same fate in every run with that
// seed, whatever else happens at the same time.
//
//	pub, err := fault.NewPublisher(pub, fault.PublisherConfig{Seed: 7, FailAfter: 0.1, Duplicate: 0.1})
//
// It comes in addition to killing processes and brokers, not instead.
package fault

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// ErrInjected is matched by every error that a fault makes.
var ErrInjected = errors.New("injected fault")

// Injected is one fault that was done.
type Injected struct {
	Call int64  // number of the publish call, or of the subscription's message, from 1
	What string // the field's name of the configuration, such as FailAfter
	UUID string // of the (first) message concerned
}

func (i Injected) String() string { return fmt.Sprintf("%d: %s of %s", i.Call, i.What, i.UUID) }

// log collects what was done.
type log struct {
	mu   sync.Mutex
	done []Injected
}

func (l *log) add(call int64, what, uuid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = append(l.done, Injected{Call: call, What: what, UUID: uuid})
}

// Injected returns what was done so far, by the number of the call.
func (l *log) Injected() []Injected {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := slices.Clone(l.done)
	slices.SortStableFunc(done, func(a, b Injected) int { return int(a.Call - b.Call) })

	return done
}

// fate is the source of one call's decisions. It depends on seed and number
// alone: goroutines can't change each other's.
func fate(seed uint64, call int64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(call))) //nolint:gosec // never negative
}

// probability checks a field.
func probability(name string, p float64) error {
	if p < 0 || p > 1 || p != p {
		return fmt.Errorf("fault: %s must be a probability from 0 to 1, and is %v", name, p)
	}

	return nil
}

// wait passes time, up to the most, or returns early when over is closed.
func wait(source *rand.Rand, most time.Duration, over <-chan struct{}) {
	if most <= 0 {
		return
	}
	timer := time.NewTimer(time.Duration(source.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-over:
	}
}
