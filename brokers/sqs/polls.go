package sqs

import (
	"context"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/smithy-go/middleware"
)

// polls counts upstream's receive requests under way, and lets no new one begin
// once it is stopped.
//
// A message that the server hands to a poll whose client has left is invisible
// for its whole visibility timeout. AWS notices most clients that leave; other
// servers (ElasticMQ) serve an abandoned poll until its wait is over. Short polls
// are therefore never cut off: Close waits for them.
type polls struct {
	mu       sync.Mutex
	stopped  bool
	underWay sync.WaitGroup
}

// shortPoll is the longest poll that Close waits for.
const shortPoll = 2 * time.Second

// stop returns at once, or when the polls under way have ended where they are
// short.
func (p *polls) stop(wait time.Duration) {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	if wait <= shortPoll {
		p.underWay.Wait()
	}
}

func (p *polls) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.stopped {
		return false
	}
	p.underWay.Add(1)

	return true
}

// watch puts the counting into the SDK's client, the only place where upstream's
// requests pass by.
func (p *polls) watch(o *sqs.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("headrace-polls", p.handle), middleware.Before)
	})
}

func (p *polls) handle(
	ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
) (out middleware.InitializeOutput, metadata middleware.Metadata, err error) {
	if _, ok := in.Parameters.(*sqs.ReceiveMessageInput); !ok {
		return next.HandleInitialize(ctx, in) //nolint:wrapcheck // passed through
	}
	if !p.begin() {
		<-ctx.Done() // upstream's loop would ask again at once

		return out, metadata, ctx.Err() //nolint:wrapcheck // upstream asks for it by errors.Is
	}
	defer p.underWay.Done()

	return next.HandleInitialize(ctx, in) //nolint:wrapcheck // passed through
}
