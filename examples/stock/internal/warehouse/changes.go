package warehouse

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
)

// HandleChange handles a ProductStockChanged: stock, the order line's delivered
// quantity and the journal move, and a message to the service itself asks for
// the recommendations.
func (w *Warehouse) HandleChange(msg *message.Message) error {
	var change ProductStockChanged
	if err := decode(msg.Payload, &change); err != nil {
		return err
	}
	if err := change.Validate(); err != nil {
		return err
	}
	if err := w.move(msg.Context(), msg.UUID, change); err != nil {
		return err
	}
	return w.askForRecommendations(msg.Context(), RecommendationsDue{Product: change.Product, Change: msg.UUID})
}

func (w *Warehouse) move(ctx context.Context, id string, change ProductStockChanged) error {
	found, err := w.exec(ctx, "UPDATE products SET stock = stock + ? WHERE id = ?", change.Delta(), change.Product)
	if err != nil {
		return err
	}
	if found == 0 {
		return fmt.Errorf("%w: there is no product %d", ErrRefused, change.Product)
	}

	if line, ok := change.Delivery(); ok {
		found, err = w.exec(ctx, "UPDATE purchase_order_lines SET delivered = delivered + ? WHERE id = ? AND product = ?",
			change.Quantity, line, change.Product)
		if err != nil {
			return err
		}
		if found == 0 {
			return fmt.Errorf("%w: product %d has no purchase order line %d", ErrRefused, change.Product, line)
		}
	}

	_, err = w.exec(ctx, "INSERT INTO stock_journal (change_id, product, quantity) VALUES (?, ?, ?)",
		id, change.Product, change.Delta())
	return err
}

func (w *Warehouse) askForRecommendations(ctx context.Context, due RecommendationsDue) error {
	payload, err := json.Marshal(due)
	if err != nil {
		return fmt.Errorf("warehouse: %w", err)
	}
	followUp := message.NewMessage(watermill.NewUUID(), payload)
	followUp.SetContext(ctx)
	if err := w.publisher.Publish(w.followUps, followUp); err != nil {
		return fmt.Errorf("warehouse: ask for recommendations: %w", err)
	}
	return nil
}

// HandleRecommendationsDue computes what is still to be delivered of a product,
// and what to order beyond that.
func (w *Warehouse) HandleRecommendationsDue(msg *message.Message) error {
	var due RecommendationsDue
	if err := decode(msg.Payload, &due); err != nil {
		return err
	}
	ctx := msg.Context()

	// The first statement takes the row's lock, so that the second one sees what
	// every earlier run for this product has seen, or later.
	found, err := w.exec(ctx, "UPDATE recommendations SET runs = runs + 1 WHERE product = ?", due.Product)
	if err != nil {
		return err
	}
	if found == 0 {
		return fmt.Errorf("%w: there is no product %d", ErrRefused, due.Product)
	}
	if _, err = w.exec(ctx, `UPDATE recommendations SET
		to_deliver = (SELECT COALESCE(SUM(l.ordered - l.delivered), 0) FROM purchase_order_lines l WHERE l.product = ?),
		to_order = (SELECT p.reorder_level - p.stock FROM products p WHERE p.id = ?)
			- (SELECT COALESCE(SUM(l.ordered - l.delivered), 0) FROM purchase_order_lines l WHERE l.product = ?)
		WHERE product = ?`, due.Product, due.Product, due.Product, due.Product); err != nil {
		return err
	}
	_, err = w.exec(ctx, "INSERT INTO recommendation_runs (change_id, product) VALUES (?, ?)", due.Change, due.Product)
	return err
}
