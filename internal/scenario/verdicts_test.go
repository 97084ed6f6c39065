package scenario

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// eachDatabase plays a test on every database, with the embedded broker.
func eachDatabase(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			w := open(t, pair{mem, database})
			w.createOrders()
			test(t, w)
		})
	}
}

// verdicts keeps what Dedupe tells its hooks.
type verdicts struct{ all []middleware.Verdict }

func (v *verdicts) OnVerdict(verdict middleware.Verdict) { v.all = append(v.all, verdict) }

func (v *verdicts) take() (last middleware.Verdict) {
	last = v.all[len(v.all)-1]
	v.all = nil
	return last
}

func TestObserveLetsEverythingThroughAndRecordsWhatItWouldHaveDone(t *testing.T) {
	eachDatabase(t, func(t *testing.T, w *world) {
		var told verdicts
		cfg := middleware.DedupeConfig{Consumer: shipConsumer, Observe: true, Hooks: []any{&told}}
		observing := w.shipper(cfg)
		require.NoError(t, observing("m"))
		first := told.take()
		require.Equal(t, store.Applied, first.Verdict)
		require.True(t, first.Observed)
		require.NoError(t, observing("m"))
		second := told.take()
		require.Equal(t, store.Duplicate, second.Verdict)
		require.True(t, second.Observed)
		require.Equal(t, 2, w.count("SELECT count(*) FROM shipments"), "nothing is held back")
		log, err := w.st.CountVerdictLog(t.Context())
		require.NoError(t, err)
		require.Equal(t, []store.VerdictLogCount{
			{Consumer: shipConsumer, Verdict: store.Duplicate, Observed: true, Count: 1},
		}, log)

		// Turned on, it knows what was handled meanwhile.
		cfg.Observe = false
		require.NoError(t, w.shipper(cfg)("m"))
		require.Equal(t, middleware.Verdict{
			Consumer: shipConsumer, MessageID: "m", Verdict: store.Duplicate, Took: told.all[0].Took,
		}, told.take())
		require.Equal(t, 2, w.count("SELECT count(*) FROM shipments"))
	})
}

func TestFingerprintTellsAReusedIDFromADuplicate(t *testing.T) {
	eachDatabase(t, func(t *testing.T, w *world) {
		d, err := middleware.NewDedupe(w.st, middleware.DedupeConfig{Consumer: shipConsumer, Fingerprint: true})
		require.NoError(t, err)
		h := d.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES (?)", string(msg.Payload))
		})
		deliver := func(payload string) error {
			_, err := h(message.NewMessage("same id", []byte(payload)))
			return err
		}
		require.NoError(t, deliver("one"))
		require.NoError(t, deliver("one"))
		require.Equal(t, 1, w.count("SELECT count(*) FROM shipments"))
		err = deliver("p4yl0ad")
		require.ErrorIs(t, err, middleware.ErrFingerprint)
		require.ErrorContains(t, err, "same id")
		require.NotContains(t, err.Error(), "p4yl0ad", "payloads are nobody's business")
		require.Equal(t, 1, w.count("SELECT count(*) FROM shipments"))
	})
}

func TestTwoHandlersUnderOneConsumersNameAreToldApart(t *testing.T) {
	eachDatabase(t, func(t *testing.T, w *world) {
		both := w.dedupe("", func(cfg *middleware.DedupeConfig) { cfg.Consumer = shipConsumer })
		topic, acked, refused := w.topic("orders"), newTally(), make(chan error, 100)
		handle := func(msg *message.Message) ([]*message.Message, error) {
			return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES (?)", message.HandlerNameFromCtx(msg.Context()))
		}
		tell := func(h message.HandlerFunc) message.HandlerFunc {
			return func(msg *message.Message) ([]*message.Message, error) {
				produced, err := h(msg)
				if err != nil {
					select {
					case refused <- err:
					default:
					}
				}
				return produced, err
			}
		}
		middlewares := chain(one(acked.acked), one(tell), one(both))
		w.serve(
			subscription{service: "a", handler: "ship", topic: topic, handle: handle, middlewares: middlewares},
			subscription{service: "b", handler: "bill", topic: topic, handle: handle, middlewares: middlewares},
		)
		msg := newMessage("order")
		require.NoError(t, w.bus.Publisher.Publish(topic, msg))
		acked.wait(t, msg.UUID, 1)
		err := receive(t, refused, "the refusal")
		require.ErrorIs(t, err, middleware.ErrConsumerTaken)
		require.ErrorContains(t, err, "ship")
		require.ErrorContains(t, err, "bill")
		require.ErrorContains(t, err, shipConsumer)
	})
}

// A nested transaction without the message's context can't be recognised, and
// may wait for what its own message holds. The wait is bounded, and the error
// says what it may be.
func TestANestedTransactionWithoutItsContextEndsWithAnExplanation(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			w := open(t, pair{mem, database}, withStore(func(cfg *store.Config) {
				cfg.LockTimeout, cfg.ConnTimeout, cfg.MaxRetries = time.Second, time.Second, -1
			}))
			s := newStock(w)
			ship := s.dedupe("stock", func(cfg *middleware.DedupeConfig) { cfg.Consumer = shipConsumer })
			_, err := ship(func(msg *message.Message) ([]*message.Message, error) {
				if err := s.raise(msg.Context(), 1); err != nil {
					return nil, err
				}
				return nil, s.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error { return s.raise(ctx, 1) })
			})(newMessage(""))
			require.ErrorIs(t, err, store.ErrLockTimeout)
			require.ErrorContains(t, err, "msg.Context()")
			require.Zero(t, s.count("SELECT quantity FROM products WHERE id = 1"))
			require.Zero(t, s.count("SELECT count(*) FROM headrace_inbox"))
		})
	}
}

// A message that can't be told from others, or that could not be parsed, is
// refused with the way out and never handled.
func TestAMessageWithoutAnIdentityIsNeverHandled(t *testing.T) {
	eachDatabase(t, func(t *testing.T, w *world) {
		ship := w.shipper(middleware.DedupeConfig{Consumer: shipConsumer})
		err := ship("")
		require.ErrorIs(t, err, middleware.ErrNoMessageID)
		require.ErrorContains(t, err, "DedupeConfig.Identity")

		byHeader, err := middleware.NewDedupe(w.st, middleware.DedupeConfig{
			Consumer: shipConsumer,
			Identity: func(msg *message.Message) (string, error) { return keys.FromMetadata("ce_id")(msg) },
		})
		require.NoError(t, err)
		h := byHeader.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES ('foreign')")
		})
		foreign := message.NewMessage("", nil)
		_, err = h(foreign)
		require.ErrorIs(t, err, middleware.ErrNoMessageID)
		require.ErrorContains(t, err, "ce_id")

		malformed := newMessage("")
		msgmeta.SetMalformed(malformed, "its header is cut off")
		malformed.Metadata.Set("ce_id", "1")
		_, err = h(malformed)
		require.ErrorContains(t, err, "its header is cut off")
		require.Zero(t, w.count("SELECT count(*) FROM shipments"))

		foreign.Metadata.Set("ce_id", "1")
		for range 2 {
			_, err = h(foreign)
			require.NoError(t, err)
		}
		require.Equal(t, 1, w.count("SELECT count(*) FROM shipments"))
	})
}
