package readme

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/parking"
)

// purchase is what a shop's API holds of an order.
type purchase struct {
	ETag     string
	Quantity int
	Note     string
}

// purchases is the API's client. Put makes a call with If-Match.
type purchases interface {
	Get(ctx context.Context, id string) (purchase, error)
	Put(id, etag string) effects.Call
}

// change makes a user's change of a purchase that they have seen, as docs/effects.md
// shows it.
func change(
	ctx context.Context, client *effects.Client, shop purchases, msg *message.Message, seen, wanted purchase,
) (effects.Response, error) {
	id := string(msg.Payload)
	number := func(n int) json.RawMessage { return json.RawMessage(strconv.Itoa(n)) }
	// CONFLICT
	var answer effects.Response
	reconcile := effects.Reconcile[purchase]{
		Subject: "purchase " + id,
		Load:    func(ctx context.Context) (purchase, error) { return shop.Get(ctx, id) },
		Push: func(ctx context.Context, base purchase) error { // its client's provider is Conditional
			var err error
			answer, err = client.Do(ctx, "change", msg.UUID+"@"+base.ETag, msg.Payload, shop.Put(id, base.ETag))
			return err
		},
		Done: func(now purchase) bool { return now.Quantity == wanted.Quantity },
		Critical: func(seen, now purchase) []parking.Change { // what the user has to know
			if seen.Quantity == now.Quantity {
				return nil
			}
			return []parking.Change{{
				Field: "quantity", Was: number(seen.Quantity), Is: number(now.Quantity), Wanted: number(wanted.Quantity),
			}}
		},
	}
	_, err := reconcile.Do(ctx, seen) // in a stage
	return answer, err                // empty if nothing had to be pushed (Reconciled.Already)
	// END
}
