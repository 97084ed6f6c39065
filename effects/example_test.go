package effects_test

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

func Example() {
	setUp := func(st *store.Store, dedupe *middleware.Dedupe, handler *message.Handler) error {
		client, err := effects.New(st, effects.Config{
			Service:  "shop",
			Provider: effects.Provider{Name: "bank", Keys: true, KeysFor: 24 * time.Hour},
		})
		if err != nil {
			return err
		}
		charge := effects.HTTP{}.Call(func(ctx context.Context, body []byte) (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, "https://bank.example/charges", bytes.NewReader(body))
		})
		handler.AddMiddleware(client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
			return client.Do(ctx, "charge", msg.UUID, msg.Payload, charge)
		}))
		handler.AddMiddleware(dedupe.Middleware) // behind the stage
		return nil
	}
	_ = setUp
	// Output:
}
