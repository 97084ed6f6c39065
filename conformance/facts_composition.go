package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

// compositionFacts are about whole services: Dedupe, the outbox and its relay on
// this broker, with a database. What they did is read from the database.
func compositionFacts() []Fact {
	facts := []Fact{
		{
			Name: "composition/a ring of two services",
			Claim: "two services that hand on messages to each other do each once and lose none, though publishes fail, " +
				"copies come, acks are lost, and services are closed and crash on the way",
			Check: checkRing,
		},
		{
			Name:  "composition/order per key round the ring",
			Claim: "so handed on, the messages of a key are handled in their order at each service",
			Needs: needsKeyOrder, Issue: orderIssue, Shy: true,
			Check: checkRingOrder,
		},
		{
			Name:  "composition/a crash at any step",
			Claim: "a service that crashes at any step of handling or relaying a message goes on without loss or double",
			Check: checkCrashes,
		},
		{
			Name:  "composition/two instances of a service",
			Claim: "two instances of each service share the work, also when one of them goes away",
			Check: checkInstances,
		},
		{
			Name:  "composition/two services on one topic",
			Claim: "two services that hear one topic each handle every message once",
			Needs: needsGroups, Issue: groupsIssue,
			Check: checkTwoServices,
		},
		{
			Name:  "composition/a handler that fails after it has written",
			Claim: "what a handler has written and sent before it failed is not there, and in the end there once",
			Check: checkFailures,
		},
		{
			Name:  "composition/poison put aside",
			Claim: "what Watermill's PoisonQueue puts aside through the outbox arrives there once, and the rest goes on",
			Check: checkPoisonAside,
		},
		{
			Name:  "composition/content round the ring",
			Claim: "payloads, empty and large, and metadata come round the ring as they were",
			Check: checkContentRound,
		},
	}
	for n := range facts {
		facts[n].Busy, facts[n].Longer = true, timeToHandle
		facts[n].Missing = func(h Harness) string {
			if h.Bare {
				return "it is about services behind Headrace, and this is without"
			}

			return ""
		}
	}

	return facts
}

// timeToHandle is what stories take beyond their waits, on a slow broker and
// machine.
func timeToHandle(h Harness) time.Duration {
	const each = 20 * time.Millisecond

	return time.Duration(h.Handlings)*each + 4*h.Patience
}

// few is the size of a story that is about something else than endurance.
const few = 20

const roundTrips = 10

func checkRing(t *Trial) Observation {
	s := t.newStory(plan{
		starts: max(1, t.Harness.Handlings/roundTrips), hops: roundTrips, faulty: true,
		accidents: []accident{
			{service: 0}, {service: 1}, {service: 0, point: effectWritten}, {service: 1, point: beforeAck}, {service: 0},
		},
	})
	s.ring()

	return s.run()
}

func checkRingOrder(t *Trial) Observation {
	const keys = 4
	s := t.newStory(plan{
		starts: max(few, t.Harness.Handlings/roundTrips/roundTrips), hops: 4, keys: keys, faulty: true, ordered: true,
		// Some of each key: were all to fail, their order would stay.
		fails:     firstTries(func(hop, start int) int { return (hop + start/keys) % 2 }),
		accidents: []accident{{service: 1}, {service: 0, point: beforeAck}},
	})
	s.ring()

	return s.run()
}

func checkCrashes(t *Trial) Observation {
	p := plan{starts: few, hops: roundTrips}
	for n, point := range crashPoints() {
		p.accidents = append(p.accidents, accident{service: n % 2, point: point})
	}
	s := t.newStory(p)
	s.ring()

	return s.run()
}

func checkInstances(t *Trial) Observation {
	s := t.newStory(plan{
		starts: few, hops: 4, faulty: true, instances: 2,
		accidents: []accident{{service: 0}, {service: 1, point: effectWritten}},
	})
	s.ring()

	return s.run()
}

func checkTwoServices(t *Trial) Observation {
	s := t.newStory(plan{starts: few, hops: 1, faulty: true})
	for _, name := range []string{"one", "two"} {
		service := s.add(name, t.Topic, "")
		for start := range s.starts {
			s.expected[service] = append(s.expected[service], effect{0, start})
		}
	}

	return s.run()
}

func checkFailures(t *Trial) Observation {
	s := t.newStory(plan{
		starts: few, hops: 4,
		fails: firstTries(func(hop, start int) int { return (hop + start) % 3 }),
	})
	s.ring()

	return s.run()
}

// firstTries has a handler fail with a message for a number of times.
func firstTries(times func(hop, start int) int) func(hop, start int) bool {
	var mu sync.Mutex
	tries := map[effect]int{}

	return func(hop, start int) bool {
		mu.Lock()
		defer mu.Unlock()
		tries[effect{hop, start}]++

		return tries[effect{hop, start}] <= times(hop, start)
	}
}

func checkPoisonAside(t *Trial) Observation {
	const every = 5
	poison := func(start int) bool { return start%every == 0 }
	s := t.newStory(plan{starts: few, hops: 2, fails: func(hop, start int) bool { return hop == 0 && poison(start) }})
	one, two := s.ring()
	aside := s.add("aside", t.NewTopic(), "")
	aside.handle = s.write // and no failure
	one.around = func(i *instance) []message.HandlerMiddleware {
		// A database that is slow, say, makes no poison.
		queue, err := wmiddleware.PoisonQueueWithFilter(i.plugin.Publisher(), aside.hears, func(err error) bool {
			return errors.Is(err, errUseCase)
		})
		if err != nil {
			t.Notef("PoisonQueue: %v", err)

			return nil
		}

		return []message.HandlerMiddleware{queue}
	}
	s.expected = map[*service][]effect{}
	for start := range s.starts {
		if poison(start) {
			s.expected[aside] = append(s.expected[aside], effect{0, start})

			continue
		}
		s.expected[one] = append(s.expected[one], effect{0, start})
		s.expected[two] = append(s.expected[two], effect{1, start})
	}

	return s.run()
}

func checkContentRound(t *Trial) Observation {
	const large = 64 << 10
	size := large
	if limit := t.Capabilities.MaxBody; limit > 0 {
		size = min(size, limit)
	}
	payloads := [][]byte{
		{}, []byte("\x00\xff binary \xc3\x28"), bytes.Repeat([]byte("0123456789abcdef"), size/16), []byte("grüße ✓"),
	}
	metadata := map[string]string{"conf_text": "grüße ✓", "conf_spaces": " a  b ", "conf_json": `{"a":"b"}`}

	var mu sync.Mutex
	var changed []string
	s := t.newStory(plan{
		starts: 2 * len(payloads), hops: 4, metadata: metadata,
		payload: func(start int) []byte { return payloads[start%len(payloads)] },
		inspect: func(e effect, msg *message.Message) {
			mu.Lock()
			defer mu.Unlock()
			if want := payloads[e.start%len(payloads)]; !bytes.Equal(msg.Payload, want) {
				changed = append(changed, fmt.Sprintf("payload %d at hop %d has %d bytes, and had %d, or others",
					e.start%len(payloads), e.hop, len(msg.Payload), len(want)))
			}
			for name, want := range metadata {
				if got := msg.Metadata.Get(name); got != want {
					changed = append(changed, fmt.Sprintf("metadata %s at hop %d is %q and was %q", name, e.hop, got, want))
				}
			}
		},
	})
	s.ring()
	o := s.run()
	mu.Lock()
	defer mu.Unlock()
	if len(changed) > 0 {
		return Lacks("%s; %d such findings", changed[0], len(changed))
	}

	return o
}
