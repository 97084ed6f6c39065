package scenario

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
)

// ackDeadline are the options that make a broker give a message to somebody else
// soon. Kafka and the embedded broker don't while their consumer lives.
func ackDeadline(broker string) string {
	return map[string]string{
		sqs: "visibility=1s", sqsFIFO: "visibility=1s", postgres: "ack_deadline=300ms", mariadb: "ack_deadline=300ms",
	}[broker]
}

// A handler that is slower than the broker's patience is given its message
// again while it is at work, and once more when that is done: the effect happens
// once, whoever of the two instances gets the copies.
func TestAHandlerSlowerThanTheAckDeadlineTakesEffectOnce(t *testing.T) {
	t.Parallel()
	impatient := slices.DeleteFunc(everyPair(t), func(p pair) bool { return ackDeadline(p.broker) == "" })
	each(t, impatient, func(t *testing.T, p pair) {
		w := open(t, p, withBroker(withOptions(brokerURL(t, p.broker), ackDeadline(p.broker))))
		s := newStock(w)
		topic, came, acked := w.topic("slow"), newTally(), newTally()
		again := make(chan struct{}, 10)
		first := firstTime()
		instance := subscription{
			service: "stock", topic: topic,
			middlewares: chain(one(came.counted(again)), one(acked.acked),
				one(w.dedupe("stock", func(cfg *middleware.DedupeConfig) { cfg.WaitTimeout = 100 * time.Millisecond }))),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				if err := s.raise(msg.Context(), 1); err != nil {
					return nil, err
				}
				if first(msg.UUID) {
					for range 2 { // itself, and a copy
						receive(t, again, "the copy")
					}
				}
				return nil, nil
			},
		}
		w.serve(instance)
		w.serve(instance)
		msg := newMessage("slow")
		require.NoError(t, w.bus.Publisher.Publish(topic, msg))
		acked.wait(t, msg.UUID, 1)
		w.settled(topic, "stock")
		require.Equal(t, 1, w.count("SELECT quantity FROM products WHERE id = 1"))
	})
}

// counted counts deliveries and signals each.
func (c *tally) counted(signal chan<- struct{}) message.HandlerMiddleware {
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			c.add(msg.UUID)
			select {
			case signal <- struct{}{}:
			default:
			}
			return h(msg)
		}
	}
}

// A router that is shut down while a handler is at work cancels its message's
// context. What had returned nil is committed; what had not comes again to the
// next router. Nothing is lost and nothing doubled.
func TestARouterShutDownInMidHandler(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		w := open(t, p)
		s := newStock(w)
		topic, acked := w.topic("shutdown"), newTally()
		working := make(chan struct{}, 1)
		first := firstTime()
		service := subscription{
			service: "stock", topic: topic, middlewares: chain(one(acked.acked), one(w.dedupe("stock"))),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				ctx := msg.Context()
				product := 1
				if msg.UUID == "gives up" {
					product = 2
				}
				if err := s.raise(ctx, product); err != nil {
					return nil, err
				}
				if !first(msg.UUID) {
					return nil, nil
				}
				working <- struct{}{}
				receive(t, ctx.Done(), "the shutdown")
				if msg.UUID == "gives up" {
					return nil, fmt.Errorf("shut down: %w", context.Cause(ctx))
				}
				return nil, nil // as if it hadn't noticed
			},
		}
		for _, id := range []string{"goes on", "gives up"} {
			stop := w.serve(service)
			require.NoError(t, w.bus.Publisher.Publish(topic, message.NewMessage(id, nil)))
			receive(t, working, "the handler of the message that "+id)
			stop()
		}
		w.serve(service)
		acked.wait(t, "goes on", 1)
		acked.wait(t, "gives up", 1)
		w.settled(topic, "stock")
		require.Equal(t, 1, w.count("SELECT quantity FROM products WHERE id = 1"))
		require.Equal(t, 1, w.count("SELECT quantity FROM products WHERE id = 2"))
	})
}
