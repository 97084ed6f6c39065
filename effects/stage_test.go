package effects_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

func TestAStageCallsOnceInFrontOfDedupe(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		client, err := effects.New(f.st, effects.Config{Provider: effects.Provider{Name: "bank"}, Consumer: "shop.pay"})
		require.NoError(f, err)
		dedupe, err := middleware.NewDedupe(f.st, middleware.DedupeConfig{Consumer: "shop.pay"})
		require.NoError(f, err)
		stage := client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
			return effects.Do(ctx, "charge", "order-1", msg.Payload, f.returning(nil))
		})
		handled, fail := 0, errCall
		handle := func(msg *message.Message) ([]*message.Message, error) {
			paid, ok := effects.ResultOf(msg.Context(), "charge")
			require.True(f, ok)
			require.Equal(f, "paid", string(paid.Body))
			handled++
			return message.Messages{}, fail
		}
		deliver := func() error {
			msg := message.NewMessage("m", []byte("10 EUR"))
			msg.SetContext(f.Context())
			_, err := stage(dedupe.Middleware(handle))(msg)
			return err
		}
		require.ErrorIs(f, deliver(), errCall)
		fail = nil
		require.NoError(f, deliver())
		require.NoError(f, deliver())
		require.Equal(f, 2, handled)
		require.Len(f, f.calls, 1)
		require.Equal(f, "m", f.row().MessageID)

		inside := message.NewMessage("n", nil)
		inside.SetContext(f.Context())
		_, err = dedupe.Middleware(stage(handle))(inside)
		require.ErrorIs(f, err, effects.ErrInUnit)
	})
}

type backwards struct{}

func (backwards) Name() string { return "backwards" }

func (backwards) Seal(_ context.Context, plain []byte) ([]byte, error) { return turned(plain), nil }

func (backwards) Open(_ context.Context, sealed []byte) ([]byte, error) { return turned(sealed), nil }

func turned(b []byte) []byte {
	b = bytes.Clone(b)
	for i := range len(b) / 2 {
		b[i], b[len(b)-1-i] = b[len(b)-1-i], b[i]
	}
	return b
}

func TestContentsAreSealed(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		sealing, err := store.Open(f.Context(), f.db, store.Config{Dialect: f.st.Dialect(), Codec: backwards{}})
		require.NoError(f, err)
		defer sealing.Close() //nolint:errcheck // a test's
		client, err := effects.New(sealing, effects.Config{Provider: effects.Provider{Name: "bank"}})
		require.NoError(f, err)
		for range 2 {
			r, err := client.Do(f.Context(), "charge", "order-1", []byte("10 EUR"), f.returning(nil))
			require.NoError(f, err)
			require.Equal(f, "paid", string(r.Body))
		}
		require.Len(f, f.calls, 1)
		var request, response []byte
		err = f.db.QueryRowContext(f.Context(), "SELECT request, response FROM headrace_effects").Scan(&request, &response)
		require.NoError(f, err)
		require.Equal(f, "RUE 01 diap", string(request)+" "+string(response))
		_, err = f.st.Effect(f.Context(), "charge", "order-1")
		require.ErrorContains(f, err, `sealed by codec "backwards"`)
	})
}
