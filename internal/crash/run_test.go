package crash_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

const (
	// killTimeout is how long a process may take to reach its kill point. On
	// Kafka a new one is idle until the dead one's session is over.
	killTimeout = 2 * time.Minute
	// drainTimeout is how long the last process may take to finish everything.
	drainTimeout = 2 * time.Minute
	// patience is how long a process may be idle before more is sent.
	patience = 1500 * time.Millisecond
)

// run goes through the plan and leaves everything drained and all processes
// stopped.
func (s *story) run(t *testing.T, plan []phase) {
	t.Helper()
	for _, p := range plan {
		require.NoError(t, s.runPhase(t.Context(), p), "seed %d, phase %s", s.seed, p.name)
	}
	last, err := startProcess("last", s.child(slot{consume: true, forward: true}, killPoint{}), s.history)
	require.NoError(t, err)
	defer func() {
		if t.Failed() {
			last.dump()
		}
		last.kill() // when the test fails before it was stopped
		<-last.exited
		if t.Failed() {
			t.Logf("the last process's log:\n%s", last.log.String())
		}
	}()
	s.drain(t)
	s.requireLeases(t, 1)
	require.NoError(t, last.stop(t.Context()))
	s.requireLeases(t, 0)
}

// runPhase runs the slots side by side, each through its kills, and stops them
// gracefully.
func (s *story) runPhase(ctx context.Context, p phase) (err error) {
	last := make([]*process, len(p.slots))
	group, bounded := errgroup.WithContext(ctx)
	for i, slot := range p.slots {
		group.Go(func() (err error) {
			last[i], err = s.runSlot(bounded, p.name, slot)
			return err
		})
	}
	err = group.Wait()
	for _, process := range last {
		switch {
		case process == nil:
		case err != nil:
			process.kill()
			<-process.exited
		default:
			err = errors.Join(err, process.stop(ctx))
		}
	}
	return err
}

func (s *story) runSlot(ctx context.Context, phase string, slot slot) (*process, error) {
	name := phase + "/" + slot.name
	for life, k := range slot.kills {
		p, err := startProcess(fmt.Sprintf("%s.%d", name, life+1), s.child(slot, k.point), s.history)
		if err != nil {
			return nil, err
		}
		err = s.send(ctx, 6)
		if err == nil {
			err = s.awaitKill(ctx, p, k)
		}
		if err != nil {
			p.kill()
			<-p.exited
			return nil, err
		}
	}
	return startProcess(name+".last", s.child(slot, killPoint{}), s.history)
}

func (s *story) child(slot slot, point killPoint) childConfig {
	cfg := childConfig{service: s.service, Kill: point}
	cfg.Consume, cfg.Forward = slot.consume, slot.forward
	return cfg
}

// awaitKill waits until the process is dead, or kills it at its moment, and
// sends more when it has nothing to do.
func (s *story) awaitKill(ctx context.Context, p *process, k kill) error {
	bounded, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	idle := time.NewTimer(patience)
	defer idle.Stop()
	for {
		if k.after > 0 && p.lines.Load() >= k.after {
			p.kill()
			<-p.exited
		}
		select {
		case <-p.exited:
			if err := p.killed(); err != nil {
				return err
			}
			s.noteKill(p, k)
			return nil
		case <-p.progress:
			idle.Reset(patience)
		case <-idle.C:
			if err := s.send(ctx, 6); err != nil {
				return err
			}
			idle.Reset(patience)
		case <-bounded.Done():
			return fmt.Errorf("%s never came to be killed (%v, after %d): %w\n%s",
				p.name, k.point, k.after, bounded.Err(), p.log.String())
		}
	}
}

func (s *story) noteKill(p *process, k kill) {
	how := k.point.String()
	if k.after > 0 {
		how = fmt.Sprintf("at a random moment, after %d steps", p.lines.Load())
	}
	s.history.add(event{process: p.name, who: "test", step: "KILLED " + how})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kills = append(s.kills, p.name+": "+how)
}

// requireLeases wants every partition of the outbox to be owned by live
// forwarders, of which there are so many, or by nobody when there are none.
func (s *story) requireLeases(t *testing.T, forwarders int) {
	t.Helper()
	testenv.Eventually(t, 30*time.Second, 100*time.Millisecond, func() (bool, string) {
		leases, err := s.store.Leases(t.Context(), "")
		require.NoError(t, err)
		var members, owners []string
		owned := 0
		for _, lease := range leases {
			switch {
			case lease.Owner == "" || lease.ExpiresIn < 0:
			case strings.HasPrefix(lease.Name, "forwarder/"):
				members = append(members, lease.Owner)
			default:
				owned++
				owners = append(owners, lease.Owner)
			}
		}
		slices.Sort(owners)
		owners = slices.Compact(owners)
		right := len(members) == forwarders && len(owners) == forwarders && owned == forwarders*store.OutboxPartitions
		return right, fmt.Sprintf("%d forwarders live and %d should; %d partitions owned, by %d",
			len(members), forwarders, owned, len(owners))
	})
}
