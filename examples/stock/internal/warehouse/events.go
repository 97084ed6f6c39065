package warehouse

import (
	"encoding/json"
	"errors"
	"fmt"
)

// ErrRefused is matched by errors that trying again won't change: the message or
// request itself is wrong.
var ErrRefused = errors.New("refused")

// maxQuantity keeps a typing error from moving the whole warehouse.
const maxQuantity = 1_000_000

// ProductStockChanged says that a product's stock has changed, and by how much:
// a delta, so that handling it twice is wrong.
type ProductStockChanged struct {
	Product int64 `json:"product"`
	// Quantity is how many pieces came or went; always positive.
	Quantity int64 `json:"quantity"`
	// Raised: they came. Otherwise they went.
	Raised bool `json:"raised"`
	// PurchaseOrderLine is what was delivered against. Nil when stock moved for
	// another reason.
	PurchaseOrderLine *int64 `json:"purchase_order_line,omitempty"`
}

// Delta is what the product's stock changes by.
func (c ProductStockChanged) Delta() int64 {
	if c.Raised {
		return c.Quantity
	}
	return -c.Quantity
}

// Delivery returns the order line that the change was a delivery for. Stock that
// goes down delivers nothing, whatever line it names.
func (c ProductStockChanged) Delivery() (line int64, ok bool) {
	if !c.Raised || c.PurchaseOrderLine == nil {
		return 0, false
	}
	return *c.PurchaseOrderLine, true
}

// Validate returns an error that matches ErrRefused and names the field.
func (c ProductStockChanged) Validate() error {
	switch {
	case c.Product <= 0:
		return fmt.Errorf("%w: product must be the id of a product, not %d", ErrRefused, c.Product)
	case c.Quantity <= 0 || c.Quantity > maxQuantity:
		return fmt.Errorf("%w: quantity must be from 1 to %d, not %d (raised says in which direction)",
			ErrRefused, maxQuantity, c.Quantity)
	case c.PurchaseOrderLine != nil && *c.PurchaseOrderLine <= 0:
		return fmt.Errorf("%w: purchase_order_line must be the id of a line, or left out, not %d",
			ErrRefused, *c.PurchaseOrderLine)
	}
	return nil
}

// RecommendationsDue asks the service itself to look again at what is still to
// be delivered and ordered of a product.
type RecommendationsDue struct {
	Product int64 `json:"product"`
	// Change is the id of the message that made it necessary.
	Change string `json:"change"`
}

func decode(payload []byte, into any) error {
	if err := json.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("%w: payload: %w", ErrRefused, err)
	}
	return nil
}
