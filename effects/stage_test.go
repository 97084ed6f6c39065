package effects_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
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

// staged is a handler behind a stage and Dedupe. Its stage charges order-1.
type staged struct {
	*fixture

	handler message.HandlerFunc
	handled int
	fail    error // what the handler returns
}

func (f *fixture) staged() *staged {
	f.Helper()
	s := &staged{fixture: f}
	client, err := effects.New(f.st, effects.Config{Provider: effects.Provider{Name: "bank"}, Consumer: "shop.pay"})
	require.NoError(f, err)
	dedupe, err := middleware.NewDedupe(f.st, middleware.DedupeConfig{Consumer: "shop.pay"})
	require.NoError(f, err)
	stage := client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		return effects.Do(ctx, "charge", "order-1", msg.Payload, f.returning(nil))
	})
	s.handler = stage(dedupe.Middleware(func(*message.Message) ([]*message.Message, error) {
		s.handled++
		return nil, s.fail
	}))
	return s
}

func (s *staged) deliver(id string, change func(*message.Message)) error {
	msg := message.NewMessage(id, []byte("10 EUR"))
	msg.SetContext(s.Context())
	if change != nil {
		change(msg)
	}
	_, err := s.handler(msg)
	return err
}

func expired(msg *message.Message) { msgmeta.SetExpires(msg, time.Now().Add(-time.Hour)) }

func TestAnExpiredMessageIsNotCalledFor(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.staged()
		require.NoError(f, s.deliver("m", expired))
		require.Zero(f, s.handled)
		require.Empty(f, f.calls)
		var verdict string
		require.NoError(f, f.db.QueryRowContext(f.Context(), "SELECT verdict FROM headrace_inbox").Scan(&verdict))
		require.Equal(f, "expired", verdict)
	})
}

// The customer has paid: the order is handled, however late.
func TestAMessageThatExpiresAfterItsCallIsHandled(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.staged()
		s.fail = errCall
		require.ErrorIs(f, s.deliver("m", nil), errCall)
		s.fail = nil
		require.NoError(f, s.deliver("m", expired))
		require.Equal(f, 2, s.handled)
		require.Len(f, f.calls, 1)
	})
}

func TestAMessageThatDedupeRefusesIsNotCalledFor(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.staged()
		require.ErrorContains(f, s.deliver("", nil), "Identity")
		require.ErrorContains(f, s.deliver("m", func(msg *message.Message) { msgmeta.SetMalformed(msg, "no JSON") }), "no JSON")
		require.Empty(f, f.calls)
		require.Zero(f, s.handled)
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
