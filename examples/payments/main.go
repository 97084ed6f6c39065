// The payment service charges orders at a bank, once each, books the receipts and
// tells others. The bank is called in front of Headrace's transaction, by effects; it
// may know idempotency keys, or say what became of a charge, or neither.
//
//	go run ./examples/payments                       # no services: SQLite, the embedded broker, a bank of its own
//	go run ./examples/payments order 17 4200         # in another terminal: charge 42.00 for order 17
//	BROKER=kafka://localhost:9092 DB='postgres://me@localhost/shop' BANK=http://localhost:8000 go run ./examples/payments
//
// BROKER is mem:, kafka://, sqs://, postgres:// or mysql://, DB is sqlite:path, postgres://
// or mysql://. PROVIDER says what the bank can do: keys (default), look-up or none. With none a
// charge that may have happened when the service died waits for a person:
//
//	go run ./examples/payments settle 17 happened "it is on the bank's list"    # or: again, never
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/headrace-go/headrace/effects"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	cfg := config{
		DB:       cmp.Or(os.Getenv("DB"), "sqlite:payments.db"),
		Broker:   cmp.Or(os.Getenv("BROKER"), "mem:?file=payments-queue.db"),
		Bank:     os.Getenv("BANK"),
		Provider: cmp.Or(os.Getenv("PROVIDER"), "keys"),
		Group:    "payments",
		Orders:   cmp.Or(os.Getenv("ORDERS"), "orders"),
		Paid:     cmp.Or(os.Getenv("PAID"), "orders.paid"),
		Timeout:  10 * time.Second,
	}
	err := run(ctx, cfg, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "payments:", err)
		os.Exit(1)
	}
}

// config says where everything is.
type config struct {
	DB, Broker, Bank string
	// Provider is what the bank can do: keys, look-up or none.
	Provider string
	// Group is the service's name at the broker.
	Group string
	// Orders and Paid are topics.
	Orders, Paid string
	// Timeout bounds a call of the bank.
	Timeout time.Duration
}

const usage = "usage: payments | payments order NUMBER CENTS | payments settle NUMBER happened|again|never WHY"

func run(ctx context.Context, cfg config, args []string) error {
	const command, number, what, why = 0, 1, 2, 3
	switch {
	case len(args) == 0:
		return serve(ctx, cfg)
	case len(args) == 3 && args[command] == "order":
		cents, err := strconv.ParseInt(args[what], 10, 64)
		if err != nil {
			return fmt.Errorf("the cents %q: %w", args[what], err)
		}
		return order(ctx, cfg, args[number], cents)
	case len(args) == 4 && args[command] == "settle":
		return settle(ctx, cfg, args[number], args[what], args[why])
	}
	return errors.New(usage)
}

// provider is what Headrace is told about the bank.
func (c config) provider() (effects.Provider, error) {
	provider := effects.Provider{
		Name: "bank", Timeout: c.Timeout,
		Limit:   effects.Rate{PerSecond: 50, Burst: 10},
		Breaker: effects.Breaker{Failures: 5, Open: 5 * time.Second},
	}
	switch c.Provider {
	case "keys":
		provider.Keys, provider.KeysFor = true, 24*time.Hour
	case "look-up":
		provider.Lookup = askBank(c.Bank)
	case "none":
	default:
		return provider, fmt.Errorf("PROVIDER is %q: want keys, look-up or none", c.Provider)
	}
	return provider, nil
}
