package sqlbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
	"github.com/headrace-go/headrace/internal/step"
)

// commitTimeout bounds the recording of an ack. Beyond it the transaction is
// given up, and the message comes again unless the commit went through.
const commitTimeout = time.Minute

// subscription feeds one channel, through one watermill-sql subscriber at a
// time.
type subscription struct {
	*subscriber

	tables Tables
	ctx    context.Context //nolint:containedctx // the subscription's own, from Subscribe
	stop   context.Context //nolint:containedctx // done when ctx is, or when the subscriber closes
	out    chan *message.Message

	failing  string // UUID of the message that failed last
	failures int64  // how often in a row
}

// run delivers until Subscribe's context ends or the subscriber is closed.
func (s *subscription) run() {
	defer close(s.out)

	for wait := time.Duration(0); ; wait = s.session() {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.stop.Done():
		}
		timer.Stop()
		if s.stop.Err() != nil {
			return
		}
	}
}

// session delivers until a message fails or the subscription ends, and returns
// how long to wait before the next one.
func (s *subscription) session() time.Duration {
	inSession, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	defer cancel()

	messages, err := s.subscribe(inSession)
	if err != nil {
		s.Logger.Error("could not subscribe; trying again", err, s.fields())

		return retryLongest
	}
	wait := s.deliverAll(messages)
	cancel()
	drain(messages)

	return wait
}

func (s *subscription) subscribe(ctx context.Context) (<-chan *message.Message, error) {
	var noDeadline time.Duration // this package has its own
	inner, err := wsql.NewSubscriber(s.beginner(), wsql.SubscriberConfig{
		ConsumerGroup:  s.group,
		AckDeadline:    &noDeadline,
		PollInterval:   s.Poll,
		SchemaAdapter:  s.Schema(s.tables),
		OffsetsAdapter: s.Offsets(s.tables),
		BackoffManager: s.newBackoff(),
	}, errorLogger{s.Logger})
	if err != nil {
		return nil, fmt.Errorf("configure watermill-sql: %w", err)
	}
	messages, err := inner.Subscribe(ctx, s.tables.Slug)
	if err != nil {
		return nil, fmt.Errorf("subscribe by watermill-sql: %w", err)
	}

	return messages, nil
}

// drain waits for the end of a watermill-sql subscription whose context has
// ended, and so for the end of its transaction.
func drain(messages <-chan *message.Message) {
	for msg := range messages {
		msg.Nack()
	}
}

func (s *subscription) deliverAll(messages <-chan *message.Message) time.Duration {
	for {
		select {
		case <-s.stop.Done():
			return 0
		case msg, open := <-messages:
			if !open {
				return 0
			}
			if !s.deliver(msg) {
				return s.backoff(msg.UUID)
			}
			s.failures = 0
			if s.stop.Err() != nil {
				return 0 // the select above chooses at random
			}
		}
	}
}

// deliver hands out a copy of the message and returns whether it was handled and
// recorded. The copy keeps handlers from acking past what is decided here.
func (s *subscription) deliver(msg *message.Message) bool {
	tx, ok := sqljoin.Of(msg.Context())
	if !ok {
		s.Logger.Error("message came without its transaction; it will come again", nil, s.fields())

		return false
	}

	handed := msg.Copy()
	handedCtx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	handed.SetContext(tx.Context(handedCtx))

	select {
	case s.out <- handed:
	case <-s.stop.Done():
		return false
	}
	if !s.acked(handed) {
		return false
	}

	of := handed.Context() // with what the router and middlewares have put there
	step.Reach(of, step.AckBefore)
	committed := commit(msg, tx)
	step.Reach(of, step.AckAfter)

	return committed
}

// commit lets watermill-sql record the ack, and waits until it has.
func commit(msg *message.Message, tx *sqljoin.Tx) bool {
	tx.Ack()
	msg.Ack()
	timer := time.NewTimer(commitTimeout)
	defer timer.Stop()
	select {
	case <-tx.Done():
	case <-timer.C:
	}

	return tx.Committed()
}

// acked waits for the verdict: up to the ack deadline, and up to the drain
// option after the subscription's end.
func (s *subscription) acked(handed *message.Message) bool {
	outcome := delivery.Await(handed, delivery.Wait{Stop: s.stop.Done(), Drain: s.Drain, Deadline: s.AckDeadline})
	if outcome == delivery.Late && s.stop.Err() == nil {
		s.Logger.Error("message was not acked in time; it will come again",
			fmt.Errorf("ack_deadline of %v is over", s.AckDeadline),
			s.fields().Add(watermill.LogFields{"message_uuid": handed.UUID}))
	}

	return outcome == delivery.Acked
}

// beginner begins the transaction of each message.
func (s *subscription) beginner() *sqljoin.Beginner {
	b := &sqljoin.Beginner{
		Begin: sqljoin.Own(s.Reading),
		Claim: func(ctx context.Context, q sqljoin.Statements) (bool, error) {
			return s.Claim(ctx, q, s.tables, s.group)
		},
	}
	if s.Join {
		b.Begin = s.Joiner
		b.Peek = func(ctx context.Context) (bool, error) { return s.Peek(ctx, s.Reading, s.tables, s.group) }
	}

	return b
}

// backoff is the wait before a message's next attempt. Attempts are counted per
// process; another one may take the message at once.
func (s *subscription) backoff(uuid string) time.Duration {
	if uuid != s.failing {
		s.failing, s.failures = uuid, 0
	}
	s.failures++

	return delivery.Backoff(s.NackDelay, s.failures)
}

func (s *subscription) fields() watermill.LogFields {
	return watermill.LogFields{"topic": s.tables.Topic, "group": s.group}
}
