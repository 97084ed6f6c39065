package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
)

// What the plan is made of.
const (
	minChanges = 20

	productCount    = 12
	linesPerProduct = 2
	startStock      = 1000
	reorderLevel    = 1500
	ordered         = 400
	maxQuantity     = 20

	copiedShare  = 0.15 // of the changes have copies
	throwEach    = 20   // changes there is one whose handler throws the first time
	displacement = 20   // places that a message may be away from its own
	raisedShare  = 0.6
	deliveryOf   = 0.7 // of what comes in belongs to an order line
)

// change is one message of the story.
type change struct {
	id    string
	event warehouse.ProductStockChanged
}

// plan is what is sent, in which order, and what is broken on purpose. The same
// plan is played on every side.
type plan struct {
	products []warehouse.Product
	changes  []change
	// sent are indexes of changes, in the order of sending.
	sent []int
	// throw are the ids whose handler throws at its first attempt.
	throw []string
	// hold is the id in the middle of which the consumer is killed.
	hold string
}

// source makes ids from the seed.
type source struct{ *rand.Rand }

func (s source) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.Uint32()) //nolint:gosec // its lowest bits
	}
	return len(p), nil
}

func newPlan(seed int64, changes int) *plan {
	random := source{rand.New(rand.NewPCG(uint64(seed), 0))} //nolint:gosec // any bits of a seed do
	p := &plan{}
	for id := range int64(productCount) {
		product := warehouse.Product{ID: id + 1, Stock: startStock, ReorderLevel: reorderLevel}
		product.Name = fmt.Sprintf("Product %d", product.ID)
		for line := range int64(linesPerProduct) {
			product.Lines = append(product.Lines, warehouse.PurchaseOrderLine{ID: 10*product.ID + line, Ordered: ordered})
		}
		p.products = append(p.products, product)
	}
	for range changes {
		p.changes = append(p.changes, p.newChange(random))
	}
	p.arrange(random)

	first := p.sent[len(p.sent)/2]
	p.hold = p.changes[first].id
	for i := throwEach / 2; i < changes; i += throwEach {
		if p.changes[i].id != p.hold {
			p.throw = append(p.throw, p.changes[i].id)
		}
	}
	return p
}

func (p *plan) newChange(random source) change {
	product := p.products[random.IntN(len(p.products))]
	event := warehouse.ProductStockChanged{
		Product: product.ID, Quantity: 1 + random.Int64N(maxQuantity), Raised: random.Float64() < raisedShare,
	}
	if event.Raised && random.Float64() < deliveryOf {
		event.PurchaseOrderLine = &product.Lines[random.IntN(len(product.Lines))].ID
	}
	return change{id: uuid.Must(uuid.NewRandomFromReader(random)).String(), event: event}
}

// arrange decides the order of sending: each message some places away from its
// own, copies after it or before.
func (p *plan) arrange(random source) {
	type slot struct {
		change int
		at     float64
	}
	slots := make([]slot, 0, 2*len(p.changes))
	for i := range p.changes {
		copies := 0
		if random.Float64() < copiedShare {
			copies = 1 + random.IntN(2)
		}
		for range 1 + copies {
			slots = append(slots, slot{i, float64(i) + displacement*random.Float64()})
		}
	}
	slices.SortStableFunc(slots, func(a, b slot) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	for _, s := range slots {
		p.sent = append(p.sent, s.change)
	}
}

func (p *plan) copies() int { return len(p.sent) - len(p.changes) }

// outOfOrder counts the messages that were sent after a later one.
func (p *plan) outOfOrder() (n int) {
	latest := -1
	for _, i := range p.sent {
		if i < latest {
			n++
		}
		latest = max(latest, i)
	}
	return n
}

// messages are what is sent. Copies are messages of their own with one UUID.
func (p *plan) messages() ([]*message.Message, error) {
	key := keys.FromJSON("product")
	msgs := make([]*message.Message, len(p.sent))
	for i, n := range p.sent {
		payload, err := json.Marshal(p.changes[n].event)
		if err != nil {
			return nil, fmt.Errorf("encode a change: %w", err)
		}
		msgs[i] = message.NewMessage(p.changes[n].id, payload)
		product, err := key(msgs[i])
		if err != nil {
			return nil, fmt.Errorf("key of a change: %w", err)
		}
		msgmeta.SetKey(msgs[i], product)
	}
	return msgs, nil
}

// expected is what the products must be like in the end: each change counts
// once.
func (p *plan) expected() []warehouse.Product {
	products := make([]warehouse.Product, len(p.products))
	for i, product := range p.products {
		product.Lines = slices.Clone(product.Lines)
		for _, c := range p.changes {
			if c.event.Product != product.ID {
				continue
			}
			product.Stock += c.event.Delta()
			product.Recommendation.Runs++
			if line, ok := c.event.Delivery(); ok {
				for l := range product.Lines {
					if product.Lines[l].ID == line {
						product.Lines[l].Delivered += c.event.Quantity
					}
				}
			}
		}
		if product.Recommendation.Runs > 0 { // what nothing was said about is not looked at
			for _, l := range product.Lines {
				product.Recommendation.ToDeliver += l.Ordered - l.Delivered
			}
			product.Recommendation.ToOrder = product.ReorderLevel - product.Stock - product.Recommendation.ToDeliver
		}
		products[i] = product
	}
	return products
}
