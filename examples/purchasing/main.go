// The purchasing service orders what is recommended, by one mail to each supplier at
// five o'clock. It is a Watermill service behind Headrace: users order, change their
// mind and withdraw until the mail is written, and whatever dies meanwhile, a
// supplier gets one mail, of what stood then.
//
//	SMTP=localhost:25 go run ./examples/purchasing     # no services but a mail server: SQLite and the embedded broker
//	BROKER=kafka://localhost:9092 DB='postgres://me@localhost/shop' go run ./examples/purchasing
//
//	curl localhost:8081/recommendations
//	curl -X PUT -d '{"quantity": 5}' localhost:8081/recommendations/1/order
//	curl -X DELETE localhost:8081/recommendations/1/order
//	curl localhost:8081/mails
//
// CRON and ZONE say when the mails are written (0 17 * * 1-5, UTC), FROM who sends
// them, ADDR where HTTP is served.
//
// With SHOP, the address of a shop's API, an order stands when the shop has taken it.
// What the shop refuses waits for a person (headrace parked ls, with --db), and so does
// what somebody else has changed in the shop (headrace review ls):
//
//	go run ./examples/purchasing shop localhost:8082    # a shop in memory, in another terminal
//	SHOP=http://localhost:8082 SMTP=localhost:25 go run ./examples/purchasing
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/examples/purchasing/service"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/examples/purchasing/smtp"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/middleware"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cfg := config{
		DB:     env("DB", "sqlite:purchasing.db"),
		Broker: env("BROKER", "mem:?file=purchasing-queue.db"),
		SMTP:   env("SMTP", "localhost:25"),
		Shop:   os.Getenv("SHOP"),
		Cron:   env("CRON", "0 17 * * 1-5"),
		Zone:   env("ZONE", "UTC"),
		From:   env("FROM", "orders@localhost"),
		Addr:   env("ADDR", "127.0.0.1:8081"),
		Log:    os.Stderr,
		Ready:  func(addr string) { fmt.Printf("on http://%s\n", addr) },
	}
	err := command(ctx, cfg, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "purchasing:", err)
		os.Exit(1)
	}
}

func env(name, fallback string) string { return cmp.Or(os.Getenv(name), fallback) }

func command(ctx context.Context, cfg config, args []string) error {
	switch {
	case len(args) == 0:
		return run(ctx, cfg)
	case len(args) == 2 && args[0] == "shop":
		cfg.Addr = args[1]
		return serveShop(ctx, args[1])
	}
	return errors.New("usage: purchasing | purchasing shop ADDRESS")
}

type config struct {
	DB, Broker, SMTP, Shop, Cron, Zone, From, Addr string

	// Parking says what becomes of failures.
	Parking middleware.ParkingConfig

	Log io.Writer
	// Ready is told the address of the running service.
	Ready func(addr string)
}

// run serves until the context is cancelled.
func run(ctx context.Context, cfg config) (err error) {
	logger := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(cfg.Log, &slog.HandlerOptions{Level: slog.LevelWarn})))
	zone, err := time.LoadLocation(cfg.Zone)
	if err != nil {
		return fmt.Errorf("ZONE: %w", err)
	}
	database, err := dburl.Parse(cfg.DB)
	if err != nil {
		return err
	}
	db, err := database.ForService().Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	broker, err := brokers.Open(ctx, cfg.Broker, brokers.Config{Openers: all.Openers(), Group: service.Name, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	settings := service.Config{
		DB: db, Broker: broker, Topics: service.DefaultTopics(), Cron: cfg.Cron, Zone: zone,
		Server: smtp.Server{Addr: cfg.SMTP}, From: cfg.From, Logger: logger, Parking: cfg.Parking,
	}
	if cfg.Shop != "" {
		settings.Shop = &shop.Client{URL: strings.TrimSuffix(cfg.Shop, "/")}
	}
	s, err := service.New(ctx, settings)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	err = s.InTx(ctx, func(ctx context.Context) error { return s.Desk.Fill(ctx, suppliers(), recommendations()) })
	if err != nil {
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
	server := &http.Server{Handler: newAPI(s), ReadHeaderTimeout: shutdownTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
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
	err = errors.Join(err, server.Shutdown(bounded))
	stop()
	return errors.Join(err, <-done)
}
