package scenario

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"
)

// A list of what was seen that is written in another transaction than the
// effects loses a message whose effects fail. The unprotected side has
// Watermill's own Deduplicator in Dedupe's place.
func TestS11_SeenButNotDone(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		s := newStock(open(t, p))
		topic, acked, attempts := s.topic("stock"), newTally(), newTally()
		protection := (&wmiddleware.Deduplicator{
			KeyFactory: func(msg *message.Message) (string, error) { return msg.UUID, nil },
			Timeout:    time.Minute,
		}).Middleware
		if protected {
			protection = s.dedupe("stock")
		}
		s.serve(subscription{
			service: "stock", topic: topic, middlewares: chain(one(acked.acked), one(protection)),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				e, err := parseStock(msg)
				if err != nil {
					return nil, err
				}
				if attempts.add(msg.UUID) == 1 {
					return nil, errInjected
				}
				if err := s.add(msg.Context(), e); err != nil {
					return nil, err
				}
				return nil, s.recommend(msg.Context(), e.Product)
			},
		})
		e := stockChanged{Product: 1, Quantity: 10, Line: 2}
		msg := s.message(e)
		require.NoError(t, s.bus.Publisher.Publish(topic, msg))
		acked.wait(t, msg.UUID, 1)
		s.settled(topic, "stock")
		damage := s.damage(e)
		if n, _ := attempts.get(msg.UUID); len(damage) > 0 {
			damage = append(damage, fmt.Sprintf("after %d attempts", n))
		}
		return damage
	})
}
