// A shop on Kafka and PostgreSQL: an order comes in, a row is written and an
// invoice goes out, once each, whatever comes twice or dies meanwhile.
package main

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib" // your own driver

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/kafka"
	"github.com/headrace-go/headrace/middleware"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	db, err := sql.Open("pgx", cmp.Or(os.Getenv("DB"), "postgres://localhost/shop"))
	check(err)
	broker, err := brokers.Open(ctx, cmp.Or(os.Getenv("BROKER"), "kafka://localhost:9092"), brokers.Config{
		Openers: map[string]brokers.Opener{"kafka": kafka.Open}, Group: "shop",
	})
	check(err)
	logger := watermill.NewSlogLogger(nil)
	hr, err := headrace.New(ctx, db, headrace.Config{
		Service: "shop", Publisher: broker.Publisher, Migrate: true, Logger: logger, Hooks: []any{printer{}},
	})
	check(err)
	_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS orders (article text)")
	check(err)

	router, err := message.NewRouter(message.RouterConfig{}, logger)
	check(err)
	router.AddPlugin(hr.Attach)
	router.AddHandler("bill", "orders", broker.Subscriber, "invoices", hr.Publisher(),
		func(order *message.Message) ([]*message.Message, error) {
			_, err := hr.DB().ExecContext(order.Context(), "INSERT INTO orders VALUES ($1)", string(order.Payload))
			return []*message.Message{message.NewMessage(watermill.NewUUID(), order.Payload)}, err
		})

	order := message.NewMessage(watermill.NewShortUUID(), []byte("a mill wheel"))
	check(hr.Publisher().Publish("orders", order, order)) // the same order twice: one row, one invoice
	check(router.Run(ctx))
	check(hr.Close())
	check(broker.Close())
}

// printer says what became of each delivery, when that is committed.
type printer struct{}

func (printer) OnVerdict(v middleware.Verdict) { fmt.Printf("order %s: %s\n", v.MessageID, v.Verdict) }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
