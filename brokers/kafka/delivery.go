package kafka

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
	watermillkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
	"github.com/headrace-go/headrace/internal/step"
)

// subscription hands one topic's messages from upstream to the handler.
//
// The handler never sees upstream's message, only copies, so that upstream's
// answers to an ack or a nack don't apply: it sleeps after a nack without
// listening, resends for ever to a partition that may have been taken away, and
// drops an ack that comes after a rebalance has begun though the broker would
// still take it.
type subscription struct {
	settings *settings
	topic    string
	sessions *sessions
	ctx      context.Context //nolint:containedctx // the subscription's own, from Subscribe
	stop     context.Context //nolint:containedctx // done when ctx is, or when the subscriber closes
	out      chan *message.Message
}

func (s *subscription) run(in <-chan *message.Message, upstream *watermillkafka.Subscriber) {
	defer close(s.out)
	defer func() { _ = upstream.Close() }() // its error is always nil

	// One at a time for each partition: upstream waits for the ack.
	var inFlight sync.WaitGroup
	defer inFlight.Wait()
	for {
		select {
		case msg, ok := <-in:
			if !ok {
				return
			}
			inFlight.Go(func() { s.deliver(msg) })
		case <-s.stop.Done():
			return
		}
	}
}

// deliver hands out one message until it is acked, its partition is taken away,
// or the subscription stops. Acking upstream's message lets go of the partition;
// as long as the session lasts it also marks the offset, so what was not handled
// is left unanswered then: upstream lets go of it when it closes.
func (s *subscription) deliver(in *message.Message) {
	session := s.sessions.get()
	lost := session.Context().Done()
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	for delay := s.settings.nackDelay; ; delay = min(2*delay, s.settings.nackDelayMax) {
		out := in.Copy()
		out.Payload = bytes.Clone(in.Payload) // the next try must not see what a handler did to it
		out.SetContext(ctx)
		if s.stop.Err() != nil {
			return
		}
		select {
		case s.out <- out:
		case <-lost:
			in.Ack()
			return
		case <-s.stop.Done():
			return
		}

		switch delivery.Await(out, delivery.Wait{Stop: s.stop.Done(), Lost: lost, Drain: s.settings.drain}) {
		case delivery.Acked:
			step.Reach(out.Context(), step.AckBefore)
			mark(session, s.topic, in)
			in.Ack()
			step.Reach(out.Context(), step.AckAfter)
			return
		case delivery.Abandoned, delivery.Late:
			cancel()
			if session.Context().Err() != nil {
				in.Ack()
			}
			return
		case delivery.Nacked:
		}

		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-lost:
			timer.Stop()
			in.Ack()
			return
		case <-s.stop.Done():
			timer.Stop()
			return
		}
	}
}

// mark is also right after the session has ended: the offsets are committed
// when the last message of it is settled.
func mark(session sarama.ConsumerGroupSession, topic string, in *message.Message) {
	partition, _ := watermillkafka.MessagePartitionFromCtx(in.Context())
	offset, _ := watermillkafka.MessagePartitionOffsetFromCtx(in.Context())
	session.MarkOffset(topic, partition, offset+1, "")
}
