package crash_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// Names of the two handlers, their consumer groups and the stages of the ledger.
const (
	apply     = "apply"     // a change of stock
	recommend = "recommend" // the follow-up use case
)

// Who else reaches steps.
const (
	subscriber = "subscriber" // begins and ends the transactions that handlers join
	relay      = "relay"
)

// Steps of the handlers' own, beside those of package step.
const (
	delivered      = "delivered" // above Dedupe
	stockUpdated   = "handler.updated"
	effectRecorded = "handler.recorded"
)

// protection is what stands between the handlers and the broker.
type protection string

const (
	protected protection = "protected"
	// noInbox: the handler's writes and messages are one transaction, but nothing
	// remembers the message.
	noInbox protection = "no inbox"
	// latePublish: Dedupe without the outbox, the router publishes after commit.
	latePublish protection = "publish after commit"
	// earlyConfirm: the relay removes rows from the outbox before it publishes them.
	earlyConfirm protection = "confirm before publish"
)

// service is the configuration of one process.
type service struct {
	Database, Broker string
	Join             bool // handlers work in the SQL broker's transaction
	Topics           topics
	Consume, Forward bool
	Protection       protection
	// FailOneIn makes handlers fail after their writes, once in so many calls; 0
	// never.
	FailOneIn int
}

type topics struct{ Changes, FollowUps string }

// stockChanged is the payload of both topics.
type stockChanged struct {
	// Change is the UUID of the message that started it all.
	Change   string `json:"change"`
	Product  string `json:"product"`
	Quantity int64  `json:"quantity"`
}

// running is one running service.
type running struct {
	service

	store  *store.Store
	broker *brokers.Broker
	watch  watcher
}

// watcher is told what steps don't say. Its functions are called concurrently.
type watcher struct {
	up        func()             // all parts are running
	published func(stockChanged) // the relay's publisher has returned
}

// leaseTTL is how long the outbox waits after its forwarder was killed.
const leaseTTL = time.Second

// serve runs the service until the context ends, and returns nil then.
func (s service) serve(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) error {
	on := ground{Database: s.Database, Broker: s.Broker, Join: s.Join}
	return on.with(ctx, logger, func(st *store.Store, broker *brokers.Broker) error {
		r := &running{service: s, store: st, broker: broker, watch: watch}
		return r.run(ctx, logger)
	})
}

func (r *running) run(ctx context.Context, logger watermill.LoggerAdapter) error {
	var parts []part
	if r.Consume {
		router, err := r.router(logger) //nolint:contextcheck // handlers have their messages' contexts
		if err != nil {
			return err
		}
		parts = append(parts, routing(router))
	}
	if r.Forward {
		publisher := message.Publisher(tellingPublisher{r.broker.Publisher, r.watch.published})
		late := &tooLatePublisher{Publisher: publisher}
		if r.Protection == earlyConfirm {
			publisher = late
		}
		f, err := r.forwarder(publisher, logger)
		if err != nil {
			return err
		}
		parts = append(parts, part{relay, func(ctx context.Context) error { return f.Run(late.watching(ctx)) }, f.Running})
	}
	return runParts(ctx, r.watch, parts...)
}

func (r *running) router(logger watermill.LoggerAdapter) (*message.Router, error) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: closeTimeout}, logger)
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(traced)
	outbox, err := forwarder.NewOutbox(r.store, forwarder.OutboxConfig{})
	if err != nil {
		return nil, err
	}
	dedupe, err := middleware.NewDedupe(r.store, middleware.DedupeConfig{
		Service: "stock", Outbox: outbox, Logger: logger,
		Window: middleware.DefaultWindow, RedeliveryWindow: r.broker.Capabilities.RedeliveryWindow, AllowShortWindow: true,
	})
	if err != nil {
		return nil, err
	}
	changes, err := r.broker.SubscriberFor(apply)
	if err != nil {
		return nil, err
	}
	followUps, err := r.broker.SubscriberFor(recommend)
	if err != nil {
		return nil, err
	}
	protect := map[protection]message.HandlerMiddleware{
		protected:    dedupe.Middleware,
		noInbox:      r.onlyTransaction(outbox),
		latePublish:  publishLate(dedupe),
		earlyConfirm: dedupe.Middleware,
	}[r.Protection]
	// The router's own publishing is used where protection is off, and otherwise
	// given nothing to publish.
	router.AddHandler(apply, r.Topics.Changes, changes, r.Topics.FollowUps, r.broker.Publisher, r.apply).AddMiddleware(protect)
	router.AddConsumerHandler(recommend, r.Topics.FollowUps, followUps, r.recommend).AddMiddleware(protect)
	return router, nil
}

