package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/step"
)

// stockChanged is ProductStockChanged: a delta, harmful when added twice.
type stockChanged struct {
	Product  int `json:"product"`
	Quantity int `json:"quantity"`
	Line     int `json:"line"` // of the purchase order
}

// stock is the stock service: its tables, its statements, its later use case.
type stock struct{ *world }

func newStock(w *world) stock {
	w.must(
		"CREATE TABLE products (id int PRIMARY KEY, quantity int NOT NULL)",
		"CREATE TABLE po_lines (id int PRIMARY KEY, delivered int NOT NULL)",
		"CREATE TABLE recommendations (product int NOT NULL)",
		"INSERT INTO products VALUES (1, 0), (2, 0)",
		"INSERT INTO po_lines VALUES (1, 0), (2, 0)",
	)
	return stock{w}
}

// add applies the delta.
func (s stock) add(ctx context.Context, e stockChanged) error {
	if err := s.exec(ctx, "UPDATE products SET quantity = quantity + ? WHERE id = ?", e.Quantity, e.Product); err != nil {
		return err
	}
	return s.exec(ctx, "UPDATE po_lines SET delivered = delivered + ? WHERE id = ?", e.Quantity, e.Line)
}

// recommend is the later use case.
func (s stock) recommend(ctx context.Context, product int) error {
	return s.exec(ctx, "INSERT INTO recommendations VALUES (?)", product)
}

// damage compares the tables with one event that was sent.
func (s stock) damage(e stockChanged) (found []string) {
	check := func(what string, got, want int) {
		if got != want {
			found = append(found, fmt.Sprintf("%s is %d instead of %d", what, got, want))
		}
	}
	check("stock", s.count("SELECT quantity FROM products WHERE id = ?", e.Product), e.Quantity)
	check("delivered quantity", s.count("SELECT delivered FROM po_lines WHERE id = ?", e.Line), e.Quantity)
	check("number of recommendations", s.count("SELECT count(*) FROM recommendations WHERE product = ?", e.Product), 1)
	return found
}

func (s stock) message(e stockChanged) *message.Message {
	payload, err := json.Marshal(e)
	require.NoError(s.t, err)
	return newMessage(string(payload))
}

func parseStock(msg *message.Message) (e stockChanged, err error) {
	return e, json.Unmarshal(msg.Payload, &e)
}

// crashPoints are those inside a handler's unit of work. A crash after the commit
// comes last: the message is a duplicate from then on.
func crashPoints() []string {
	return []string{
		step.DedupeInserted, step.OutboxWritten, step.HandlerReturned, step.TxBeforeCommit, step.TxAfterCommit,
	}
}

func TestS10_DeltaTwice_UseCaseInTheSameTransaction(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		s := newStock(open(t, p))
		topic, acked := s.topic("stock"), newTally()
		throws := firstTime()
		s.serve(subscription{
			service: "stock", topic: topic,
			middlewares: chain(
				one(acked.acked), one(loseAcks(1)), one(crashAt(crashPoints()...)), unlessOff(protected, s.dedupe("stock")),
			),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				e, err := parseStock(msg)
				if err != nil {
					return nil, err
				}
				if err := s.add(msg.Context(), e); err != nil {
					return nil, err
				}
				if throws(msg.UUID) {
					return nil, errInjected
				}
				return nil, s.recommend(msg.Context(), e.Product)
			},
		})
		e := stockChanged{Product: 1, Quantity: 10, Line: 2}
		msg := s.message(e)
		require.NoError(t, s.bus.Publisher.Publish(topic, msg))
		acked.wait(t, msg.UUID, 1)
		s.settled(topic, "stock")
		return s.damage(e)
	})
}

func TestS10_DeltaTwice_UseCaseAsAMessageToOneself(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		s := newStock(open(t, p))
		changes, recommend, acked := s.topic("stock"), s.topic("recommend"), newTally()
		const todo = "todo"
		failing := func() []message.HandlerMiddleware {
			return chain(one(acked.acked), one(loseAcks(1)), one(crashAt(crashPoints()...)),
				unlessOff(protected, s.dedupe("stock")))
		}
		throws := firstTime()
		s.serve(
			subscription{
				service: "stock", handler: "changed", topic: changes, publish: recommend, middlewares: failing(),
				handle: func(msg *message.Message) ([]*message.Message, error) {
					e, err := parseStock(msg)
					if err != nil {
						return nil, err
					}
					return []*message.Message{message.NewMessage(todo, msg.Payload)}, s.add(msg.Context(), e)
				},
			},
			subscription{
				service: "stock", handler: "recommend", topic: recommend, middlewares: failing(),
				handle: func(msg *message.Message) ([]*message.Message, error) {
					e, err := parseStock(msg)
					if err != nil {
						return nil, err
					}
					if err := s.recommend(msg.Context(), e.Product); err != nil {
						return nil, err
					}
					if throws(msg.UUID) {
						return nil, errInjected
					}
					return nil, nil
				},
			},
		)
		s.forward(forwarder.Config{})
		e := stockChanged{Product: 1, Quantity: 10, Line: 2}
		msg := s.message(e)
		require.NoError(t, s.bus.Publisher.Publish(changes, msg))
		acked.wait(t, msg.UUID, 1)
		acked.wait(t, todo, 1)
		s.sent()
		s.settled(recommend, "stock")
		return s.damage(e)
	})
}
