package conformance

import (
	"context"
	"time"
)

// run is a story from its beginning to its verdict.
func (s *story) run() Observation {
	s.start()
	if !s.haveAccidents() || !s.await(s.total()) {
		s.t.Notef("nothing more was handled")
	} else {
		s.settle()
	}

	return s.verdict()
}

// haveAccidents ends instances and starts others, at equal distances of the way.
// The last quarter is left to those who then are there, and so that every point
// of a crash is still reached.
func (s *story) haveAccidents() bool {
	way, parts := s.total()*3/4, len(s.accidents)+1
	for n, a := range s.accidents {
		if !s.await((n + 1) * way / parts) {
			return false
		}
		service := s.services[a.service]
		i := service.instances[0]
		service.instances = service.instances[1:]
		if a.point != "" {
			s.crash(i, a.point)
		}
		s.t.Notef("instance %d of service %s is closed", i.number, service.name)
		if err := s.t.call("close a service", i.stop); err != nil {
			s.t.Notef("closing instance %d: %v", i.number, err)
		}
		service.start()
	}

	return true
}

// crash has an instance die at the next message that reaches a point. That none
// does, as all are handled or in other hands, is noted.
func (s *story) crash(i *instance, point string) {
	i.arm(point)
	s.t.setDoing("an instance to crash: " + point)
	timer := time.NewTimer(s.t.Harness.Patience)
	defer timer.Stop()
	for dead := false; !dead; {
		done, _, changed := s.progress()
		if done >= s.total() {
			timer.Reset(0)
		}
		select {
		case <-i.crashed:
			s.t.Notef("instance %d of service %s has crashed: %s", i.number, i.service.name, point)
			dead = true
		case <-changed:
		case <-timer.C:
			i.arm("")
			s.missed = append(s.missed, point)

			return
		case <-s.t.ctx.Done():
			s.t.Unknownf("the fact's deadline was over, waiting for a crash")
		}
	}
	// The dead hold on to their messages until their subscription is over, so that
	// the broker hears neither ack nor nack.
	const soon = 3 * time.Second
	_, _ = s.t.callWithin("close the subscriber of a dead instance", time.After(soon), i.subscriber.Close)
	close(i.buried)
}

// settle waits until nothing is left to be sent, and nothing comes any more.
func (s *story) settle() {
	s.drain()
	s.awaitQuiet()
	s.drain() // of what the last copies have sent
}

// drain waits until the outboxes are empty.
func (s *story) drain() {
	for _, service := range s.services {
		if err := s.t.call("wait until the outbox is empty", func() error {
			ctx, cancel := context.WithTimeout(s.t.ctx, s.t.Harness.Patience)
			defer cancel()

			return service.instances[0].plugin.Drain(ctx)
		}); err != nil {
			s.t.Notef("service %s: %v", service.name, err)
		}
	}
}

func (s *story) awaitQuiet() {
	s.t.setDoing("copies that may still come")
	timer := time.NewTimer(s.t.Harness.Quiet)
	defer timer.Stop()
	for {
		_, _, changed := s.progress()
		select {
		case <-changed:
			timer.Reset(s.t.Harness.Quiet)
		case <-timer.C:
			return
		case <-s.t.ctx.Done():
			s.t.Unknownf("the fact's deadline was over, while copies still came (seed %d)", s.seed)
		}
	}
}
