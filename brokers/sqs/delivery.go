package sqs

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/headrace-go/headrace/brokers/internal/delivery"
	"github.com/headrace-go/headrace/internal/hold"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/msgmeta"
)

// subscription hands one queue's messages from upstream's receivers to the
// handler and settles them with SQS itself. Upstream only receives: its own
// delete dies with its context when it closes, its nack leaves the message
// invisible for the whole visibility timeout, and its send to nobody hangs.
type subscription struct {
	settings *settings
	client   *client
	queue    *queue
	logger   watermill.LoggerAdapter
	ctx      context.Context //nolint:containedctx // the subscription's own, from Subscribe
	stop     context.Context //nolint:containedctx // done when ctx is, or when the subscriber closes
	out      chan *message.Message

	delayed sync.WaitGroup // nacked messages that wait to be made visible
}

// run works until the subscription stops, then calls end, which closes upstream
// once no new poll can begin.
func (s *subscription) run(receivers []<-chan *message.Message, end func()) {
	var running sync.WaitGroup
	for _, in := range receivers {
		running.Go(func() {
			for msg := range in {
				s.deliver(msg)
				msg.Nack() // upstream's sign to receive the next
			}
		})
	}
	<-s.stop.Done()
	end()
	running.Wait()
	s.delayed.Wait()
	close(s.out)
}

// deliver hands out one message and settles it: deleted after an ack, visible
// again after the delay for a nack, or soon when the drain time ended first.
func (s *subscription) deliver(in *message.Message) {
	receipt := in.Metadata[receiptEntry]
	delete(in.Metadata, receiptEntry)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	in.SetContext(ctx)

	out := in.Copy()
	keeper := &keeper{sub: s, msg: out, receipt: receipt}
	out.SetContext(hold.With(ctx, keeper.keep))
	if !s.handOut(out, receipt) {
		s.show(out, receipt, 0) // for another consumer, at once
		return
	}
	outcome := delivery.Await(out, delivery.Wait{Stop: s.stop.Done(), Drain: s.settings.drain})
	keeper.end()
	switch outcome {
	case delivery.Acked:
		step.Reach(out.Context(), step.AckBefore)
		s.remove(out, receipt)
		step.Reach(out.Context(), step.AckAfter)
	case delivery.Nacked:
		s.retry(in, receipt)
	case delivery.Abandoned, delivery.Late:
		// Its context is cancelled; a moment for the handler to notice.
		cancel()
		s.show(out, receipt, time.Second)
	}
}

// handOut returns false when the subscription ended first. While nobody takes
// the message it is kept invisible, and it begins its handling with the whole
// visibility timeout.
func (s *subscription) handOut(out *message.Message, receipt string) bool {
	received := time.Now()
	ticker := time.NewTicker(s.settings.visibility / 2)
	defer ticker.Stop()
	for s.stop.Err() == nil {
		select {
		case s.out <- out:
			if time.Since(received) > s.settings.visibility/10 {
				s.show(out, receipt, s.settings.visibility)
			}

			return true
		case <-ticker.C:
			s.show(out, receipt, s.settings.visibility)
		case <-s.stop.Done():
		}
	}

	return false
}

// remove deletes an acked message. It outlives the subscription's context: a
// handler that has committed should not see the message again.
func (s *subscription) remove(msg *message.Message, receipt string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 4*settleTimeout)
	defer cancel()
	if _, err := s.client.DeleteMessage(ctx, &sqs.DeleteMessageInput{
		QueueUrl: aws.String(s.queue.url), ReceiptHandle: aws.String(receipt),
	}, s.client.settling); err != nil {
		s.logger.Error("Can't delete an acked message; it will be delivered again", err,
			watermill.LogFields{"message_uuid": msg.UUID})
	}
}

// retry makes a nacked message visible after its delay. SQS counts whole
// seconds; shorter delays are waited for here, beside the receiver.
func (s *subscription) retry(msg *message.Message, receipt string) {
	delay := s.settings.nackDelay
	attempt, _, _ := msgmeta.GetAttempt(msg)
	for ; attempt > 1 && delay < s.settings.nackDelayMax; attempt-- {
		delay *= 2
	}
	delay = min(delay, s.settings.nackDelayMax)
	if delay >= time.Second {
		s.show(msg, receipt, delay)
		return
	}
	s.delayed.Go(func() {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.stop.Done():
		}
		s.show(msg, receipt, 0)
	})
}

// show makes a message visible after a time, rounded up to seconds.
func (s *subscription) show(msg *message.Message, receipt string, after time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 4*settleTimeout)
	defer cancel()
	if _, err := s.client.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: aws.String(s.queue.url), ReceiptHandle: aws.String(receipt),
		VisibilityTimeout: inSeconds(after),
	}, s.client.settling); err != nil {
		// Mostly because it had become visible already.
		s.logger.Info("Can't change a message's visibility; it comes again after its visibility timeout",
			watermill.LogFields{"message_uuid": msg.UUID, "err": err.Error()})
	}
}

// inSeconds rounds up. Every time in the settings is at most some hours.
func inSeconds(d time.Duration) int32 { return int32((d + time.Second - 1) / time.Second) } //nolint:gosec // see above
