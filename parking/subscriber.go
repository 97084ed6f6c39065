package parking

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"

	"github.com/headrace-go/headrace/store"
)

// SubscriberConfig says whose kept messages come again, and how.
type SubscriberConfig struct {
	// Consumer is whose lines are worked: "service.handler", as in DedupeConfig.
	// Required.
	Consumer string
	// Concurrency is how many lines are worked at once, each with a message in the
	// handler and its connection to the database. Default 4.
	Concurrency int
	// ClaimTTL is how long the lines of a process that has died wait for another one.
	// It is renewed at a third. Default 30 s, at least 1 s.
	ClaimTTL time.Duration
	// PollInterval is how often is looked for lines that are due while there are some;
	// pauses double up to MaxPollInterval while there are none. What is parked or
	// released in this process is found at once. Default 50 ms and 1 s.
	PollInterval, MaxPollInterval time.Duration
	// Rate bounds how many kept messages are handled in a second. Default 0: no bound.
	Rate float64
	// DrainTimeout is how long Close waits for messages in their handlers. Default
	// 10 s.
	DrainTimeout time.Duration
	// MaxStalls is how many processes in a row a message may end before it waits for a
	// person. Default 3.
	MaxStalls int
	// Valve tells whether the store is there: while it isn't, nothing more is taken from
	// the broker. It must be Parking's (ParkingConfig.Valve), which notices. Default:
	// none, and it is taken all the same.
	Valve *Valve
	// Clock is for tests. Default: the real one.
	Clock clockwork.Clock
	// Logger gets failures, and what was kept for a person. Default: none.
	Logger watermill.LoggerAdapter
}

func (c SubscriberConfig) withDefaults() SubscriberConfig {
	setDefault(&c.Concurrency, 4)
	setDefault(&c.ClaimTTL, 30*time.Second)
	setDefault(&c.PollInterval, 50*time.Millisecond)
	setDefault(&c.MaxPollInterval, max(time.Second, c.PollInterval))
	setDefault(&c.DrainTimeout, 10*time.Second)
	setDefault(&c.MaxStalls, 3)
	if c.Clock == nil {
		c.Clock = clockwork.NewRealClock()
	}
	if c.Logger == nil {
		c.Logger = watermill.NopLogger{}
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c SubscriberConfig) validate() error {
	switch {
	case c.Consumer == "":
		return errors.New("parking: SubscriberConfig.Consumer is needed: \"service.handler\", as Dedupe calls it")
	case c.Concurrency < 1, c.MaxStalls < 1:
		return errors.New("parking: SubscriberConfig.Concurrency and MaxStalls must be positive")
	case c.ClaimTTL < time.Second:
		return fmt.Errorf("parking: SubscriberConfig.ClaimTTL must be at least a second, not %s", c.ClaimTTL)
	case c.PollInterval < 0, c.MaxPollInterval < c.PollInterval, c.DrainTimeout < 0, c.Rate < 0:
		return errors.New("parking: SubscriberConfig.PollInterval, DrainTimeout and Rate must not be negative, " +
			"and MaxPollInterval not below PollInterval")
	}
	return nil
}

// Subscriber gives a handler, beside what its own subscriber delivers, the messages
// that are kept for it when it is their turn: those of a line one after another, in
// their order, on one instance at a time. The handler must stand behind
// middleware.Parking, and should behind Dedupe: without that a kept message may be
// handled more than once.
type Subscriber struct {
	store *store.Store
	inner message.Subscriber
	cfg   SubscriberConfig

	closing   chan struct{}
	closeOnce sync.Once
	running   chan struct{}
	runOnce   sync.Once
	mu        sync.Mutex
	closed    bool
	active    sync.WaitGroup
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber returns a subscriber around inner, which may be nil: then there is
// only what is kept. Errors are those of the configuration.
func NewSubscriber(st *store.Store, inner message.Subscriber, cfg SubscriberConfig) (*Subscriber, error) {
	if st == nil {
		return nil, errors.New("parking: NewSubscriber needs a store")
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Subscriber{
		store: st, inner: inner, cfg: cfg, closing: make(chan struct{}), running: make(chan struct{}),
	}, nil
}

// ErrSubscriberClosed says that a subscriber was closed before.
var ErrSubscriberClosed = errors.New("parking: the subscriber is closed")

// Subscribe delivers until the context is cancelled, Close, or the end of the inner
// subscription. Messages in hand then have DrainTimeout to be answered.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrSubscriberClosed
	}
	var in <-chan *message.Message
	if s.inner != nil {
		var err error
		if in, err = s.inner.Subscribe(ctx, topic); err != nil {
			return nil, fmt.Errorf("parking: subscribe to %q: %w", topic, err)
		}
	}
	sub := &subscription{
		Subscriber: s, in: in, out: make(chan *message.Message), owner: uuid.NewString(),
		wake: make(chan struct{}, 1), works: map[*work]struct{}{},
	}
	s.active.Go(func() { sub.run(ctx) })
	s.runOnce.Do(func() { close(s.running) })
	return sub.out, nil
}

// SubscribeInitialize prepares the inner subscriber's topic, where it does so.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	if inner, ok := s.inner.(message.SubscribeInitializer); ok {
		if err := inner.SubscribeInitialize(topic); err != nil {
			return fmt.Errorf("parking: prepare topic %q: %w", topic, err)
		}
	}
	return nil
}

