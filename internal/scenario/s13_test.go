package scenario

import (
	"context"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Two consumers with a store and a pool of their own are given copies of one
// message. Both are paused wherever their unit of work has got to, and every
// order in which they can go on is played, with nobody's first attempt failing
// and with either one's: the first then rolls back while the second waits.
func TestS13_TwoAtOnce(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), twoAtOnce)
}

func twoAtOnce(t *testing.T, p pair, protected bool) (damage []string) {
	w := open(t, p)
	w.createOrders()
	stage := newStage(t, w)
	played := 0
	for _, failing := range []int{nobody, 0, 1} {
		for _, order := range stage.orders(turnsPerDelivery) {
			id := fmt.Sprintf("%s/%d", order, failing)
			stage.play(order, func(actor int) func(context.Context) error {
				return w.deliverTo(stage.stores[actor], id, protected, actor == failing)
			})
			played++
		}
	}
	damage = append(damage, w.shippedOtherThanOnce(played)...)
	t.Logf("%d orders of events, %d waits for a lock seen", played, stage.waits)
	if protected && p.database != sqlite {
		require.NotZero(t, stage.waits, "the consumers never met")
	}
	return damage
}

const nobody = -1

// turnsPerDelivery: to the step after BEGIN, after the inbox row, before COMMIT,
// and to the end.
const turnsPerDelivery = 4

// deliverTo returns a delivery of a message to one consumer, repeated until it
// succeeds, as brokers do.
func (w *world) deliverTo(st *store.Store, id string, protected, failsFirst bool) func(context.Context) error {
	w.t.Helper()
	attempts := 0
	handler := func(msg *message.Message) ([]*message.Message, error) { //nolint:unparam // a message.HandlerFunc
		return nil, st.InTx(msg.Context(), func(ctx context.Context, tx store.Tx) error {
			if _, err := tx.ExecContext(ctx, "INSERT INTO shipments VALUES (?)", id); err != nil {
				return err
			}
			if attempts++; failsFirst && attempts == 1 {
				return errInjected
			}
			return nil
		})
	}
	if protected {
		d, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: "fulfilment.ship", Logger: w.logger})
		require.NoError(w.t, err)
		handler = d.Middleware(handler)
	}
	return func(ctx context.Context) (err error) {
		for range 5 {
			msg := message.NewMessage(id, nil)
			msg.SetContext(ctx)
			if _, err = handler(msg); err == nil {
				return nil
			}
		}
		return err
	}
}

func (w *world) shippedOtherThanOnce(want int) (damage []string) {
	w.t.Helper()
	total := w.count("SELECT count(*) FROM shipments")
	distinct := w.count("SELECT count(DISTINCT id) FROM shipments")
	if total != want || distinct != want {
		damage = append(damage, fmt.Sprintf("%d messages had %d effects, %d of them different", want, total, distinct))
	}
	return damage
}
