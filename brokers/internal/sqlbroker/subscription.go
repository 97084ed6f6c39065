package sqlbroker

import (
	"context"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers/internal/sqljoin"
)

// maxBackoff bounds the doubling of nack_delay, as a multiple of it.
const maxBackoff = 100

// subscription feeds one channel, through one watermill-sql subscriber at a
// time.
type subscription struct {
	*subscriber
	context context.Context // of Subscribe: the messages' parent
	tables  Tables
	out     chan *message.Message

	failing  string // UUID of the message that failed last
	failures int    // how often in a row
}

func (s *subscription) run() {
	defer close(s.out)

	// stop ends the handing out; drained, later, the waiting for a verdict.
	stop, cancel := context.WithCancel(s.context)
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	drained, abandon := context.WithCancel(context.WithoutCancel(s.context))
	defer abandon()
	defer context.AfterFunc(stop, func() { time.AfterFunc(s.Drain, abandon) })()

	for stop.Err() == nil {
		wait := s.session(stop, drained)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-stop.Done():
			timer.Stop()
		}
	}
}

// session delivers until a message fails or stop, and returns how long to wait
// before the next one.
func (s *subscription) session(stop, drained context.Context) time.Duration {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.context))
	defer cancel()

	var noDeadline time.Duration // this package has its own
	inner, err := wsql.NewSubscriber(s.beginner(), wsql.SubscriberConfig{
		ConsumerGroup:  s.group,
		AckDeadline:    &noDeadline,
		PollInterval:   s.Poll,
		SchemaAdapter:  s.Schema(s.tables),
		OffsetsAdapter: s.Offsets(s.tables),
		BackoffManager: s.newBackoff(),
	}, errorLogger{s.Logger})
	if err == nil {
		var messages <-chan *message.Message
		if messages, err = inner.Subscribe(ctx, s.tables.Slug); err == nil {
			wait := s.deliverAll(stop, drained, messages)
			cancel()
			for range messages { // until the transaction is over
			}

			return wait
		}
	}
	s.Logger.Error("could not subscribe; trying again", err, s.fields())

	return retryMax
}

func (s *subscription) deliverAll(stop, drained context.Context, messages <-chan *message.Message) time.Duration {
	for {
		select {
		case <-stop.Done():
			return 0
		case msg, open := <-messages:
			if !open {
				return 0
			}
			if !s.deliver(stop, drained, msg) {
				return s.backoff(msg.UUID)
			}
			s.failures = 0
		}
	}
}

// deliver hands out a copy of the message and returns whether it was handled and
// recorded. The copy keeps handlers from acking past what is decided here.
func (s *subscription) deliver(stop, drained context.Context, msg *message.Message) bool {
	tx, ok := sqljoin.Of(msg.Context())
	if !ok {
		s.Logger.Error("message came without its transaction; it will come again", nil, s.fields())

		return false
	}

	handed := msg.Copy()
	ctx, cancel := context.WithCancel(s.context)
	defer cancel()
	handed.SetContext(tx.Context(ctx))

	select {
	case s.out <- handed:
	case <-stop.Done():
		return false
	}
	if !s.verdict(drained, handed) {
		return false
	}

	return s.commit(drained, msg, tx)
}

// verdict waits for ack or nack.
func (s *subscription) verdict(drained context.Context, handed *message.Message) bool {
	var late <-chan time.Time
	if s.AckDeadline > 0 {
		timer := time.NewTimer(s.AckDeadline)
		defer timer.Stop()
		late = timer.C
	}

	select {
	case <-handed.Acked():
		return true
	case <-handed.Nacked():
		return false
	case <-late:
		s.Logger.Error("message was not acked in time; it will come again",
			fmt.Errorf("ack_deadline of %v is over", s.AckDeadline),
			s.fields().Add(watermill.LogFields{"message_uuid": handed.UUID}))

		return false
	case <-drained.Done():
		return false
	}
}

// commit lets watermill-sql record the ack, and waits until it has.
func (s *subscription) commit(drained context.Context, msg *message.Message, tx *sqljoin.Tx) bool {
	tx.Ack()
	msg.Ack()
	select {
	case <-tx.Done():
	case <-drained.Done():
	}

	return tx.Committed()
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
	factor := maxBackoff
	if s.failures <= 7 { // 2^7 is beyond maxBackoff, and far on the shift overflows
		factor = min(1<<(s.failures-1), maxBackoff)
	}

	return time.Duration(factor) * s.NackDelay
}

func (s *subscription) fields() watermill.LogFields {
	return watermill.LogFields{"topic": s.tables.Topic, "group": s.group}
}
