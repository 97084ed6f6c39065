package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
)

// reporter tells the demo what happens in a consumer process.
type reporter struct {
	mu  sync.Mutex
	out *json.Encoder
}

func newReporter(out io.Writer) *reporter { return &reporter{out: json.NewEncoder(out)} }

// send writes a whole line: it has reached the pipe when a kill can come.
func (r *reporter) send(line report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.out.Encode(line) //nolint:errchkjson // fails when the demo is gone, and so will be this process
}

// errOnPurpose is what the handlers throw.
var errOnPurpose = errors.New("the demo makes this handler fail, after the stock was written")

// faults breaks handlers where they publish, which is after they have written
// the stock.
type faults struct {
	reports *reporter

	mu    sync.Mutex
	throw map[string]bool
	hold  string
}

func newFaults(o orders, reports *reporter) *faults {
	f := &faults{reports: reports, throw: map[string]bool{}, hold: o.Hold}
	for _, id := range o.Throw {
		f.throw[id] = true
	}
	return f
}

// before returns a publisher that breaks what should be broken and passes the
// rest on.
func (f *faults) before(next message.Publisher) message.Publisher {
	return faultyPublisher{next, f}
}

type faultyPublisher struct {
	message.Publisher

	faults *faults
}

func (p faultyPublisher) Publish(topic string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		var due warehouse.RecommendationsDue
		if err := json.Unmarshal(msg.Payload, &due); err != nil {
			return fmt.Errorf("not a follow-up: %w", err)
		}
		if err := p.faults.strike(msg, due.Change); err != nil {
			return err
		}
	}
	if err := p.Publisher.Publish(topic, msgs...); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

func (f *faults) strike(msg *message.Message, id string) error {
	f.mu.Lock()
	throws, holds := f.throw[id], f.hold == id
	delete(f.throw, id)
	f.mu.Unlock()
	if throws {
		f.reports.send(report{Event: threw, ID: id})
		return errOnPurpose
	}
	if holds {
		f.reports.send(report{Event: holding, ID: id})
		<-msg.Context().Done() // the kill comes first
		return fmt.Errorf("killed too late: %w", msg.Context().Err())
	}
	return nil
}