// Running is closed when the first subscription has begun.
func (s *Subscriber) Running() <-chan struct{} { return s.running }

// Close ends all subscriptions and the inner subscriber. It waits for messages in
// hand up to DrainTimeout, and as long as the inner subscriber's Close does; what is
// kept and wasn't answered by then is handled again.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.closeOnce.Do(func() { close(s.closing) })
	var err error
	if s.inner != nil {
		err = s.inner.Close()
	}
	s.active.Wait()
	if err != nil {
		return fmt.Errorf("parking: close the inner subscriber: %w", err)
	}
	return nil
}

// subscription is one Subscribe.
type subscription struct {
	*Subscriber

	in    <-chan *message.Message
	out   chan *message.Message
	owner string
	wake  chan struct{}

	// stop is cancelled when no further message is to be begun, hands when those in
	// hand have had their time.
	stop  context.Context //nolint:containedctx // of a subscription, which outlives the call
	hands context.Context //nolint:containedctx // as stop

	rateMu sync.Mutex
	next   time.Time

	worksMu sync.Mutex
	works   map[*work]struct{}
	failing bool
}

// run ends when nothing is delivered any more, and closes the channel.
func (s *subscription) run(ctx context.Context) {
	defer close(s.out)
	stop, halt := context.WithCancel(ctx)
	defer halt()
	hands, let := context.WithCancel(context.WithoutCancel(ctx))
	defer let()
	s.stop, s.hands = stop, hands
	defer s.store.OnParked(func(consumer string) {
		if consumer == store.Identity(s.cfg.Consumer) {
			s.signal()
		}
	})()

	var loops sync.WaitGroup
	loops.Go(func() {
		select {
		case <-s.closing:
			halt()
		case <-stop.Done():
		}
	})
	if s.in != nil {
		loops.Go(func() {
			defer halt() // its end is this one's
			s.forward()
		})
	}
	renewing, enough := context.WithCancel(context.WithoutCancel(ctx))
	loops.Go(func() { s.renew(renewing) })
	s.claim()

	s.drain(let)
	enough()
	loops.Wait()
}

// drain waits until nothing is in hand, which it lets go of after DrainTimeout.
func (s *subscription) drain(let func()) {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		s.awaitWorks()
	}()
	drained := s.cfg.Clock.NewTimer(s.cfg.DrainTimeout)
	defer drained.Stop()
	select {
	case <-idle:
	case <-drained.Chan():
		let()
		<-idle
	}
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// forward passes on what the broker delivers, until its subscription ends. While the
// store is away the broker keeps what it has: in a handler it could only wait.
func (s *subscription) forward() {
	for {
		if s.cfg.Valve != nil {
			_ = s.cfg.Valve.Pass(s.stop) // after its end, what still comes is given back
		}
		msg, more := <-s.in
		if !more {
			return
		}
		select {
		case s.out <- msg:
		case <-s.stop.Done():
			msg.Nack()
		}
	}
}

