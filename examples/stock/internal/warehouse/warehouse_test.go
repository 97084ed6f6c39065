package warehouse_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/handlertest"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

const (
	valve, line = 1, 11
	inStock     = 10
	ordered     = 20
)

// fresh makes the tables with one product and its order line.
func fresh(ctx context.Context, db *sql.DB) error {
	w := warehouse.New(warehouse.Config{DB: db})
	if err := w.CreateTables(ctx); err != nil {
		return err
	}
	return w.AddProducts(ctx, []warehouse.Product{{
		ID: valve, Stock: inStock, ReorderLevel: 40, Lines: []warehouse.PurchaseOrderLine{{ID: line, Ordered: ordered}},
	}})
}

func open(app handlertest.App) *warehouse.Warehouse {
	return warehouse.New(warehouse.Config{DB: app.DB, Publisher: app.Publisher, FollowUps: "recommendations"})
}

func sent(t *testing.T, id string, payload any) *message.Message {
	t.Helper()
	body, err := json.Marshal(payload)
	require.NoError(t, err)
	return message.NewMessage(id, body)
}

// Stock, order line, journal and follow-ups move together and once for each
// change, whatever comes twice, early or at once, and wherever the process stops.
func TestChangesMoveEverythingOnce(t *testing.T) {
	t.Parallel()
	against := int64(line)
	handlertest.Run(t, handlertest.Case{
		Setup:   fresh,
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc { return open(app).HandleChange },
		Messages: []*message.Message{
			sent(t, "came", warehouse.ProductStockChanged{
				Product: valve, Quantity: 5, Raised: true, PurchaseOrderLine: &against,
			}),
			sent(t, "went", warehouse.ProductStockChanged{Product: valve, Quantity: 2}),
		},
		Order:     handlertest.Unordered, // changes are deltas
		MustBreak: true, Runs: 100,
		Invariant: func(ctx context.Context, s handlertest.State) error {
			w := warehouse.New(warehouse.Config{DB: s.DB})
			product, _, err := w.Product(ctx, valve)
			if err != nil {
				return err
			}
			journal, err := w.StockJournal(ctx)
			if err != nil {
				return err
			}
			followUps := map[string]int{}
			for _, p := range s.Deduped() {
				var due warehouse.RecommendationsDue
				if err := json.Unmarshal(p.Message.Payload, &due); err != nil {
					return err
				}
				followUps[due.Change]++
			}
			want := int64(inStock)
			for _, msg := range s.Sent {
				var change warehouse.ProductStockChanged
				if err := json.Unmarshal(msg.Payload, &change); err != nil {
					return err
				}
				want += change.Delta()
				if journal[msg.UUID] != 1 || followUps[msg.UUID] != 1 {
					return fmt.Errorf("change %q is in the journal %d times and was followed up %d times, want once",
						msg.UUID, journal[msg.UUID], followUps[msg.UUID])
				}
			}
			if delivered := product.Lines[0].Delivered; product.Stock != want || delivered != 5 {
				return fmt.Errorf("stock is %d and %d pieces were delivered, want %d and 5", product.Stock, delivered, want)
			}
			return nil
		},
	})
}

func TestRecommendationsRunOncePerChange(t *testing.T) {
	t.Parallel()
	handlertest.Run(t, handlertest.Case{
		Setup:   fresh,
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc { return open(app).HandleRecommendationsDue },
		Messages: []*message.Message{
			sent(t, "due-1", warehouse.RecommendationsDue{Product: valve, Change: "a"}),
			sent(t, "due-2", warehouse.RecommendationsDue{Product: valve, Change: "b"}),
		},
		MustBreak: true, Runs: 60,
		Invariant: func(ctx context.Context, s handlertest.State) error {
			product, _, err := warehouse.New(warehouse.Config{DB: s.DB}).Product(ctx, valve)
			want := warehouse.Recommendation{ToDeliver: ordered, ToOrder: 10, Runs: int64(len(s.Sent))}
			if err == nil && product.Recommendation != want {
				err = fmt.Errorf("recommended is %+v, want %+v", product.Recommendation, want)
			}
			return err
		},
	})
}
