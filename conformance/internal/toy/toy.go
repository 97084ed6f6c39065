// Package toy is a broker for the conformance suite's own tests: sound when left
// alone, and broken in one way by each of its faults. Everything is in memory,
// under one lock, and as plain as can be.
package toy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// Config says what kind of broker the toy is.
type Config struct {
	KeyOrder    bool
	TotalOrder  bool
	Lanes       bool // several at once; without it one per subscription
	Groups      bool // without it a second group is refused
	NilPayload  bool
	SendDedup   bool          // a send id that was seen before is dropped
	Joins       bool          // the harness has a Join
	AckDeadline time.Duration // 0: none
	MaxBody     int           // bytes
	NackDelay   time.Duration // doubled with each failure, up to sixteenfold
	OneGroup    error         // what a second group is refused with
	Faults      []Fault
}

// Broker is a toy. Its methods may be called concurrently.
type Broker struct {
	config Config

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	topics  map[string]*topic
	all     map[*subscription]bool
	busy    int // handlers at work, for DeadlocksOnSelf
	seen    map[string]bool
	sent    int
	random  *rand.Rand
	down    bool // cut off
	ended   chan struct{}
	running sync.WaitGroup // what outlives a subscriber's Close, by a fault
}

type topic struct {
	log    []*message.Message
	groups map[string]*group
	// publishing is how many are at it, for ReordersCrowd.
	publishing int
}

// group is what a consumer group knows about a topic's messages.
type group struct {
	entries []*entry
}

type entry struct {
	msg      *message.Message
	ctx      context.Context //nolint:containedctx // the publisher's, for a fault
	key      string
	holder   *subscription
	since    time.Time
	ready    time.Time
	failures int
	gone     bool // acked
	doubled  bool
	heard    map[*subscription]bool // for ConsumersAllHear
}

// New makes a toy. Close it.
func New(c Config) *Broker {
	if c.NackDelay == 0 {
		c.NackDelay = 15 * time.Millisecond
	}

	return &Broker{
		config: c, changed: make(chan struct{}), topics: map[string]*topic{}, all: map[*subscription]bool{},
		seen: map[string]bool{}, random: rand.New(rand.NewPCG(1, 2)), ended: make(chan struct{}),
	}
}

func (b *Broker) has(f Fault) bool { return slices.Contains(b.config.Faults, f) }

// wake tells all subscriptions to look again. The lock is held.
func (b *Broker) wake() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// Close ends everything, whatever its faults.
func (b *Broker) Close() {
	b.mu.Lock()
	close(b.ended)
	b.wake()
	b.mu.Unlock()
	b.running.Wait()
}

// Restart forgets who has what, as a restarted broker does.
func (b *Broker) Restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.topics {
		for _, g := range t.groups {
			for _, e := range g.entries {
				if e.holder != nil && b.has(LosesOnRestart) {
					e.gone = true
				}
				e.holder = nil
			}
		}
	}
	b.wake()
}

// Cut has nobody reach the broker until Mend is called. What is in hand is free
// for others.
func (b *Broker) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = true
	for s := range b.all {
		s.deaf = b.has(DeafAfterCut)
	}
	for _, t := range b.topics {
		for _, g := range t.groups {
			for _, e := range g.entries {
				if e.holder != nil && b.has(LosesOnCut) {
					e.gone = true
				}
				e.holder = nil
			}
		}
	}
	b.wake()
}

// Mend ends Cut.
func (b *Broker) Mend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = false
	b.wake()
}

// Freeze has a subscriber ask for nothing, as one in a frozen process, or wakes it.
func (b *Broker) Freeze(s message.Subscriber, frozen bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.(*subscriber).frozen = frozen //nolint:forcetypeassert // it is of this broker
	b.wake()
}

// Foreign publishes without any metadata of watermill's.
func (b *Broker) Foreign(topicName string, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	uuid := fmt.Sprintf("foreign-%d", b.random.Int64())
	if b.has(MixesForeignUUIDs) {
		uuid = ""
	}
	b.append(b.topic(topicName), message.NewMessage(uuid, payload), context.Background())
	b.wake()
}

func (b *Broker) topic(name string) *topic {
	if b.has(MixesTopics) {
		name = mixed(name)
	}
	t := b.topics[name]
	if t == nil {
		t = &topic{groups: map[string]*group{}}
		b.topics[name] = t
	}

	return t
}

