// Command router is an ordinary Watermill service: a warehouse that hears of
// orders, books them with a carrier and tells others. Its handlers use their own
// *sql.DB and publish by hand.
//
// This is how it is before Headrace. `git apply examples/adopt/router/headrace.patch`
// in the root of the module adds it, in ten lines of this file.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		slog.Error("warehouse has ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	logger := watermill.NewSlogLogger(slog.Default())
	db, err := openDatabase()
	if err != nil {
		return err
	}
	defer db.Close()
	publisher, subscribe, err := openBroker(ctx, logger)
	if err != nil {
		return err
	}
	defer publisher.Close()
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(middleware.Recoverer)

	if err := addHandlers(router, subscribe, newHandlers(db, publisher), publisher); err != nil {
		return err
	}
	return router.Run(ctx)
}

// addHandlers gives every handler a consumer group of its own.
func addHandlers(
	router *message.Router, subscribe func(group string) (message.Subscriber, error), h *handlers, publisher message.Publisher,
) error {
	reserve, err := subscribe("warehouse_reserve")
	if err != nil {
		return err
	}
	points, err := subscribe("warehouse_points")
	if err != nil {
		return err
	}
	invoice, err := subscribe("warehouse_invoice")
	if err != nil {
		return err
	}
	router.AddConsumerHandler("reserve", topic("orders_placed"), reserve, h.Reserve)
	router.AddConsumerHandler("points", topic("stock_reserved"), points, h.Points)
	router.AddHandler("invoice", topic("stock_reserved"), invoice, topic("invoices_issued"), publisher, h.Invoice)
	return nil
}

// topic is the environment's name of a topic.
func topic(name string) string { return os.Getenv("TOPICS") + name }
