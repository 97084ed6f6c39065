package readme

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/msgmeta"
)

// shop sells: it decides what to charge within a unit of work, and charges in front
// of another one. It is what docs/effects.md shows.
func shop(hr *headrace.Plugin, router *message.Router, subscriber message.Subscriber, bank string) error {
	db := hr.DB()
	// CLIENT
	client, err := effects.New(hr.Store(), effects.Config{
		Service:  "shop", // as in headrace.Config
		Provider: effects.Provider{Name: "bank", Keys: true, KeysFor: 24 * time.Hour},
	})
	if err != nil {
		return err
	}
	charge := effects.HTTP{}.Call(func(ctx context.Context, body []byte) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, bank+"/charges", bytes.NewReader(body))
	})
	// STAGE
	paid := router.AddConsumerHandler("paid", "charges", subscriber, func(msg *message.Message) error {
		receipt, _ := effects.ResultOf(msg.Context(), "charge") // behind the call, within the transaction
		_, err := db.ExecContext(msg.Context(), "INSERT INTO payments VALUES (?, ?)", msg.UUID, string(receipt.Body))
		return err
	})
	paid.AddMiddleware(client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		return client.Do(ctx, "charge", msgmeta.GetKey(msg), msg.Payload, charge)
	}))
	router.AddPlugin(hr.Attach) // adds Dedupe, inside of what handlers have
	// ORDER
	router.AddHandler("order", "orders", subscriber, "charges", hr.Publisher(),
		func(order *message.Message) ([]*message.Message, error) {
			price, err := reserve(order.Context(), db, string(order.Payload))
			if err != nil {
				return nil, err
			}
			charge := message.NewMessage(watermill.NewUUID(), []byte(price))
			msgmeta.SetKey(charge, order.UUID)
			return []*message.Message{charge}, nil // sent if the transaction commits
		})
	// END
	return nil
}

func reserve(ctx context.Context, db *sql.DB, article string) (price string, err error) {
	row := db.QueryRowContext(ctx, "UPDATE stock SET pieces = pieces - 1 WHERE article = ? RETURNING price", article)
	if err := row.Scan(&price); err != nil {
		return "", fmt.Errorf("reserve %q: %w", article, err)
	}
	return price, nil
}
