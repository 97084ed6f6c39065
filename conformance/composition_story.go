package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Metadata entries by which the messages of a story are told apart.
const (
	hopEntry   = "conf_hop"
	startEntry = "conf_start"
)

// plan says what a story is about. Its zero value but for starts and hops is the
// plain ring: two services, each in one instance, hand messages to each other.
type plan struct {
	starts int // messages that the story begins with
	hops   int // how often each is handled, at one service after the other
	keys   int // over which the starts are spread; default 10
	faulty bool
	// ordered: the effects of a key are to be in the order of its starts.
	ordered bool
	// instances of each service. Default 1.
	instances int
	// accidents befall services on the way, at equal distances.
	accidents []accident
	// payload of a start. Default: its name.
	payload func(start int) []byte
	// metadata of a start, beside the suite's own.
	metadata map[string]string
	// inspect looks at each message that is handled.
	inspect func(e effect, msg *message.Message)
	// fails has a handler return an error after it has written its effect.
	fails func(hop, start int) bool
}

// accident ends an instance of a service and starts another.
type accident struct {
	service int    // from 0
	point   string // at which it crashes; "" closes it
}

// story is whole services that hand on messages, and what comes of it.
type story struct {
	plan

	t        *Trial
	seed     uint64
	services []*service
	// expected are the effects that each service is to have in the end.
	expected map[*service][]effect
	missed   []string // points of crashes that were not reached

	mu        sync.Mutex
	everyone  []*instance
	done      map[doneKey]bool // handled, as far as the instances know, and expected
	delivered int
	changed   chan struct{} // closed and replaced at every delivery
}

type doneKey struct {
	service *service
	effect  effect
}

// newStory makes a story without services. It ends with the fact.
func (t *Trial) newStory(p plan) *story {
	if p.keys == 0 {
		p.keys = 10
	}
	p.keys = max(1, min(p.keys, p.starts))
	p.instances = max(p.instances, 1)
	s := &story{
		plan: p, t: t, seed: t.Harness.Seed,
		expected: map[*service][]effect{}, done: map[doneKey]bool{}, changed: make(chan struct{}),
	}
	t.Notef("seed %d", s.seed)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closers = append(t.closers, s.close)

	return s
}

// add puts one more service into the story, with a database of its own.
func (s *story) add(name, hears, sends string) *service {
	added := &service{
		story: s, name: name, hears: hears, sends: sends, database: s.t.openDatabase(), handle: s.handle,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.services = append(s.services, added)

	return added
}

// ring adds two services that send to each other.
func (s *story) ring() (one, two *service) {
	there, back := s.t.Topic, s.t.NewTopic()
	one, two = s.add("one", there, back), s.add("two", back, there)
	for start := range s.starts {
		for hop := range s.hops {
			to := []*service{one, two}[hop%2]
			s.expected[to] = append(s.expected[to], effect{hop, start})
		}
	}

	return one, two
}

// start runs all services and publishes the messages that the story begins with,
// through the first one's outbox.
func (s *story) start() {
	for _, service := range s.services {
		for range s.instances {
			service.start()
		}
	}
	first := s.services[0]
	messages := make([]*message.Message, s.starts)
	for n := range messages {
		payload := []byte(s.name(effect{0, n}))
		if s.payload != nil {
			payload = s.payload(n)
		}
		messages[n] = s.message(effect{0, n}, payload, s.metadata)
	}
	const together = 100
	for batch := range slices.Chunk(messages, together) {
		err := s.t.call("publish through the outbox", func() error {
			return first.instances[0].plugin.Publisher().Publish(first.hears, batch...)
		})
		if err != nil {
			s.t.Unknownf("publish through the outbox: %v", err)
		}
	}
}

func (s *story) key(start int) string { return "k" + strconv.Itoa(start%s.keys) }

func (s *story) name(e effect) string { return fmt.Sprintf("%s-%d@%d", s.key(e.start), e.start, e.hop) }

// message makes the message of an effect-to-be.
func (s *story) message(e effect, payload []byte, metadata map[string]string) *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), payload)
	for name, value := range metadata {
		msg.Metadata.Set(name, value)
	}
	msg.Metadata.Set(hopEntry, strconv.Itoa(e.hop))
	msg.Metadata.Set(startEntry, strconv.Itoa(e.start))
	msgmeta.SetKey(msg, s.key(e.start))
	s.t.history.register(msg, s.key(e.start), s.name(e))
	s.t.history.add(published, msg, "", 0, "")

	return msg
}