// group returns a topic's group, which begins with the oldest message.
func (b *Broker) group(t *topic, name string) (*group, error) {
	if b.has(GroupsSteal) {
		name = "all"
	}
	g := t.groups[name]
	if g != nil {
		return g, nil
	}
	if len(t.groups) > 0 && !b.config.Groups {
		return nil, b.config.OneGroup
	}
	g = &group{}
	late := len(t.groups) > 0 && b.has(LateGroupHears)
	for _, msg := range t.log {
		if !late && !b.has(NewestOnly) {
			g.add(msg, context.Background())
		}
	}
	t.groups[name] = g

	return g, nil
}

func (g *group) add(msg *message.Message, ctx context.Context) { //nolint:revive // a context that is stored
	g.entries = append(g.entries, &entry{msg: msg, ctx: ctx, key: msgmeta.GetKey(msg), heard: map[*subscription]bool{}})
}

// Publisher returns a publisher.
func (b *Broker) Publisher() message.Publisher { return &publisher{b: b} }

type publisher struct {
	b      *Broker
	closed bool
}

func (p *publisher) Close() error {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.closed && p.b.has(CloseTwicePanics) {
		panic("close of closed channel")
	}
	p.closed = true

	return nil
}

var errCut = errors.New("connection refused")

var errTooLarge = errors.New("message is too large")

func (p *publisher) Publish(topicName string, messages ...*message.Message) error {
	b := p.b
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.down && b.has(LiesWhileCut) {
		return nil
	}
	if b.down {
		return errCut
	}
	if len(messages) == 0 && b.has(RefusesNothing) {
		return errors.New("nothing to publish")
	}
	for b.has(DeadlocksOnSelf) && b.busy > 0 {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-b.ended:
		}
		b.mu.Lock()
		if b.isEnded() {
			return nil
		}
	}
	b.sent++
	if now := b.sent; b.has(LosesConcurrent) {
		b.mu.Unlock()
		yield(time.Millisecond)
		b.mu.Lock()
		if b.sent != now {
			return nil // the other one's write is the last
		}
	}

	t := b.topic(topicName)
	if b.has(ReordersCrowd) {
		t.publishing++
		b.mu.Unlock()
		yield(time.Millisecond)
		b.mu.Lock()
		defer func() { t.publishing-- }()
	}
	for i, msg := range messages {
		if b.config.MaxBody > 0 && len(msg.Payload) > b.config.MaxBody && !b.has(TakesTooLarge) {
			if b.has(SendsHalfARefused) {
				b.publish(t, messages[:i])
			}

			return errTooLarge
		}
	}
	b.publish(t, messages)

	return nil
}

// publish stores messages. The lock is held.
func (b *Broker) publish(t *topic, messages []*message.Message) {
	if b.has(LosesBeyond100) && len(messages) > 100 {
		messages = messages[:100]
	}
	if b.has(LosesRestOfBatch) && len(messages) > 10 {
		messages = messages[:10]
	}
	if b.has(ReordersBatch) {
		messages = slices.Clone(messages)
		slices.Reverse(messages)
	}
	for _, msg := range messages {
		if b.has(DropsKnownUUIDs) && b.seen[msg.UUID] || b.sentBefore(t, msg) {
			continue
		}
		b.seen[msg.UUID] = true
		b.append(t, b.stored(msg), msg.Context())
		if b.has(ChangesSent) {
			msg.Metadata.Set("toy", "was here")
		}
	}
	b.wake()
}

// sentBefore notes the sending of a message, and reports that it was noted
// before.
func (b *Broker) sentBefore(t *topic, msg *message.Message) bool {
	sending := msgmeta.GetSendID(msg)
	if !b.config.SendDedup || sending == "" || b.has(ForgetsSendIDs) {
		return false
	}
	handled := slices.ContainsFunc(slices.Collect(maps.Values(t.groups)), func(g *group) bool {
		return slices.ContainsFunc(g.entries, func(e *entry) bool { return e.msg.UUID == msg.UUID && e.gone })
	})
	id := msg.UUID + ":" + sending
	before := b.seen[id]
	b.seen[id] = true

	return before && (!handled || !b.has(ForgetsHandled))
}

func (b *Broker) append(t *topic, msg *message.Message, ctx context.Context) { //nolint:revive // a context that is stored
	t.log = append(t.log, msg)
	for _, g := range t.groups {
		g.add(msg, ctx)
		if b.has(ReordersCrowd) && t.publishing > 1 {
			g.crowd(msgmeta.GetKey(msg))
		}
	}
}

func (b *Broker) isEnded() bool {
	select {
	case <-b.ended:
		return true
	default:
		return false
	}
}

// yield waits a little.
func yield(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}