// claim takes lines that are due and has them worked, until it is stopped.
func (s *subscription) claim() {
	pause := s.cfg.PollInterval
	for s.stop.Err() == nil {
		found := 0
		if free := s.cfg.Concurrency - s.inHand(); free > 0 {
			claims, err := s.store.ClaimLines(s.stop, s.cfg.Consumer, s.owner, s.cfg.ClaimTTL, free)
			s.told("Looking for kept messages that are due failed, trying again", err)
			for _, c := range claims {
				s.begin(c)
			}
			found = len(claims)
		}
		if found > 0 {
			pause = s.cfg.PollInterval
			continue
		}
		timer := s.cfg.Clock.NewTimer(pause)
		select {
		case <-s.stop.Done():
		case <-s.wake:
			pause = s.cfg.PollInterval
		case <-timer.Chan():
			pause = min(2*pause, s.cfg.MaxPollInterval)
		}
		timer.Stop()
	}
}

// told logs a failure once, until it is over.
func (s *subscription) told(what string, err error) {
	s.worksMu.Lock()
	defer s.worksMu.Unlock()
	if err != nil && !s.failing && s.stop.Err() == nil {
		s.cfg.Logger.Error(what, err, watermill.LogFields{"consumer": s.cfg.Consumer})
	}
	s.failing = err != nil
}

func (s *subscription) inHand() int {
	s.worksMu.Lock()
	defer s.worksMu.Unlock()
	return len(s.works)
}

// begin works a claimed line on a goroutine of its own.
func (s *subscription) begin(c store.Claim) {
	w := &work{sub: s, claim: c, lost: make(chan struct{}), done: make(chan struct{})}
	s.worksMu.Lock()
	s.works[w] = struct{}{}
	s.worksMu.Unlock()
	go func() {
		defer s.signal()
		defer close(w.done)
		defer func() {
			s.worksMu.Lock()
			defer s.worksMu.Unlock()
			delete(s.works, w)
		}()
		w.run()
	}()
}

func (s *subscription) awaitWorks() {
	for _, w := range s.current() {
		<-w.done
	}
}

func (s *subscription) current() []*work {
	s.worksMu.Lock()
	defer s.worksMu.Unlock()
	works := make([]*work, 0, len(s.works))
	for w := range s.works {
		works = append(works, w)
	}
	return works
}

// renew extends the claims of what is in hand.
func (s *subscription) renew(ctx context.Context) {
	ticker := s.cfg.Clock.NewTicker(s.cfg.ClaimTTL / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.Chan():
			if works := s.current(); len(works) > 0 {
				s.renewAll(ctx, works)
			}
		}
	}
}

func (s *subscription) renewAll(ctx context.Context, works []*work) {
	claims := make([]store.Claim, len(works))
	for i, w := range works {
		claims[i] = w.claim
		claims[i].Gone = w.gone.Swap(0) // the end of the claim tells the rest
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ClaimTTL)
	defer cancel()
	kept, err := s.store.RenewClaims(ctx, s.owner, s.cfg.ClaimTTL, claims)
	s.told("Renewing the claims of lines failed, trying again", err)
	if err != nil {
		for i, w := range works {
			w.gone.Add(claims[i].Gone)
		}
		return // whoever takes one over is told apart when this one commits
	}
	for _, w := range works {
		still := false
		for _, c := range kept {
			if c.Consumer == w.claim.Consumer && c.Line == w.claim.Line {
				still = true
				w.paused.Store(c.Paused)
			}
		}
		if !still {
			w.lose()
		}
	}
}

// turn waits until the next message may be begun (Rate).
func (s *subscription) turn() bool {
	if s.cfg.Rate == 0 {
		return s.stop.Err() == nil
	}
	s.rateMu.Lock()
	now := s.cfg.Clock.Now()
	if s.next.Before(now) {
		s.next = now
	}
	wait := s.next.Sub(now)
	s.next = s.next.Add(time.Duration(float64(time.Second) / s.cfg.Rate))
	s.rateMu.Unlock()
	return s.sleep(wait)
}

// sleep reports whether it wasn't stopped.
func (s *subscription) sleep(d time.Duration) bool {
	if d <= 0 {
		return s.stop.Err() == nil
	}
	timer := s.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-s.stop.Done():
		return false
	}
}
