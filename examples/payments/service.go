package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/user"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/payments/bank"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/store"
)

// scope is the effects' kind; an order's number is their key.
const scope = "charge"

func askBank(address string) func(context.Context, string, []byte) (effects.Response, bool, error) {
	return bank.LookUp(address)
}

// parts are what every command opens.
type parts struct {
	broker *brokers.Broker
	hr     *headrace.Plugin
	close  func() error
}

func open(ctx context.Context, cfg config, logger watermill.LoggerAdapter) (p parts, err error) {
	closers := []func() error{}
	p.close = func() (err error) {
		for _, closer := range slices.Backward(closers) {
			err = errors.Join(err, closer())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	database, err := dburl.Parse(cfg.DB)
	if err != nil {
		return p, err
	}
	db, err := database.ForService().Open()
	if err != nil {
		return p, err
	}
	closers = append(closers, db.Close)
	p.broker, err = brokers.Open(ctx, cfg.Broker, brokers.Config{Openers: all.Openers(), Group: cfg.Group, Logger: logger})
	if err != nil {
		return p, err
	}
	closers = append(closers, p.broker.Close)
	p.hr, err = headrace.New(ctx, db, headrace.Config{
		Service: "payments", Publisher: p.broker.Publisher, Migrate: true, Logger: logger,
		RedeliveryWindow: p.broker.Capabilities.RedeliveryWindow,
	})
	if err != nil {
		return p, err
	}
	closers = append(closers, p.hr.Close)
	_, err = db.ExecContext(ctx,
		"CREATE TABLE IF NOT EXISTS payments (order_id varchar(50) NOT NULL, receipt varchar(100) NOT NULL)")
	if err != nil {
		return p, fmt.Errorf("create the table payments: %w", err)
	}
	return p, nil
}

// serve charges until the context ends.
func serve(ctx context.Context, cfg config) (err error) {
	logger := watermill.NewSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if cfg.Bank == "" { // of its own, which forgets everything when the service ends
		own := httptest.NewServer(&bank.Bank{
			Keys: func(string) bool { return cfg.Provider == "keys" }, LookUp: cfg.Provider == "look-up",
		})
		defer own.Close()
		cfg.Bank = own.URL
	}
	provider, err := cfg.provider()
	if err != nil {
		return err
	}
	p, err := open(ctx, cfg, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return fmt.Errorf("make the router: %w", err)
	}
	router.AddPlugin(p.hr.Attach)
	if err := addHandler(router, p, cfg, provider, logger); err != nil {
		return err
	}
	go func() {
		<-router.Running()
		fmt.Println("payments: waiting for orders")
	}()
	if err := router.Run(ctx); err != nil {
		return fmt.Errorf("run the router: %w", err)
	}
	return nil
}

func addHandler(router *message.Router, p parts, cfg config, provider effects.Provider, logger watermill.LoggerAdapter) error {
	client, err := effects.New(p.hr.Store(), effects.Config{
		Service: "payments", Provider: provider, ClaimTTL: cfg.Timeout + 10*time.Second, Logger: logger,
	})
	if err != nil {
		return err
	}
	call, db := bank.Call(cfg.Bank), store.JoinDBX(p.hr.Store())
	handler := router.AddHandler("pay", cfg.Orders, p.broker.Subscriber, cfg.Paid, p.hr.Publisher(),
		func(msg *message.Message) ([]*message.Message, error) {
			response, _ := effects.ResultOf(msg.Context(), scope)
			receipt, err := bank.Read(response)
			if err != nil {
				return nil, err
			}
			_, err = db.ExecContext(msg.Context(), db.Rebind("INSERT INTO payments VALUES (?, ?)"), msg.UUID, receipt.Receipt)
			if err != nil {
				return nil, fmt.Errorf("book the receipt: %w", err)
			}
			return []*message.Message{message.NewMessage(watermill.NewUUID(), []byte(msg.UUID))}, nil
		})
	handler.AddMiddleware(client.Stage(scope, func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		return client.Do(ctx, scope, msg.UUID, msg.Payload, call)
	}))
	return nil
}

// order sends an order, whose number is the message's id.
func order(ctx context.Context, cfg config, number string, cents int64) error {
	payload, err := json.Marshal(bank.Order{Order: number, Cents: cents})
	if err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	broker, err := brokers.Open(ctx, cfg.Broker, brokers.Config{Openers: all.Openers()})
	if err != nil {
		return err
	}
	return errors.Join(broker.Publisher.Publish(cfg.Orders, message.NewMessage(number, payload)), broker.Close())
}

// settle is a person's word about a charge that nobody knows the outcome of.
func settle(ctx context.Context, cfg config, number, what, why string) (err error) {
	decision, known := map[string]effects.Decision{
		"happened": effects.Happened(effects.Response{Body: []byte(`{"receipt":"by hand"}`)}, why),
		"again":    effects.CallAgain(why),
		"never":    effects.GiveUp(why),
	}[what]
	if !known {
		return fmt.Errorf("settle %s %q: want happened, again or never", number, what)
	}
	actor := "nobody"
	if who, err := user.Current(); err == nil {
		actor = who.Username
	}
	p, err := open(ctx, cfg, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	return effects.Settle(ctx, p.hr.Store(), actor, scope, number, decision)
}
