package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/service"
)

// ordersVariable holds a consumer process's orders: the demo starts itself with
// it. They are not arguments because URLs may hold passwords.
const ordersVariable = "HEADRACE_DEMO_CONSUMER"

// orders tell a consumer process what to do.
type orders struct {
	Side   side           `json:"side"`
	DB     string         `json:"db"`
	Broker string         `json:"broker"`
	Group  string         `json:"group"`
	Topics service.Topics `json:"topics"`
	// Throw and Hold as in plan. A consumer that need not be killed has no Hold.
	Throw []string `json:"throw"`
	Hold  string   `json:"hold"`
}

// report is what a consumer process says, a line of JSON each.
type report struct {
	Event event  `json:"event"`
	ID    string `json:"id,omitempty"` // of the change
	Left  left   `json:"left,omitzero"`
}

// left is what is not done yet, in the direction in which messages go.
type left struct {
	Changes   int64 `json:"changes"`
	Unsent    int64 `json:"unsent"`
	FollowUps int64 `json:"follow_ups"`
}

func (l left) String() string {
	var parts []string
	for _, part := range []struct {
		n    int64
		what string
	}{
		{l.Changes, "changes at the broker"},
		{l.Unsent, "follow-ups in the outbox"},
		{l.FollowUps, "follow-ups at the broker"},
	} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return "waiting for " + strings.Join(parts, ", ")
}

type event string

const (
	started event = "started"
	threw   event = "threw"   // a handler failed on purpose
	holding event = "holding" // a handler stands still: kill it now
	working event = "working"
	drained event = "drained" // there is nothing left to do
)

func consumeAsToldBy(ctx context.Context, encoded string) error {
	var o orders
	if err := json.Unmarshal([]byte(encoded), &o); err != nil {
		return fmt.Errorf("%s is set, but not by the demo: %w", ordersVariable, err)
	}
	// The demo holds the other end: when it dies, so does its consumer.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return consume(ctx, o, newReporter(os.Stdout))
}

// consumer is one side's way to handle messages.
type consumer interface {
	Run(ctx context.Context) error
	Running() <-chan struct{}
	// Unsent counts what was committed and is not at the broker yet.
	Unsent(ctx context.Context) (int64, error)
	Close() error
}

// consume handles messages until there are none left.
func consume(ctx context.Context, o orders, reports *reporter) (err error) {
	db, err := connect.Open(o.DB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	logger := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	broker, err := brokers.Open(ctx, o.Broker, brokers.Config{Openers: connect.Openers(), Group: o.Group, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	c, err := newConsumer(ctx, o, db, broker, newFaults(o, reports), logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()

	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(running) }()
	select {
	case <-c.Running():
		reports.send(report{Event: started})
		err = awaitDrained(ctx, o, broker, c, reports)
	case err = <-done:
		stop()
		return errors.Join(err, errors.New("the consumer has ended before it started"))
	}
	stop()
	return errors.Join(err, <-done)
}

// Where the broker only estimates its backlog (SQS), it must be empty this often
// in a row.
const (
	drainedChecks   = 5
	drainedInterval = 50 * time.Millisecond
)

// awaitDrained returns when everything is done.
func awaitDrained(ctx context.Context, o orders, broker *brokers.Broker, c consumer, reports *reporter) error {
	backlog := broker.Capabilities.Backlog
	if backlog == nil {
		return fmt.Errorf("the broker %s can't tell its backlog, without which the demo doesn't know its end", broker.Name())
	}
	ticker := time.NewTicker(drainedInterval)
	defer ticker.Stop()
	for empty := 0; empty < drainedChecks; {
		remaining, err := look(ctx, o, backlog, c)
		if err != nil {
			return err
		}
		empty++
		if remaining != (left{}) {
			empty = 0
			reports.send(report{Event: working, Left: remaining})
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped while %v: %w", remaining, ctx.Err())
		case <-ticker.C:
		}
	}
	reports.send(report{Event: drained})
	return nil
}

// look asks in the direction in which messages go: what isn't found at one place
// and wasn't at those before is done.
func look(
	ctx context.Context, o orders, backlog func(ctx context.Context, topic, group string) (int64, error), c consumer,
) (remaining left, err error) {
	if remaining.Changes, err = backlog(ctx, o.Topics.Changes, o.Group); err != nil {
		return remaining, err
	}
	if remaining.Unsent, err = c.Unsent(ctx); err != nil {
		return remaining, err
	}
	remaining.FollowUps, err = backlog(ctx, o.Topics.FollowUps, o.Group)
	return remaining, err
}
