package handlertest_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/handlertest"
	"github.com/headrace-go/headrace/msgmeta"
)

// The shop's handlers take one piece of a product from the stock for each order,
// write the order down, and say so. Only their ways differ.
var schema = []string{
	"CREATE TABLE IF NOT EXISTS stock (product VARCHAR(20) PRIMARY KEY, pieces BIGINT NOT NULL)",
	"CREATE TABLE IF NOT EXISTS orders (id VARCHAR(20) NOT NULL, product VARCHAR(20) NOT NULL)",
}

const (
	take     = "UPDATE stock SET pieces = pieces - 1 WHERE product = 'wheel'"
	full     = 10
	reserved = "reserved"
)

func setup(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO stock VALUES ('wheel', %d)", full))
	return err
}

func orders(n int) []*message.Message {
	msgs := make([]*message.Message, n)
	for i := range msgs {
		msgs[i] = message.NewMessage(fmt.Sprintf("order-%d", i+1), fmt.Appendf(nil, "o%d", i+1))
		msgmeta.SetKey(msgs[i], "wheel")
	}
	return msgs
}

// write notes the order; the payload is its id, and no input of anybody else's.
func write(msg *message.Message) string {
	return fmt.Sprintf("INSERT INTO orders VALUES ('%s', 'wheel')", msg.Payload)
}

func say(msg *message.Message) *message.Message {
	out := message.NewMessage(watermill.NewUUID(), msg.Payload)
	out.SetContext(msg.Context())
	return out
}

// right holds when each order has taken one piece and is written once.
func right(ctx context.Context, s handlertest.State) error {
	var pieces, written, distinct int
	err := s.DB.QueryRowContext(ctx,
		"SELECT (SELECT pieces FROM stock), (SELECT count(*) FROM orders), (SELECT count(DISTINCT id) FROM orders)").
		Scan(&pieces, &written, &distinct)
	switch {
	case err != nil:
		return err
	case pieces != full-len(s.Sent):
		return fmt.Errorf("stock is %d, want %d", pieces, full-len(s.Sent))
	case written != len(s.Sent) || distinct != len(s.Sent):
		return fmt.Errorf("%d orders are written %d times, want %d once", distinct, written, len(s.Sent))
	}
	return nil
}

// announced holds when each order was also announced once.
func announced(ctx context.Context, s handlertest.State) error {
	if err := right(ctx, s); err != nil {
		return err
	}
	times := map[string]int{}
	for _, p := range s.Deduped() {
		times[string(p.Message.Payload)]++
	}
	for _, msg := range s.Sent {
		if n := times[string(msg.Payload)]; n != 1 {
			return fmt.Errorf("order %s was announced %d times, want once", msg.Payload, n)
		}
	}
	return nil
}

func shop(handler func(handlertest.App) message.NoPublishHandlerFunc) handlertest.Case {
	return handlertest.Case{
		Schema: schema, Setup: setup, Messages: orders(2), Order: handlertest.PerKey, Invariant: announced,
		Handler: handler,
	}
}

// plain works statement by statement, as many handlers do.
func plain(app handlertest.App) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		ctx := msg.Context()
		if _, err := app.DB.ExecContext(ctx, take); err != nil {
			return err
		}
		if _, err := app.DB.ExecContext(ctx, write(msg)); err != nil {
			return err
		}
		return app.Publisher.Publish(reserved, say(msg))
	}
}

func explore(t *testing.T, c handlertest.Case) handlertest.Report {
	t.Helper()
	report, err := handlertest.Explore(t.Context(), c, func(far string) { t.Log(far) })
	require.NoError(t, err)
	t.Logf("with: %s", report.Protected)
	t.Logf("without: %s", report.Naked)
	for _, found := range []*handlertest.Counterexample{report.Protected.Counterexample, report.Naked.Counterexample} {
		if found != nil {
			t.Log(found)
		}
	}
	return report
}