func (r *running) forwarder(to message.Publisher, logger watermill.LoggerAdapter) (*forwarder.Forwarder, error) {
	return forwarder.New(r.store, map[string]message.Publisher{forwarder.DefaultDestination: to}, forwarder.Config{
		BatchSize: 4, LeaseTTL: leaseTTL, MaxPollInterval: 100 * time.Millisecond,
		RetryBackoff: 20 * time.Millisecond, MaxRetryBackoff: 200 * time.Millisecond, Logger: logger,
	})
}

// apply is the user's handler, with the user's own SQL on the user's own handle.
func (r *running) apply(msg *message.Message) ([]*message.Message, error) {
	change, err := r.write(msg, apply, "UPDATE products SET quantity = quantity + ? WHERE id = ?")
	if err != nil {
		return nil, err
	}
	followUp := message.NewMessage(watermill.NewUUID(), msg.Payload)
	msgmeta.SetKey(followUp, change.Product)
	return []*message.Message{followUp}, r.mayFail()
}

func (r *running) recommend(msg *message.Message) error {
	if _, err := r.write(msg, recommend, "UPDATE recommendations SET quantity = quantity + ? WHERE product = ?"); err != nil {
		return err
	}
	return r.mayFail()
}

// write does the handler's two statements. The ledger has no unique constraint:
// what is done twice is there twice.
func (r *running) write(msg *message.Message, stage, update string) (change stockChanged, err error) {
	if err := json.Unmarshal(msg.Payload, &change); err != nil {
		return change, err
	}
	ctx, db := msg.Context(), store.JoinDBX(r.store)
	updated, err := db.ExecContext(ctx, db.Rebind(update), change.Quantity, change.Product)
	if err != nil {
		return change, err
	}
	if n, err := updated.RowsAffected(); err != nil || n != 1 {
		return change, fmt.Errorf("update of product %q changed %d rows: %w", change.Product, n, err)
	}
	step.Reach(ctx, stockUpdated)
	_, err = db.ExecContext(ctx, db.Rebind("INSERT INTO effects (stage, change_id, product, quantity) VALUES (?, ?, ?, ?)"),
		stage, change.Change, change.Product, change.Quantity)
	if err != nil {
		return change, err
	}
	step.Reach(ctx, effectRecorded)
	return change, nil
}

var errUseCase = errors.New("the use case failed, on purpose")

func (r *running) mayFail() error {
	if r.FailOneIn > 0 && rand.IntN(r.FailOneIn) == 0 {
		return errUseCase
	}
	return nil
}

// onlyTransaction is Dedupe without its memory.
func (r *running) onlyTransaction(outbox *forwarder.Outbox) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			outer := msg.Context()
			defer msg.SetContext(outer)
			return nil, r.store.InTx(outer, func(ctx context.Context, _ store.Tx) error {
				msg.SetContext(ctx)
				produced, err := h(msg)
				if err != nil {
					return err
				}
				return outbox.Publish(ctx, r.Topics.FollowUps, produced...)
			})
		}
	}
}

// publishLate hides the handler's messages from Dedupe and leaves them to the
// router.
func publishLate(dedupe *middleware.Dedupe) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) (produced []*message.Message, err error) {
			_, err = dedupe.Middleware(func(msg *message.Message) (_ []*message.Message, err error) {
				produced, err = h(msg)
				return nil, err
			})(msg)
			return produced, err
		}
	}
}

// partKey is the context's name of the part, for steps outside of any handler.
type partKey struct{}

// whoIn returns who reaches a step: a handler, the subscriber, or the relay.
func whoIn(ctx context.Context) string {
	if handler := message.HandlerNameFromCtx(ctx); handler != "" {
		return handler
	}
	name, _ := ctx.Value(partKey{}).(string)
	return name
}

type traceKey struct{}

// traced notes in the context which message the steps belong to.
func traced(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		var change stockChanged
		if err := json.Unmarshal(msg.Payload, &change); err != nil {
			return nil, err
		}
		msg.SetContext(context.WithValue(msg.Context(), traceKey{}, change))
		step.Reach(msg.Context(), delivered)
		return h(msg)
	}
}
