package parking_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const consumer = "shop.orders"

// errBoom is what the message has failed with, errBusy says nothing of it.
var errBoom, errBusy = errors.New("boom"), errors.New("busy")

// yard is a database with lines of messages, and what their handler has done.
type yard struct {
	*testing.T

	address string
	db      *sql.DB
	st      *store.Store

	mu      sync.Mutex
	handled []string
	runs    []string
}

func dialect(kind string) store.Dialect {
	if kind == "mariadb" {
		return store.MySQL
	}
	return store.Dialect(kind)
}

func onEachYard(t *testing.T, f func(*yard)) {
	t.Helper()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := &yard{T: t, address: testenv.Database(t, kind)}
			y.db = testenv.Open(t, y.address)
			y.st = y.open(y.db, dialect(kind))
			f(y)
		})
	}
}

func (y *yard) open(db *sql.DB, dialect store.Dialect) *store.Store {
	y.Helper()
	st, err := store.Open(y.Context(), db, store.Config{Dialect: dialect, Migrate: true})
	require.NoError(y, err)
	y.Cleanup(func() { require.NoError(y, st.Close()) })
	return st
}

// another is a second process' store.
func (y *yard) another() *store.Store { return y.open(testenv.Open(y, y.address), y.st.Dialect()) }

// park keeps a message that has failed, and some behind it.
func (y *yard) park(key string, dueIn time.Duration, ids ...string) (first int64) {
	y.Helper()
	line := store.KeyLine(consumer, key)
	for i, id := range ids {
		row := store.ParkedRow{
			Origin: store.OriginConsumer, Consumer: consumer, Line: line.Line, Key: key, InboxID: id, MessageID: id,
			Payload: []byte(id), Metadata: map[string]string{"from": "broker"},
			Status: store.StatusDelayed, DueIn: dueIn, Attempts: 1,
		}
		require.NoError(y, y.st.InTx(y.Context(), func(ctx context.Context, tx store.Tx) (err error) {
			if i == 0 {
				first, _, _, err = y.st.Park(ctx, tx, row, nil)
				return err
			}
			got, _, err := y.st.Admit(ctx, store.InboxRow{Consumer: consumer, MessageID: id, Verdict: store.Applied}, line)
			require.NoError(y, err)
			require.Equal(y, store.Held, got)
			_, _, err = y.st.LineUp(ctx, tx, row)
			return err
		}))
	}
	return first
}

// guarded does what Parking and Dedupe do with a kept message.
func (y *yard) guarded(st *store.Store, h func(ctx context.Context, msg *message.Message) error) func(*message.Message) error {
	return func(msg *message.Message) error {
		ticket := parking.TicketFrom(msg.Context())
		if ticket == nil {
			return h(msg.Context(), msg)
		}
		ticket.Enter()
		ticket.Take()
		ref, _ := ticket.Reentry()
		row := ticket.Row()
		err := st.InTx(msg.Context(), func(ctx context.Context, tx store.Tx) error {
			open, err := st.Readmit(ctx, ref)
			if err != nil {
				return err
			}
			if open {
				if err := h(ctx, msg); err != nil {
					return err
				}
			}
			return st.FinishParked(ctx, tx, ref, store.Applied, "", row.Status != store.StatusWaiting, row.Attempts+1)
		})
		if errors.Is(err, errBoom) {
			err = st.FailParked(msg.Context(), ref, store.Failure{Status: store.StatusDelayed, Reason: "boom"})
			if err == nil {
				err = parking.ErrPutBack
			}
		}
		ticket.Finish(err)
		return nil
	}
}

// count is a handler that tells that it has run, and whether it has committed.
func (y *yard) count(ctx context.Context, msg *message.Message) error {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.runs = append(y.runs, msg.UUID)
	return store.AfterCommit(ctx, func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		y.handled = append(y.handled, msg.UUID)
	})
}

func (y *yard) seen() (runs, handled []string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return append([]string(nil), y.runs...), append([]string(nil), y.handled...)
}

// subscribe runs a handler as a router does: each message on a goroutine.
func (y *yard) subscribe(
	st *store.Store, inner message.Subscriber, cfg parking.SubscriberConfig, h func(*message.Message) error,
) *parking.Subscriber {
	y.Helper()
	cfg.Consumer = consumer
	sub, err := parking.NewSubscriber(st, inner, cfg)
	require.NoError(y, err)
	messages, err := sub.Subscribe(y.Context(), "orders")
	require.NoError(y, err)
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for msg := range messages {
			handlers.Go(func() {
				if h(msg) == nil {
					msg.Ack()
				} else {
					msg.Nack()
				}
			})
		}
	})
	y.Cleanup(func() {
		require.NoError(y, sub.Close())
		handlers.Wait()
	})
	return sub
}

