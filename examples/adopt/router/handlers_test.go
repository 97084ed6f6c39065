package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/handlertest"
)

//go:embed schema.sql
var schema string

// What the team wrote when it adopted Headrace: each handler as it is, with
// everything that a broker and a host can do to it.
func try(t *testing.T, name string, c handlertest.Case, invariant string) {
	t.Helper()
	partners := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(partners.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Setenv("PARTNERS", partners.URL)

	c.Schema = append(strings.Split(schema, ";"), "INSERT INTO customers VALUES ('ada', 0)")
	c.MustBreak, c.Runs = true, 60
	for _, order := range []orderPlaced{{"r1", "mill", 2, "ada"}, {"r2", "mill", 3, "ada"}} {
		payload, err := json.Marshal(order)
		if err != nil {
			t.Fatal(err)
		}
		c.Messages = append(c.Messages, message.NewMessage(order.Order, payload))
	}
	c.Invariant = func(ctx context.Context, s handlertest.State) error {
		var pieces, rows, orders int
		if err := s.DB.QueryRowContext(ctx, invariant).Scan(&pieces, &rows, &orders); err != nil {
			return err
		}
		told := map[string]int{}
		for _, p := range s.Deduped() {
			var event struct {
				Order string `json:"order"`
			}
			if err := json.Unmarshal(p.Message.Payload, &event); err != nil {
				return err
			}
			told[event.Order]++
		}
		for _, msg := range s.Sent {
			if n := told[msg.UUID]; n != 1 {
				return fmt.Errorf("%s: order %s was told %d times, want once", name, msg.UUID, n)
			}
		}
		want := []int{0, 2, 5}[len(s.Sent)]
		if pieces != want || rows != len(s.Sent) || orders != rows {
			return fmt.Errorf("%s: %d pieces in %d rows for %d orders, want %d in %d",
				name, pieces, rows, orders, want, len(s.Sent))
		}
		return nil
	}
	handlertest.Run(t, c)
}

func TestReserveTakesEachOrderOnce(t *testing.T) {
	try(t, "reserve", handlertest.Case{
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc {
			return newHandlers(app.DB, app.Publisher).Reserve
		},
	}, "SELECT 1000000 - (SELECT stock FROM products), count(*), count(DISTINCT order_id) FROM reservations")
}

func TestPointsAreCreditedOnce(t *testing.T) {
	try(t, "points", handlertest.Case{
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc {
			return newHandlers(app.DB, app.Publisher).Points
		},
	}, "SELECT (SELECT points FROM customers), count(*), count(DISTINCT order_id) FROM credits")
}

func TestInvoiceIsWrittenOnce(t *testing.T) {
	try(t, "invoice", handlertest.Case{
		Returning: func(app handlertest.App) message.HandlerFunc {
			return newHandlers(app.DB, app.Publisher).Invoice
		},
		ReturnTopic: "invoices_issued",
	}, "SELECT COALESCE(sum(amount), 0) / 7, count(*), count(DISTINCT order_id) FROM invoices")
}