// effectOf reads which one a message is to have.
func (s *story) effectOf(msg *message.Message) (effect, error) {
	hop, err := strconv.Atoi(msg.Metadata.Get(hopEntry))
	start, err2 := strconv.Atoi(msg.Metadata.Get(startEntry))
	if err = errors.Join(err, err2); err != nil {
		return effect{}, fmt.Errorf("the message has lost its metadata: %w", err)
	}

	return effect{hop, start}, nil
}

// handle is the handler of services: it writes an effect and sends the message
// on, until its hops are over.
func (s *story) handle(i *instance, msg *message.Message) ([]*message.Message, error) {
	if _, err := s.write(i, msg); err != nil {
		return nil, err
	}
	e, err := s.effectOf(msg)
	if err != nil {
		return nil, err
	}
	if s.fails != nil && s.fails(e.hop, e.start) {
		return nil, errUseCase
	}
	if e.hop++; e.hop >= s.hops || i.service.sends == "" {
		return nil, nil
	}

	return []*message.Message{s.message(e, bytes.Clone(msg.Payload), s.kept(msg))}, nil
}

// write is the handler that only writes an effect.
func (s *story) write(i *instance, msg *message.Message) ([]*message.Message, error) {
	e, err := s.effectOf(msg)
	if err != nil {
		return nil, err
	}
	if s.inspect != nil {
		s.inspect(e, msg)
	}
	db := store.JoinDBX(i.plugin.Store())
	insert := db.Rebind("INSERT INTO " + i.service.database.effects + " (hop, start_no) VALUES (?, ?)")
	if _, err := db.ExecContext(msg.Context(), insert, e.hop, e.start); err != nil {
		return nil, fmt.Errorf("write the effect: %w", err)
	}
	i.reach(effectWritten)

	return nil, nil
}

// kept is the metadata that a message came with, of that which it began with.
func (s *story) kept(msg *message.Message) map[string]string {
	kept := map[string]string{}
	for name := range s.metadata {
		if value, ok := msg.Metadata[name]; ok {
			kept[name] = value
		}
	}

	return kept
}

var errUseCase = errors.New("the use case failed, on purpose")

// watched notes what an instance is given and what becomes of it.
func (s *story) watched(i *instance) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			s.t.history.add(received, msg, i.service.name, i.number, "")
			produced, err := h(msg)
			switch {
			case err == nil:
				s.t.history.add(acked, msg, i.service.name, i.number, "")
			case errors.Is(err, errCrashed):
				s.t.history.add(gaveUp, msg, i.service.name, i.number, "")
			default:
				s.t.history.add(nacked, msg, i.service.name, i.number, short(err.Error()))
			}
			s.handled(i, msg, err)

			return produced, err
		}
	}
}

func (s *story) handled(i *instance, msg *message.Message, err error) {
	e, unreadable := s.effectOf(msg)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered++
	// What a service puts aside is no effect of it, and is waited for elsewhere.
	if err == nil && unreadable == nil && slices.Contains(s.expected[i.service], e) {
		s.done[doneKey{i.service, e}] = true
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// newInstance numbers an instance and has it stopped at the end.
func (s *story) newInstance(of *service) *instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := &instance{process: newProcess(), service: of, number: len(s.everyone) + 1}
	s.everyone = append(s.everyone, i)

	return i
}

func (s *story) without(p Protection) bool { return slices.Contains(s.t.Harness.Without, p) }

// total is how many effects the story has in all.
func (s *story) total() (n int) {
	for _, effects := range s.expected {
		n += len(effects)
	}

	return n
}

// progress returns how many messages were handled, and delivered, so far.
func (s *story) progress() (done, delivered int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()

	return len(s.done), s.delivered, s.changed
}

// await waits until so many different messages were handled, for as long as there
// is any progress, and returns whether it came to that.
func (s *story) await(n int) bool {
	s.t.setDoing("messages to be handled by the services")
	timer := time.NewTimer(s.t.Again())
	defer timer.Stop()
	before := 0
	for {
		done, _, changed := s.progress()
		if done >= n {
			return true
		}
		if done > before {
			before = done
			timer.Reset(s.t.Again())
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-s.t.ctx.Done():
			s.t.Unknownf("the fact's deadline was over with %d of %d messages handled (seed %d)", done, s.total(), s.seed)
		}
	}
}

// close ends what is left of the story: instances first, then their databases.
func (s *story) close() error {
	s.mu.Lock()
	instances, services := s.everyone, s.services
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range instances {
		wg.Go(func() { _ = s.t.safely(i.stop) })
	}
	wg.Wait()
	var errs []error
	for _, service := range services {
		errs = append(errs, service.database.close(s.t.ctx, s.t.Harness.Patience))
	}

	return errors.Join(errs...)
}