func (y *yard) eventually(what string, condition func() bool) {
	y.Helper()
	require.Eventually(y, condition, 20*time.Second, 5*time.Millisecond, what)
}

func (y *yard) opened(key string) bool {
	_, err := y.st.GateOf(y.Context(), store.KeyLine(consumer, key))
	return errors.Is(err, store.ErrNotHeld)
}

func (y *yard) row(id int64) store.ParkedRow {
	y.Helper()
	row, err := y.st.ParkedByID(y.Context(), id)
	require.NoError(y, err)
	return row
}

func TestKeptMessagesComeBesideTheBrokers(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		broker := gochannel.NewGoChannel(gochannel.Config{}, nil)
		y.park("k", 0, "1", "2", "3")
		handler := y.guarded(y.st, func(ctx context.Context, msg *message.Message) error {
			if parking.TicketFrom(ctx) == nil {
				y.mu.Lock()
				defer y.mu.Unlock()
				y.runs = append(y.runs, msg.UUID)
				return nil
			}
			require.Equal(y, "broker", msg.Metadata["from"])
			n, _, err := msgmeta.GetAttempt(msg)
			require.NoError(y, err)
			require.EqualValues(y, 2, n)
			return y.count(ctx, msg)
		})
		sub := y.subscribe(y.st, broker, parking.SubscriberConfig{}, handler)
		<-sub.Running()
		require.NoError(y, broker.Publish("orders", message.NewMessage("new", nil)))
		y.eventually("the line opens", func() bool { return y.opened("k") })
		y.eventually("the broker's comes", func() bool { runs, _ := y.seen(); return len(runs) == 4 })
		_, handled := y.seen()
		require.Equal(y, []string{"1", "2", "3"}, handled)

		y.park("k", 0, "4") // it is found at once
		y.eventually("the line opens", func() bool { return y.opened("k") })
	})
}

func TestADelayedTryIsNotMultipliedByInstances(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		const lines = 20
		for i := range lines {
			y.park(fmt.Sprint("k", i), 200*time.Millisecond, fmt.Sprint(i), fmt.Sprint(i, "-behind"))
		}
		for range 4 {
			st := y.another()
			y.subscribe(st, nil, parking.SubscriberConfig{PollInterval: time.Millisecond}, y.guarded(st, y.count))
		}
		for i := range lines {
			y.eventually("the line opens", func() bool { return y.opened(fmt.Sprint("k", i)) })
		}
		runs, handled := y.seen()
		require.Len(y, runs, 2*lines, "each once")
		require.Len(y, handled, 2*lines)
	})
}

func TestWhatFailsAgainWaitsForItsNextTry(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		id := y.park("k", 0, "1", "2")
		failures := 3
		y.subscribe(y.st, nil, parking.SubscriberConfig{}, y.guarded(y.st, func(ctx context.Context, msg *message.Message) error {
			if msg.UUID == "1" && failures > 0 {
				failures--
				return errBoom
			}
			return y.count(ctx, msg)
		}))
		y.eventually("the line opens", func() bool { return y.opened("k") })
		_, handled := y.seen()
		require.Equal(y, []string{"1", "2"}, handled, "what is behind it waits")
		require.Equal(y, 5, y.row(id).Attempts)
	})
}

func TestWhatSaysNothingOfAMessageIsNotCounted(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		id := y.park("k", 0, "1", "2")
		times := 0
		y.subscribe(y.st, nil, parking.SubscriberConfig{MaxPollInterval: 50 * time.Millisecond},
			func(msg *message.Message) error {
				if times++; times == 1 {
					return errBusy // outside of Parking
				}
				return y.guarded(y.st, func(ctx context.Context, msg *message.Message) error {
					if times == 2 {
						return errBusy
					}
					return y.count(ctx, msg)
				})(msg)
			})
		y.eventually("the line opens", func() bool { return y.opened("k") })
		_, handled := y.seen()
		require.Equal(y, []string{"1", "2"}, handled)
		require.Equal(y, 2, y.row(id).Attempts)
	})
}

func TestAMessageThatMissesParkingWaitsForAPerson(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		id := y.park("k", 0, "1", "2")
		y.subscribe(y.st, nil, parking.SubscriberConfig{}, func(*message.Message) error { return nil })
		y.eventually("it is parked", func() bool { return y.row(id).Status == store.StatusParked })
		require.Contains(y, y.row(id).Reason, "is the middleware on this handler?")
	})
}

func TestWithoutDedupeTheSubscriberEndsAMessage(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		id := y.park("k", 0, "1", "2")
		y.subscribe(y.st, nil, parking.SubscriberConfig{}, func(msg *message.Message) error {
			ticket := parking.TicketFrom(msg.Context())
			ticket.Enter()
			ticket.Finish(nil)
			return nil
		})
		y.eventually("the line opens", func() bool { return y.opened("k") })
		require.Equal(y, store.StatusDone, y.row(id).Status)
		verdict, _, _, err := y.st.Look(y.Context(), consumer, "2", store.KeyLine(consumer, "k"))
		require.NoError(y, err)
		require.Equal(y, store.Applied, verdict)
	})
}

