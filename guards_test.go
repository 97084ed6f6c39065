package headrace_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Fetch stands outside of the usual set, VersionSkip inside of it, as the docs say.
func TestGuardsAroundTheUsualSet(t *testing.T) {
	t.Parallel()
	for _, parks := range []bool{false, true} {
		t.Run(fmt.Sprintf("parks %t", parks), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			decided := make(verdicts, 10)
			b.cfg.Hooks, b.cfg.Park = []any{decided}, parks
			hr := b.open(t)
			versions := make(chan int64, 10)
			fetch, err := middleware.NewFetch(middleware.FetchConfig[string]{
				Entity: keys.OfType("customer", keys.FromMetadata("customer")),
				Load: func(context.Context, keys.Entity) (middleware.Current[string], error) {
					return middleware.Current[string]{Version: middleware.IntVersion(<-versions), Value: "anna"}, nil
				},
			})
			require.NoError(t, err)
			skip, err := middleware.NewVersionSkip(hr.Store(), middleware.VersionSkipConfig{States: fetch.States()})
			require.NoError(t, err)
			handle := func(msg *message.Message) error {
				got, ok := fetch.From(msg.Context())
				if !ok {
					return errors.New("nothing was fetched")
				}
				_, err := hr.DB().ExecContext(msg.Context(), "INSERT INTO effects VALUES (?)", got.Value+msg.UUID)
				return err
			}
			middlewares := []message.HandlerMiddleware{fetch.Middleware, hr.Middleware, skip.Middleware}
			var sub message.Subscriber = b.bus
			if parks {
				middlewares = append([]message.HandlerMiddleware{hr.ParkMiddleware}, middlewares...)
				sub = hr.Subscriber("effect", b.bus)
			}
			b.bind(t, hr, sub, handle, middlewares...)
			for _, step := range []struct {
				version int64
				want    store.Verdict
			}{{2, store.Applied}, {1, store.Stale}, {3, store.Applied}} {
				versions <- step.version
				msg := message.NewMessage(fmt.Sprint(step.version), nil)
				msg.Metadata.Set("customer", "7")
				require.NoError(t, b.bus.Publish("in", msg))
				require.Equal(t, step.want, (<-decided).Verdict)
			}
			require.Equal(t, 2, b.effects(t))
		})
	}
}
