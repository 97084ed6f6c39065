package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/conformance/fault"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Protection is a part of Headrace that Harness.Without leaves out.
type Protection string

// The protections.
const (
	// Dedupe remembers messages: without it a handler is run for each copy.
	Dedupe Protection = "dedupe"
	// Outbox sends what a handler returns after its transaction: without it the
	// router publishes, as it does without Headrace.
	Outbox Protection = "outbox"
)

// service is a whole service of a story, as users build one: a router whose one
// handler hears a topic, writes to the service's database and sends on.
type service struct {
	story *story
	name  string
	hears string // topic
	sends string // topic of what the handler returns; "" when it returns nothing
	// around are middlewares outside of Headrace's, for one instance. Optional.
	around func(i *instance) []message.HandlerMiddleware
	handle func(i *instance, msg *message.Message) ([]*message.Message, error)

	database  *database
	instances []*instance // those that run; for the fact's own goroutine
}

// instance is one process of a service.
type instance struct {
	*process

	service    *service
	number     int // of the story's instances, from 1
	publisher  message.Publisher
	subscriber message.Subscriber
	plugin     *headrace.Plugin
	router     *message.Router

	mu      sync.Mutex
	closers []func() error // of what is open, the last is closed first
}

// start runs one more instance and returns when it hears its topic.
func (s *service) start() {
	t := s.story.t
	i := s.story.newInstance(s)
	sub, err := t.OpenSubscriber(s.name)
	if err != nil {
		t.Unknownf("service %s: open a subscriber: %v", s.name, err)
	}
	err = t.call("start a service", func() error {
		if err := i.open(sub); err != nil {
			return err
		}

		return i.run(t.ctx)
	})
	switch {
	case errors.Is(err, brokers.ErrOneGroup):
		t.Lack(refusedGroup(err))
	case err != nil:
		t.Unknownf("start service %s: %v", s.name, err)
	}
	t.Notef("instance %d of service %s has started", i.number, s.name)
	s.instances = append(s.instances, i)
}

// subscribed is a subscriber that has subscribed already, for one router.
type subscribed struct {
	message.Subscriber

	messages <-chan *message.Message
}

// Subscribe gives the router what there is.
func (s subscribed) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return s.messages, nil
}

// run returns when the router hears its topic.
func (i *instance) run(ctx context.Context) error {
	var failed error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failed = i.router.Run(context.WithoutCancel(ctx))
	}()
	i.closeLater(func() error {
		err := i.router.Close()
		<-ended

		return errors.Join(err, failed)
	})
	select {
	case <-i.router.Running():
		return nil
	case <-ended:
		return errors.Join(errors.New("the router ended at once"), failed)
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the fact's time is over
	}
}

// open builds the instance on the harness's publisher and subscriber, with the
// story's faults between them and Headrace.
func (i *instance) open(sub message.Subscriber) (err error) {
	s := i.service
	t := s.story.t
	pub, err := t.Harness.Publisher(t.ctx)
	if err != nil {
		return fmt.Errorf("open a publisher: %w", err)
	}
	if pub == nil {
		return errors.New("open a publisher: the harness returned none")
	}
	i.closeLater(pub.Close)
	faults := s.story.faults(i.number)
	if i.publisher, err = fault.NewPublisher(pub, faults.publisher); err != nil {
		return err
	}
	faulty, err := fault.NewSubscriber(sub, faults.subscriber)
	if err != nil {
		return err
	}
	// A router whose subscription is refused leaves a goroutine behind for good.
	subscription, cancel := context.WithCancel(context.WithoutCancel(t.ctx))
	i.closeLater(func() error { cancel(); return nil })
	messages, err := faulty.Subscribe(subscription, s.hears)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	i.subscriber = subscribed{faulty, messages}
	i.plugin, err = headrace.New(t.ctx, s.database.db, headrace.Config{
		Service: s.name, Publisher: relayTo{i.publisher, i.process},
		RedeliveryWindow: t.Capabilities.RedeliveryWindow,
		Store:            store.Config{Prefix: s.database.prefix},
		Dedupe:           middleware.DedupeConfig{Window: max(middleware.DefaultWindow, t.Capabilities.RedeliveryWindow)},
		Forwarder: forwarder.Config{
			RetryBackoff: 5 * time.Millisecond, MaxRetryBackoff: 100 * time.Millisecond,
			LeaseTTL: time.Second, MaxPollInterval: 100 * time.Millisecond,
		},
	})
	if err != nil {
		return err
	}
	i.closeLater(i.plugin.Close)

	return i.route()
}