func TestAMessageThatStallsIsNotHandledForEver(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		id := y.park("k", 0, "1", "2")
		for i := range 4 { // owners that end without a word
			y.eventually("the claim before is over", func() bool {
				claims, err := y.st.ClaimLines(y.Context(), consumer, fmt.Sprint("killed-", i), time.Microsecond, 1)
				require.NoError(y, err)
				return len(claims) == 1
			})
		}
		y.subscribe(y.st, nil, parking.SubscriberConfig{}, y.guarded(y.st, y.count))
		y.eventually("it is parked", func() bool { return y.row(id).Status == store.StatusParked })
		require.Contains(y, y.row(id).Reason, "the process ended")
		runs, _ := y.seen()
		require.Empty(y, runs)
	})
}

func TestALostClaimRollsBackAndIsNotCounted(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		if y.st.Dialect() == store.SQLite {
			return // whose one writer is the handler
		}
		id := y.park("k", 0, "1")
		entered, resume := make(chan struct{}), make(chan struct{})
		var once sync.Once
		handler := y.guarded(y.st, func(ctx context.Context, msg *message.Message) error {
			once.Do(func() { close(entered); <-resume })
			return y.count(ctx, msg)
		})
		sub := y.subscribe(y.st, nil, parking.SubscriberConfig{}, handler)
		<-entered
		_, err := y.db.ExecContext(y.Context(), "UPDATE headrace_gates SET claimed_by = 'heir', claim_epoch = claim_epoch + 1")
		require.NoError(y, err)
		close(resume)
		y.eventually("it has run", func() bool { runs, _ := y.seen(); return len(runs) == 1 })
		require.NoError(y, sub.Close())
		_, handled := y.seen()
		require.Empty(y, handled)
		require.Equal(y, store.StatusDelayed, y.row(id).Status)
		require.Equal(y, 1, y.row(id).Attempts)
	})
}

func TestCloseWaitsForWhatIsInHandAndGivesLinesBack(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		y.park("k", 0, "1", "2", "3")
		entered := make(chan struct{}, 3)
		resume := make(chan struct{})
		handler := y.guarded(y.st, func(ctx context.Context, msg *message.Message) error {
			entered <- struct{}{}
			<-resume
			return y.count(ctx, msg)
		})
		sub := y.subscribe(y.st, nil, parking.SubscriberConfig{}, handler)
		<-entered
		closed := make(chan error, 1)
		go func() { closed <- sub.Close() }()
		select {
		case <-closed:
			y.Error("it didn't wait")
		case <-time.After(50 * time.Millisecond):
		}
		close(resume)
		require.NoError(y, <-closed)
		_, handled := y.seen()
		require.Equal(y, []string{"1"}, handled, "no further one was begun")
		gate, err := y.st.GateOf(y.Context(), store.KeyLine(consumer, "k"))
		require.NoError(y, err)
		require.Empty(y, gate.ClaimedBy)
		require.EqualValues(y, 2, gate.Waiting())
		_, err = sub.Subscribe(y.Context(), "orders")
		require.ErrorIs(y, err, parking.ErrSubscriberClosed)

		y.subscribe(y.st, nil, parking.SubscriberConfig{}, y.guarded(y.st, y.count))
		y.eventually("another goes on", func() bool { return y.opened("k") })
	})
}

func TestARateBoundsWhatComesBack(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		for i := range 6 {
			y.park(fmt.Sprint("k", i), 0, fmt.Sprint(i))
		}
		began := time.Now()
		y.subscribe(y.st, nil, parking.SubscriberConfig{Rate: 10}, y.guarded(y.st, y.count))
		y.eventually("all are handled", func() bool { _, handled := y.seen(); return len(handled) == 6 })
		require.GreaterOrEqual(y, time.Since(began), 400*time.Millisecond)
	})
}

func TestOddSubscriberConfigsAreRefused(t *testing.T) {
	t.Parallel()
	y := &yard{T: t, address: testenv.Database(t, "sqlite")}
	st := y.open(testenv.Open(t, y.address), store.SQLite)
	for _, cfg := range []parking.SubscriberConfig{
		{},
		{Consumer: "c", Concurrency: -1},
		{Consumer: "c", ClaimTTL: time.Millisecond},
		{Consumer: "c", Rate: -1},
		{Consumer: "c", PollInterval: time.Second, MaxPollInterval: time.Millisecond},
	} {
		_, err := parking.NewSubscriber(st, nil, cfg)
		require.Error(t, err)
	}
	_, err := parking.NewSubscriber(nil, nil, parking.SubscriberConfig{Consumer: "c"})
	require.Error(t, err)
}
