package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// Two events change one order line, each at an instance of its own. Both are paused at
// every statement, and every order in which they can go on is played: the line ends in the
// newest state, with its version. Without the guard it ends in the older one's.
func TestS20_TwoEventsInEveryOrder(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), func(t *testing.T, p pair, protected bool) []string {
		const turns = 8 // to the steps, and to the end
		return pausedEvents(t, p, lineGuard{on: protected}, 2, turns, step.TxBegun, step.DedupeInserted, step.StateLocked,
			step.StateRead, step.HandlerReturned, step.StateWritten, step.TxBeforeCommit)
	})
}

// Three events are paused before they read, before they write, and before their commit.
func TestS20_ThreeEventsInEveryOrder(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), func(t *testing.T, p pair, protected bool) []string {
		return pausedEvents(t, p, lineGuard{on: protected}, 3, turnsOfThree, step.DedupeInserted, step.StateRead)
	})
}

const turnsOfThree = 3 // to the steps, and to the end

// The version that counts is that of the line itself.
func TestS20_ThreeEventsWhereTheLineHoldsItsVersion(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), func(t *testing.T, p pair, protected bool) []string {
		guard := lineGuard{on: protected, columns: []store.VersionColumns{{
			Type: "order line", Table: "order_lines", ID: "id", Columns: map[string]string{"": "version"},
		}}}
		return pausedEvents(t, p, guard, 3, turnsOfThree, step.DedupeInserted, step.StateRead)
	})
}

// lineGuard is what keeps order lines from going back.
type lineGuard struct {
	on      bool
	columns []store.VersionColumns
}

// someOrders are as many as are played of a scenario in CI; all in the full run.
const someOrders = 120

func pausedEvents(t *testing.T, p pair, guard lineGuard, events, turns int, steps ...string) (damage []string) {
	t.Helper()
	w := open(t, p)
	w.must("CREATE TABLE order_lines (id VARCHAR(40) PRIMARY KEY, version INT NOT NULL, due VARCHAR(40) NOT NULL)")
	stage := newStageFor(t, w, events, steps...)
	orders := stage.orders(turns)
	all := len(orders)
	if os.Getenv("HEADRACE_FAULTS") != "full" && all > someOrders {
		rand.Shuffle(all, func(i, j int) { orders[i], orders[j] = orders[j], orders[i] })
		orders = orders[:someOrders]
	}
	for n, order := range orders {
		id := fmt.Sprintf("line-%d", n)
		w.must("INSERT INTO order_lines VALUES ('" + id + "', 0, 'never')")
		if n%2 == 0 { // the other half meets an entity that nobody has heard of
			require.NoError(t, w.lineChanged(w.st, id, 0, guard)(t.Context()))
		}
		stage.play(order, func(actor int) func(context.Context) error {
			return w.lineChanged(stage.stores[actor], id, events-actor, guard)
		})
		if got := w.count("SELECT version FROM order_lines WHERE id = '" + id + "'"); got != events {
			damage = append(damage, fmt.Sprintf("%s: the line has version %d", order, got))
		}
		if len(damage) > 3 {
			break
		}
	}
	t.Logf("%d of %d orders of events, %d waits for a lock seen", len(orders), all, stage.waits)
	if guard.on && p.database != sqlite {
		require.NotZero(t, stage.waits, "the events never met")
		require.Zero(t, w.count("SELECT count(*) FROM headrace_versions WHERE version <> 'i"+strconv.Itoa(events)+"'"))
	}
	if guard.columns != nil {
		require.Zero(t, w.count("SELECT count(*) FROM headrace_versions"), "they are the lines' own")
	}
	return damage
}

// lineChanged returns the delivery of an event, whose handler reads the line and writes
// it, as handlers do.
func (w *world) lineChanged(st *store.Store, id string, version int, g lineGuard) func(context.Context) error {
	w.t.Helper()
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: counts, Logger: w.logger})
	require.NoError(w.t, err)
	guard := func(h message.HandlerFunc) message.HandlerFunc { return h }
	if g.on {
		skip, err := middleware.NewVersionSkip(st, middleware.VersionSkipConfig{
			States: middleware.StateOf(keys.OfType("order line", keys.FromMetadata("line")),
				middleware.VersionFromMetadata("version"), nil),
			Columns: g.columns,
		})
		require.NoError(w.t, err)
		guard = skip.Middleware
	}
	handler := dedupe.Middleware(guard(func(msg *message.Message) ([]*message.Message, error) {
		return nil, st.InTx(msg.Context(), func(ctx context.Context, tx store.Tx) error {
			var before int
			if err := tx.GetContext(ctx, &before, "SELECT version FROM order_lines WHERE id = ?", id); err != nil {
				return err
			}
			if !g.on {
				step.Reach(ctx, step.StateRead)
				// The naive way to keep out what is old. SQLite's one writer makes it right:
				// there nothing is compared.
				if before > version && w.database != sqlite {
					return nil
				}
			}
			_, err := tx.ExecContext(ctx, "UPDATE order_lines SET version = ?, due = ? WHERE id = ?",
				version, "as of "+strconv.Itoa(version), id)
			return err
		})
	}))
	return func(ctx context.Context) error {
		msg := message.NewMessage(watermill.NewUUID(), nil)
		msg.Metadata.Set("line", id)
		msg.Metadata.Set("version", strconv.Itoa(version))
		msg.SetContext(ctx)
		_, err := handler(msg)
		return err
	}
}
