// Package readme holds the code that the README shows, so that it is compiled
// and run.
package readme

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace"
)

// serve is an ordinary service with the lines of the README in it.
func serve(
	ctx context.Context, db *sql.DB, publisher message.Publisher, subscriber message.Subscriber, router *message.Router,
) error {
	// README
	// publisher is declared as a message.Publisher, not as the type of your broker's client
	hr, err := headrace.New(ctx, db, headrace.Config{Service: "warehouse", Publisher: publisher, Migrate: true})
	if err != nil {
		return err
	}
	defer hr.Close()
	router.AddPlugin(hr.Attach)
	db, publisher = hr.DB(), hr.Publisher()
	// END

	router.AddConsumerHandler("stock", "stock.changed", subscriber, func(msg *message.Message) error {
		if _, err := db.ExecContext(msg.Context(), "UPDATE stock SET pieces = pieces + 1"); err != nil {
			return fmt.Errorf("count a piece: %w", err)
		}
		counted := message.NewMessage("counted-"+msg.UUID, nil)
		counted.SetContext(msg.Context())
		return publisher.Publish("stock.counted", counted)
	})
	return router.Run(ctx)
}
