package buying

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/msgmeta"
)

// Booked is a message of the topic Bookings: a user's action, which the shop is to
// take.
type Booked struct {
	Recommendation int64 `json:"recommendation"`
	// Quantity is what the purchase is to be of; 0 withdraws.
	Quantity int64 `json:"quantity"`
	// SeenVersion and SeenQuantity are what the user has seen of the purchase.
	SeenVersion  int64 `json:"seen_version"`
	SeenQuantity int64 `json:"seen_quantity"`
}

// ReadBooked reads a message of the topic Bookings.
func ReadBooked(msg *message.Message) (b Booked, err error) {
	if err := json.Unmarshal(msg.Payload, &b); err != nil {
		return b, fmt.Errorf("buying: message %s is no booking: %w", msg.UUID, err)
	}
	return b, nil
}

// Book has the shop take an order, a change of it or, by a quantity of 0, its
// withdrawal. Until it has, the order is in no mail. It must be called in a
// transaction.
func (d *Desk) Book(ctx context.Context, id, quantity int64) error {
	booking := watermill.NewUUID()
	// The row is locked first: what users have seen is what stands behind those who
	// have come before.
	n, err := d.exec(ctx, `UPDATE recommendations SET state = ?, booking = ?, version = version + 1
		WHERE id = ? AND mail = '' AND (state <> ? OR ? > 0)`, Booking, booking, id, Open, quantity)
	if err != nil {
		return err
	}
	r, err := d.Recommendation(ctx, id)
	switch {
	case err != nil:
		return err
	case r.Mail != "":
		return ErrMailed
	case n == 0:
		return ErrNotOrdered
	}
	payload, err := json.Marshal(Booked{
		Recommendation: id, Quantity: quantity, SeenVersion: r.SeenVersion, SeenQuantity: r.SeenQuantity,
	})
	if err != nil {
		return fmt.Errorf("buying: %w", err)
	}
	// What this user has decided is seen by the next.
	if _, err := d.exec(ctx, "UPDATE recommendations SET seen_quantity = ? WHERE id = ?", quantity, id); err != nil {
		return err
	}
	out := message.NewMessage(booking, payload)
	out.SetContext(ctx)
	msgmeta.SetKey(out, strconv.FormatInt(id, 10))
	if err := d.cfg.Publisher.Publish(d.cfg.Bookings, out); err != nil {
		return fmt.Errorf("buying: book recommendation %d: %w", id, err)
	}
	return nil
}

// Taken notes that the shop has taken a booking, and has this version since. If it is
// the last one, the order stands and goes into the supplier's next mail, or is open
// again.
func (d *Desk) Taken(msg *message.Message, version int64) error {
	ctx := msg.Context()
	b, err := ReadBooked(msg)
	if err != nil {
		return err
	}
	if _, err := d.exec(ctx, "UPDATE recommendations SET seen_version = ? WHERE id = ?", version, b.Recommendation); err != nil {
		return err
	}
	if b.Quantity == 0 {
		_, err := d.exec(ctx, `UPDATE recommendations SET state = ?, version = version + 1 WHERE id = ? AND booking = ?`,
			Open, b.Recommendation, msg.UUID)
		return err
	}
	n, err := d.exec(ctx, `UPDATE recommendations SET state = ?, quantity = ?, seen_quantity = ?, version = version + 1
		WHERE id = ? AND booking = ?`, Ordered, b.Quantity, b.Quantity, b.Recommendation, msg.UUID)
	if err != nil || n == 0 {
		return err
	}
	r, err := d.Recommendation(ctx, b.Recommendation)
	if err != nil {
		return err
	}
	_, err = d.cfg.Slot(ctx, r.Supplier)
	return err
}

// Disputed takes a user's action back, since the shop has something else than the user
// has seen.
func (d *Desk) Disputed(ctx context.Context, msg *message.Message, version, quantity int64) error {
	b, err := ReadBooked(msg)
	if err != nil {
		return err
	}
	_, err = d.exec(ctx, `UPDATE recommendations SET state = ?, seen_version = ?, seen_quantity = ?, version = version + 1
		WHERE id = ? AND booking = ?`, Review, version, quantity, b.Recommendation, msg.UUID)
	return err
}
