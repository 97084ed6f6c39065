// The stock service keeps a warehouse's stock from events that say what came and
// went. It is a complete Watermill service behind Headrace: try to break it.
//
//	go run ./examples/stock                          # no services: SQLite and the embedded broker
//	BROKER=kafka://localhost:9092 DB='postgres://me@localhost/shop' go run ./examples/stock
//
//	curl -d '{"product": 1, "quantity": 5, "raised": true, "purchase_order_line": 11}' localhost:8080/changes
//	curl localhost:8080/products/1
//
// BROKER is mem:, kafka://, sqs://, postgres:// or mysql://, DB is sqlite:path,
// postgres:// or mysql://; ADDR is where HTTP is served. The service makes its
// tables and a few products on the first start.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/service"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, config{
		DB:     env("DB", "sqlite:stock.db"),
		Broker: env("BROKER", "mem:?file=stock-queue.db"),
		Addr:   env("ADDR", "127.0.0.1:8080"),
		Topics: service.DefaultTopics(),
		Log:    os.Stderr,
		Ready:  func(addr string) { fmt.Printf("stock service on http://%s\n", addr) },
	})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stock:", err)
		os.Exit(1)
	}
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

type config struct {
	DB, Broker, Addr string
	Topics           service.Topics
	Log              io.Writer
	// Ready is told the address of the running service.
	Ready func(addr string)
}

// run serves until the context is cancelled and then shuts down in order:
// requests, handlers, relay, broker, database.
func run(ctx context.Context, cfg config) (err error) {
	logger := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(cfg.Log, &slog.HandlerOptions{Level: slog.LevelWarn})))

	db, err := connect.Open(cfg.DB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	broker, err := brokers.Open(ctx, cfg.Broker, brokers.Config{
		Openers: connect.Openers(), Group: service.Name, Logger: logger,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()

	s, err := service.New(ctx, service.Config{DB: db, Broker: broker, Topics: cfg.Topics, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Warehouse.AddProducts(ctx, someProducts()); err != nil {
		return err
	}
	return serve(ctx, cfg, s)
}

// shutdownTimeout bounds how long requests in flight may go on.
const shutdownTimeout = 5 * time.Second

func serve(ctx context.Context, cfg config, s *service.Service) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	api := &http.Server{Handler: newAPI(s, cfg.Topics.Changes), ReadHeaderTimeout: shutdownTimeout}
	failed := make(chan error, 1)
	go func() { failed <- api.Serve(listener) }()

	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.Run(working) }()
	go func() {
		select {
		case <-s.Running():
			cfg.Ready(listener.Addr().String())
		case <-working.Done():
		}
	}()

	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-done:
		done <- nil
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = errors.Join(err, api.Shutdown(bounded))
	stop()
	return errors.Join(err, <-done)
}

func someProducts() []warehouse.Product {
	return []warehouse.Product{
		{ID: 1, Name: "Penstock valve", Stock: 10, ReorderLevel: 40, Lines: []warehouse.PurchaseOrderLine{
			{ID: 11, Ordered: 20}, {ID: 12, Ordered: 5},
		}},
		{ID: 2, Name: "Sluice gate", Stock: 3, ReorderLevel: 5, Lines: []warehouse.PurchaseOrderLine{{ID: 21, Ordered: 4}}},
		{ID: 3, Name: "Trash rack", Stock: 100, ReorderLevel: 50},
	}
}
