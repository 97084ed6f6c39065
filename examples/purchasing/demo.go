package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
)

func suppliers() []buying.Supplier {
	return []buying.Supplier{
		{Name: "Valves Ltd", Address: "valves@localhost"},
		{Name: "Gates & Sons", Address: "gates@localhost"},
	}
}

// recommendations are based on the shop as newShop makes it.
func recommendations() []buying.Recommendation {
	return []buying.Recommendation{
		{ID: 1, Supplier: "Valves Ltd", Product: "Penstock valve", Quantity: 20, SeenVersion: 1, SeenQuantity: 8},
		{ID: 2, Supplier: "Valves Ltd", Product: "Butterfly valve", Quantity: 4, SeenVersion: 1, SeenQuantity: 4},
		{ID: 3, Supplier: "Gates & Sons", Product: "Sluice gate", Quantity: 2, SeenVersion: 1, SeenQuantity: 0},
	}
}

// newShop is a shop that has the purchases of the recommendations.
func newShop() *shop.Shop {
	purchases := map[string]shop.Purchase{}
	for _, r := range recommendations() {
		purchases[strconv.FormatInt(r.ID, 10)] = shop.Purchase{Quantity: r.SeenQuantity}
	}
	return shop.New(purchases)
}

// serveShop serves a shop until the context is cancelled. It forgets all then.
func serveShop(ctx context.Context, addr string) error {
	server := &http.Server{Addr: addr, Handler: newShop(), ReadHeaderTimeout: shutdownTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	fmt.Printf("shop on http://%s/purchases/1\n", addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("shop: %w", err)
	}
	return nil
}
