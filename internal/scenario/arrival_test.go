package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// While one instance handles the last message that is kept of a key and opens its
// line, a further message of the key arrives at another. Both are paused wherever
// they have got to, and every order in which they can go on is played: the arrival is
// handled after the elder, once, and no line stays held. Without Parking in front it is
// handled before the elder, which waits.
func TestArrivalAndOpeningInEveryOrder(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), arrivalAndOpening)
}

// turnsToOpen: to the steps after BEGIN and before COMMIT of the elder's transaction,
// and of the one that opens the line.
const turnsToOpen = 4

func arrivalAndOpening(t *testing.T, p pair, protected bool) (damage []string) {
	w := open(t, p)
	a := &arrivals{world: w, handled: map[string][]string{}}
	stage := newStage(t, w)
	orders := stage.orders(turnsToOpen)
	for _, key := range orders {
		claim := a.keep(key)
		stage.play(key, func(actor int) func(context.Context) error {
			if actor == 0 {
				return func(ctx context.Context) error { return a.open(ctx, stage.stores[0], claim) }
			}
			return a.arrive(stage.stores[1], "younger", key, protected, nil)
		})
		a.workOff(key)
		if got := a.of(key); !slices.Equal([]string{"elder", "younger"}, got) {
			damage = append(damage, fmt.Sprintf("%s: %v were handled", key, got))
		}
	}
	require.Zero(t, w.count("SELECT count(*) FROM headrace_gates"), "lines that stay held")
	require.Zero(t, w.count("SELECT count(*) FROM headrace_inbox WHERE verdict <> 'applied'"))
	t.Logf("%d orders of events, %d waits for a lock seen", len(orders), stage.waits)
	if protected && p.database != sqlite {
		require.NotZero(t, stage.waits, "the two never met")
	}
	return damage
}

const counts = "shop.count"

// arrivals are the messages of many keys, one after another.
type arrivals struct {
	*world

	mu      sync.Mutex
	handled map[string][]string
}

func (a *arrivals) note(key, id string) func() {
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.handled[key] = append(a.handled[key], id)
	}
}

func (a *arrivals) of(key string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.handled[key]
}

// arrive returns the delivery of a message to an instance, whose handler fails with
// failure.
func (a *arrivals) arrive(st *store.Store, id, key string, protected bool, failure error) func(context.Context) error {
	a.t.Helper()
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: counts, Logger: a.logger})
	require.NoError(a.t, err)
	handler := dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		if failure != nil {
			return nil, failure
		}
		return nil, store.AfterCommit(msg.Context(), a.note(key, id))
	})
	if protected {
		park, err := middleware.NewParking(st, middleware.ParkingConfig{
			Consumer: counts, Logger: a.logger, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{},
		})
		require.NoError(a.t, err)
		handler = park.Middleware(handler)
	}
	return func(ctx context.Context) error {
		msg := message.NewMessage(id+"/"+key, nil)
		msgmeta.SetKey(msg, key)
		msg.SetContext(ctx)
		_, err := handler(msg)
		return err
	}
}

// keep puts the elder aside, has it released, and claims its line.
func (a *arrivals) keep(key string) store.Claim {
	a.t.Helper()
	ctx := a.t.Context()
	require.NoError(a.t, a.arrive(a.st, "elder", key, true, errors.New("the supplier is unknown"))(ctx))
	desk := parking.NewDesk(a.st, parking.DeskConfig{Actor: "anna"})
	items, err := desk.List(ctx, store.ParkedFilter{Status: []store.ParkedStatus{store.StatusParked}}, 0, 10)
	require.NoError(a.t, err)
	require.Len(a.t, items, 1)
	require.NoError(a.t, desk.Retry(ctx, items[0].ID, parking.RetryOptions{}))
	claims, err := a.st.ClaimLines(ctx, counts, "first", time.Minute, 10)
	require.NoError(a.t, err)
	require.Len(a.t, claims, 1)
	return claims[0]
}

// open handles the elder, the one message that it sees in the line, and gives the line
// back, which opens it if there is nothing more by then.
func (a *arrivals) open(ctx context.Context, st *store.Store, claim store.Claim) error {
	rows, err := st.ReadLine(a.t.Context(), claim, 0, 10, 1<<20)
	if err != nil || len(rows) == 0 {
		return errors.Join(err, errors.New("the elder isn't there"))
	}
	err = st.InTx(ctx, func(ctx context.Context, tx store.Tx) error { return a.finish(ctx, st, tx, claim, rows[0]) })
	if err != nil {
		return err
	}
	_, err = st.EndClaim(ctx, claim)
	return err
}

func (a *arrivals) finish(ctx context.Context, st *store.Store, tx store.Tx, claim store.Claim, row store.ParkedRow) error {
	ref := store.HeldRef{Claim: claim, ID: row.ID, InboxID: row.InboxID}
	if _, err := st.Readmit(ctx, ref); err != nil {
		return err
	}
	id, _, _ := strings.Cut(row.MessageID, "/")
	if err := store.AfterCommit(ctx, a.note(row.Key, id)); err != nil {
		return err
	}
	return st.FinishParked(ctx, tx, ref, store.Applied, "", row.Status != store.StatusWaiting, row.Attempts+1)
}

// workOff handles what is kept of the key until its line is open.
func (a *arrivals) workOff(key string) {
	a.t.Helper()
	ctx := a.t.Context()
	testenv.Eventually(a.t, patience, tick, func() (bool, string) {
		claims, err := a.st.ClaimLines(ctx, counts, "second", time.Minute, 10)
		require.NoError(a.t, err)
		for _, claim := range claims {
			rows, err := a.st.ReadLine(ctx, claim, 0, 10, 1<<20)
			require.NoError(a.t, err)
			for _, row := range rows {
				require.NoError(a.t, a.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
					return a.finish(ctx, a.st, tx, claim, row)
				}))
			}
			_, err = a.st.EndClaim(ctx, claim)
			require.NoError(a.t, err)
		}
		held := a.count("SELECT count(*) FROM headrace_gates")
		return held == 0, fmt.Sprintf("%d lines are held, of %s", held, key)
	})
}
