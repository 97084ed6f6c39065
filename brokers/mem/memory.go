package mem

import (
	"container/heap"
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

// memoryQueue is the queue of one process.
type memoryQueue struct {
	retain retention

	mu     sync.Mutex
	lastID int64
	topics map[string]*memoryTopic
}

type memoryTopic struct {
	log        *list.List // of *entry, oldest first
	groups     map[string]*memoryGroup
	spent      list.List // of *entry that every group has acked, in that order
	spentBytes int
}

// entry is a message and the groups that still need it.
type entry struct {
	stored

	id      int64
	waiting int
	place   *list.Element // in the topic's log
}

// memoryGroup is what one group of a topic has still to do.
type memoryGroup struct {
	lanes   map[string]*lane // by key; messages without key have lanes of their own
	ready   list.List        // of *lane that can be claimed now
	delayed delayedLanes     // lanes whose head waits after a nack
	claimed map[int64]*lane
	pending int64
}

// lane holds the messages of one key in order. It is in exactly one of ready,
// delayed and claimed as long as it holds any.
type lane struct {
	key      string
	waiting  []*entry // [0] is the one that is claimed or next
	attempts int64    // deliveries of waiting[0]
	due      time.Time
}

func newMemoryQueue(retain retention) *memoryQueue {
	return &memoryQueue{retain: retain, topics: map[string]*memoryTopic{}}
}

func (q *memoryQueue) topic(name string) *memoryTopic {
	t := q.topics[name]
	if t == nil {
		t = &memoryTopic{log: list.New(), groups: map[string]*memoryGroup{}}
		q.topics[name] = t
	}

	return t
}

func (q *memoryQueue) publish(_ context.Context, topic string, msgs []stored) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	t := q.topic(topic)
	for _, msg := range msgs {
		q.lastID++
		e := &entry{stored: msg, id: q.lastID, waiting: len(t.groups)}
		e.place = t.log.PushBack(e)
		for _, g := range t.groups {
			g.add(e)
		}
	}

	return nil
}

func (q *memoryQueue) join(_ context.Context, topic, group string) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	t := q.topic(topic)
	if t.groups[group] != nil {
		return nil
	}

	g := newMemoryGroup()
	t.groups[group] = g
	for place := t.log.Front(); place != nil; place = place.Next() {
		e := entryAt(place)
		e.waiting++
		g.add(e)
	}
	t.spent.Init() // the new group needs them all
	t.spentBytes = 0

	return nil
}

func newMemoryGroup() *memoryGroup {
	return &memoryGroup{lanes: map[string]*lane{}, claimed: map[int64]*lane{}}
}

func (g *memoryGroup) add(e *entry) {
	g.pending++
	if e.key == "" {
		g.ready.PushBack(&lane{waiting: []*entry{e}})

		return
	}

	l := g.lanes[e.key]
	if l == nil {
		l = &lane{key: e.key}
		g.lanes[e.key] = l
		g.ready.PushBack(l)
	}
	l.waiting = append(l.waiting, e)
}

func (q *memoryQueue) claim(_ context.Context, topic, group string, limit int) ([]claim, time.Duration, error) {
	q.mu.Lock()
	defer q.mu.Unlock()

	g := q.topic(topic).groups[group]
	now := time.Now()
	for len(g.delayed) > 0 && !g.delayed[0].due.After(now) {
		g.ready.PushBack(heap.Pop(&g.delayed))
	}

	var claims []claim
	for len(claims) < limit && g.ready.Len() > 0 {
		l := laneAt(g.ready.Front())
		g.ready.Remove(g.ready.Front())
		head := l.waiting[0]
		l.attempts++
		g.claimed[head.id] = l
		claims = append(claims, claim{stored: head.stored, id: head.id, attempt: l.attempts})
	}

	if len(g.delayed) == 0 {
		return claims, 0, nil
	}

	return claims, max(g.delayed[0].due.Sub(now), time.Millisecond), nil
}

// extend has nothing to do: the only claimant is this process.
func (*memoryQueue) extend(context.Context, string, string, []claim) error { return nil }

func (q *memoryQueue) ack(_ context.Context, topic, group string, c claim) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	t := q.topic(topic)
	g := t.groups[group]
	l := g.claimed[c.id]
	if l == nil {
		return nil
	}
	delete(g.claimed, c.id)

	head := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	l.attempts = 0
	g.pending--
	switch {
	case len(l.waiting) > 0:
		g.ready.PushBack(l)
	case l.key != "":
		delete(g.lanes, l.key)
	}

	if head.waiting--; head.waiting == 0 {
		q.spend(t, head)
	}

	return nil
}

// spend keeps a message that every group has acked for groups that come later,
// and drops the oldest of those beyond the bounds.
func (q *memoryQueue) spend(t *memoryTopic, e *entry) {
	t.spent.PushBack(e)
	t.spentBytes += len(e.payload)
	for t.spent.Len() > q.retain.messages || (t.spentBytes > q.retain.bytes && t.spent.Len() > 0) {
		oldest := entryAt(t.spent.Front())
		t.spent.Remove(t.spent.Front())
		t.spentBytes -= len(oldest.payload)
		t.log.Remove(oldest.place)
	}
}

func (q *memoryQueue) giveBack(_ context.Context, topic, group string, c claim, delay time.Duration, tried bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	g := q.topic(topic).groups[group]
	l := g.claimed[c.id]
	if l == nil {
		return nil
	}
	delete(g.claimed, c.id)

	if !tried {
		l.attempts--
	}
	if delay <= 0 {
		g.ready.PushFront(l)

		return nil
	}
	l.due = time.Now().Add(delay)
	heap.Push(&g.delayed, l)

	return nil
}

func (q *memoryQueue) backlog(_ context.Context, topic, group string) (int64, error) {
	q.mu.Lock()
	defer q.mu.Unlock()

	t := q.topics[topic]
	if t == nil {
		return 0, nil
	}
	if g := t.groups[group]; g != nil {
		return g.pending, nil
	}

	return int64(t.log.Len()), nil // what the group would hear
}

// remove leaves the groups without messages: subscriptions may still ask for
// some, and give back what was theirs.
func (q *memoryQueue) remove(_ context.Context, topic string) error {
	q.mu.Lock()
	defer q.mu.Unlock()

	if q.topics[topic] == nil {
		return nil
	}
	groups := q.topics[topic].groups
	delete(q.topics, topic)
	for name := range groups {
		q.topic(topic).groups[name] = newMemoryGroup()
	}

	return nil
}

func (*memoryQueue) close() error { return nil }

func entryAt(place *list.Element) *entry {
	return place.Value.(*entry) //nolint:forcetypeassert // log and spent hold nothing else
}

func laneAt(place *list.Element) *lane {
	return place.Value.(*lane) //nolint:forcetypeassert // ready holds nothing else
}

// delayedLanes is a heap.Interface, the earliest due first.
type delayedLanes []*lane //nolint:recvcheck // as container/heap wants it

func (d delayedLanes) Len() int           { return len(d) }
func (d delayedLanes) Less(i, j int) bool { return d[i].due.Before(d[j].due) }
func (d delayedLanes) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }

// Push is only called through heap.Push, with a lane.
func (d *delayedLanes) Push(l any) { *d = append(*d, l.(*lane)) } //nolint:forcetypeassert // see above

// Pop is only called through heap.Pop.
func (d *delayedLanes) Pop() any {
	last := len(*d) - 1
	l := (*d)[last]
	*d = slices.Delete(*d, last, last+1)

	return l
}
