package middleware_test

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// between is what happens after a message's transaction and before Parking has written
// what became of it. Whoever has waited for the message's row gets it then.
func (p *parked) between(t *testing.T, cfg middleware.ParkingConfig, f func()) {
	t.Helper()
	cfg.Consumer, cfg.Immediate = shelf, middleware.Immediate{Tries: -1}
	outside, err := middleware.NewParking(p.st, cfg)
	require.NoError(t, err)
	inside := p.dedupe(t).Middleware(p.handle)
	p.handler = outside.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		defer f()
		return inside(msg)
	})
}

// A person who edits a message or has it tried again waits for the run that has it, and
// has the word next: what that run has failed with is of the old content.
func TestAFailureDoesNotUndoWhatAPersonHasSaidMeanwhile(t *testing.T) {
	t.Parallel()
	better := []byte("better")
	for name, change := range map[string]func(*parking.Desk) error{
		"edited and retried": func(desk *parking.Desk) error {
			return desk.Edit(t.Context(), 1, parking.Edit{Payload: &better, Retry: true})
		},
		"edited":  func(desk *parking.Desk) error { return desk.Edit(t.Context(), 1, parking.Edit{Payload: &better}) },
		"retried": func(desk *parking.Desk) error { return desk.Retry(t.Context(), 1, parking.RetryOptions{}) },
	} {
		t.Run(name, func(t *testing.T) {
			eachDatabase(t, func(t *testing.T, b *bundle) {
				p := b.parked(t, nil)
				p.fails = func(*message.Message) error { return errFull }
				said := false
				p.between(t, middleware.ParkingConfig{Delays: []time.Duration{0}}, func() {
					if len(p.runs) == 2 && !said {
						said = true
						require.NoError(t, change(parking.NewDesk(p.st, parking.DeskConfig{Actor: "anna"})))
						p.fails = func(*message.Message) error { return nil }
					}
				})
				require.NoError(t, p.send("1", "sku"))
				require.Equal(t, store.StatusDelayed, p.row(1).Status)
				require.ErrorIs(t, p.comeBack()[0], store.ErrParkedChanged)
				require.True(t, p.row(1).Status == store.StatusDelayed || p.row(1).Status == store.StatusReleased)
				require.Equal(t, 1, p.row(1).Attempts, "it doesn't count")
				require.Equal(t, []error{nil}, p.comeBack(), "it begins again, at once")
				require.Equal(t, store.StatusDone, p.row(1).Status)
				require.Equal(t, 1, p.quantity(t))
			})
		})
	}
}

// While the first message of an id is kept, the second one under it is no copy.
func TestAProducersSecondPayloadIsParkedWhileTheFirstIs(t *testing.T) {
	send := func(t *testing.T, handler message.HandlerFunc, payload string) {
		t.Helper()
		msg := message.NewMessage("1", []byte(payload))
		msgmeta.SetKey(msg, "sku")
		msg.SetContext(t.Context())
		_, err := handler(msg)
		require.NoError(t, err)
	}
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		dedupe, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: shelf, Fingerprint: true})
		require.NoError(t, err)
		outside, err := middleware.NewParking(b.st, middleware.ParkingConfig{
			Consumer: shelf, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{time.Hour},
		})
		require.NoError(t, err)
		p.handler = outside.Middleware(dedupe.Middleware(p.handle))
		overtaken := outside.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			defer send(t, p.handler, "one") // while this one has failed, and isn't kept yet
			return dedupe.Middleware(p.handle)(msg)
		})
		p.fails = func(*message.Message) error { return errFull }
		send(t, overtaken, "two")
		require.Equal(t, "one", string(p.row(1).Payload))
		second := p.row(2)
		require.Equal(t, "two", string(second.Payload), "nobody else has it")
		require.Equal(t, "permanent", second.Class)
		for range 2 {
			send(t, p.handler, "one")
			send(t, p.handler, "two")
		}
		send(t, p.handler, "three")
		require.Equal(t, "three", string(p.row(3).Payload))
		_, err = b.st.ParkedByID(t.Context(), 4)
		require.ErrorIs(t, err, store.ErrNotParked, "once is enough")
		require.Len(t, p.runs, 2)
	})
}

// Handlers change the message that they get. Another attempt gets it as it came.
func TestEachAttemptGetsTheMessageAsItCame(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, func(cfg *middleware.ParkingConfig) {
			cfg.Immediate, cfg.Delays = middleware.Immediate{Tries: 2, First: time.Microsecond}, []time.Duration{0}
		})
		var got []string
		p.fails = func(msg *message.Message) error {
			got = append(got, msg.UUID+" "+string(msg.Payload)+" "+msgmeta.GetKey(msg))
			msg.UUID, msg.Payload = "another", []byte("changed")
			msgmeta.SetKey(msg, "elsewhere")
			if len(got) < 3 {
				return errFull
			}
			return nil
		}
		require.NoError(t, p.send("1", "sku"))
		require.Equal(t, []string{"1 payload of 1 sku", "1 payload of 1 sku", "1 payload of 1 sku"}, got)
		require.NoError(t, p.send("1", "sku"))
		require.Len(t, got, 3, "it is known by its own id")
	})
}

// What was read ahead of a long line is handled minutes later, perhaps.
func TestWithoutDedupeWhatWasDecidedSinceItWasReadIsHonoured(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		alone, err := middleware.NewParking(b.st, middleware.ParkingConfig{
			Consumer: shelf, WithoutDedupe: true, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{},
		})
		require.NoError(t, err)
		p.handler = alone.Middleware(p.handle)
		p.fails = func(*message.Message) error { return errFull }
		for _, id := range []string{"1", "2", "3"} {
			require.NoError(t, p.send(id, "sku"))
		}
		p.release()
		desk := parking.NewDesk(p.st, parking.DeskConfig{Actor: "anna"})
		payload := []byte("better")
		p.fails = func(msg *message.Message) error {
			if msg.UUID == "1" {
				require.NoError(t, desk.Discard(context.Background(), 2, "wrong"))
				require.NoError(t, desk.Edit(context.Background(), 3, parking.Edit{Payload: &payload}))
			}
			return nil
		}
		outcomes := p.comeBack()
		require.Len(t, outcomes, 3)
		require.NoError(t, outcomes[1])
		require.ErrorIs(t, outcomes[2], store.ErrParkedChanged)
		require.Equal(t, []string{"1", "1"}, p.runs)
	})
}
