package handlertest_test

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/handlertest"
)

// In a test it is handlertest.Run(t, …). Explore does the same anywhere.
func ExampleExplore() {
	report, err := handlertest.Explore(context.Background(), handlertest.Case{
		Schema: []string{"CREATE TABLE stock (pieces BIGINT)", "INSERT INTO stock VALUES (10)"},
		Handler: func(app handlertest.App) message.NoPublishHandlerFunc {
			return func(msg *message.Message) error {
				_, err := app.DB.ExecContext(msg.Context(), "UPDATE stock SET pieces = pieces - 1")
				return err
			}
		},
		Messages: []*message.Message{message.NewMessage("order-1", nil), message.NewMessage("order-2", nil)},
		Invariant: func(ctx context.Context, s handlertest.State) error {
			var pieces int
			err := s.DB.QueryRowContext(ctx, "SELECT pieces FROM stock").Scan(&pieces)
			if want := 10 - len(s.Sent); err == nil && pieces != want {
				err = fmt.Errorf("stock is %d, want %d", pieces, want)
			}
			return err
		},
		Runs: 100,
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("with Headrace:", report.Protected.Counterexample == nil)
	fmt.Println("without:")
	fmt.Println(report.Naked.Counterexample)
	// Output:
	// with Headrace: true
	// without:
	//   1. m1 is delivered; it is handled and acked
	//   2. m1 is delivered again; it is handled and acked
	//   3. the invariant is broken: stock is 8, want 9
	//   replay: Replay: "without 1 4=again:1"
}