// route is the service as its users write it.
func (i *instance) route() (err error) {
	s := i.service
	// A handler that hangs is the fact's to notice, not the router's.
	config := message.RouterConfig{CloseTimeout: s.story.t.Harness.Patience}
	if i.router, err = message.NewRouter(config, watermill.NopLogger{}); err != nil {
		return fmt.Errorf("make a router: %w", err)
	}
	i.router.AddMiddleware(s.story.watched(i), i.mortal(s.story.t.ctx.Done()))
	if s.around != nil {
		i.router.AddMiddleware(s.around(i)...)
	}
	handle := func(msg *message.Message) ([]*message.Message, error) { return s.handle(i, msg) }
	publisher := i.plugin.Publisher()
	if s.story.without(Outbox) {
		publisher = relayTo{i.publisher, i.process}
	}
	if s.sends == "" {
		i.router.AddConsumerHandler("handle", s.hears, i.subscriber, func(msg *message.Message) error {
			_, err := handle(msg)

			return err
		})
	} else {
		i.router.AddHandler("handle", s.hears, i.subscriber, s.sends, publisher, handle)
	}
	i.protect()

	return nil
}

// protect puts Headrace around the handler, innermost.
func (i *instance) protect() {
	switch story := i.service.story; {
	case story.without(Dedupe):
		i.router.AddMiddleware(i.onlyTransaction)
		i.relay()
	case story.without(Outbox):
		i.router.AddMiddleware(i.publishLate)
	default:
		i.router.AddPlugin(i.plugin.Attach)
	}
	if i.service.story.without(Outbox) {
		i.relay() // what the story begins with
	}
}

// relay runs the relay, where Attach doesn't. Closing the plugin ends it.
func (i *instance) relay() {
	go func() { _ = i.plugin.Run(context.WithoutCancel(i.service.story.t.ctx)) }()
}

// onlyTransaction is Dedupe without its memory.
func (i *instance) onlyTransaction(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (produced []*message.Message, err error) {
		outer := msg.Context()
		defer msg.SetContext(outer)
		err = i.plugin.Store().InTx(outer, func(ctx context.Context, _ store.Tx) error {
			msg.SetContext(ctx)
			returned, err := h(msg)
			if err != nil || len(returned) == 0 {
				return err
			}
			for _, out := range returned {
				out.SetContext(ctx)
			}

			return i.plugin.Publisher().Publish(i.service.sends, returned...)
		})

		return nil, err
	}
}

// publishLate hides what the handler returns from Headrace, and leaves it to the
// router.
func (i *instance) publishLate(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (produced []*message.Message, err error) {
		_, err = i.plugin.Middleware(func(msg *message.Message) (_ []*message.Message, err error) {
			produced, err = h(msg)

			return nil, err
		})(msg)

		return produced, err
	}
}

func (i *instance) closeLater(c func() error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closers = append(i.closers, c)
}

// stop closes the instance as a service ends: router, Headrace, connections.
func (i *instance) stop() error {
	i.mu.Lock()
	closers := i.closers
	i.closers = nil
	i.mu.Unlock()
	var errs []error
	for _, c := range slices.Backward(closers) {
		errs = append(errs, c())
	}

	return errors.Join(errs...)
}
