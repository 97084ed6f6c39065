package scenario

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Changes of three accounts are numbered by the outbox, and of each the third comes after
// the fourth, or not at all. One consumer waits for it; one takes the whole account in its
// place; and one parks the fourth until a person says that it is to be handled without the
// third. Without the guard each handles the fourth before the third.
func TestS23_DeltaWithAGap(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}), func(t *testing.T, p pair, protected bool) []string {
		w := open(t, p)
		var damage []string
		for _, play := range []func(*ledgers) []string{(*ledgers).waits, (*ledgers).fetches, (*ledgers).parks} {
			damage = append(damage, play(newLedgers(t, w, protected))...)
		}
		return damage
	})
}

const ledgerConsumer = "ledger.book"

// ledgers books the changes of an account.
type ledgers struct {
	*world

	protected bool
	book      func(msg *message.Message) error

	mu     sync.Mutex
	booked []string
}

func newLedgers(t *testing.T, w *world, protected bool) *ledgers {
	t.Helper()
	return &ledgers{world: w, protected: protected}
}

// serve begins to serve with steps against gaps.
func (l *ledgers) serve(consumer string, steps ...middleware.GapStep) {
	l.t.Helper()
	dedupe, err := middleware.NewDedupe(l.st, middleware.DedupeConfig{Consumer: consumer, Logger: l.logger})
	require.NoError(l.t, err)
	seq, err := middleware.NewSequence(l.st, middleware.SequenceConfig{
		Gaps: steps, Baseline: middleware.FromOne,
		Fetch: func(context.Context, *message.Message, *middleware.GapError) (middleware.Snapshot, error) {
			return middleware.Snapshot{Value: "the account"}, nil
		},
	})
	require.NoError(l.t, err)
	park, err := middleware.NewParking(l.st, middleware.ParkingConfig{Consumer: consumer, Logger: l.logger})
	require.NoError(l.t, err)
	h := dedupe.Middleware(l.handle)
	if l.protected {
		h = seq.FetchMiddleware(dedupe.Middleware(seq.Middleware(l.handle)))
	}
	h = park.Middleware(h)
	l.book = func(msg *message.Message) error {
		_, err := h(msg)
		return err
	}
	sub, err := parking.NewSubscriber(l.st, nil, parking.SubscriberConfig{Consumer: consumer, Logger: l.logger})
	require.NoError(l.t, err)
	kept, err := sub.Subscribe(l.t.Context(), "accounts")
	require.NoError(l.t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for msg := range kept {
			if l.book(msg) == nil {
				msg.Ack()
			} else {
				msg.Nack()
			}
		}
	}()
	l.t.Cleanup(func() {
		require.NoError(l.t, sub.Close())
		<-done
	})
}

func (l *ledgers) handle(msg *message.Message) ([]*message.Message, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s, ok := middleware.SnapshotFrom(msg.Context()); ok {
		l.booked = append(l.booked, s.Value.(string))
		return nil, nil
	}
	l.booked = append(l.booked, string(msg.Payload))
	return nil, nil
}

// changes publishes four changes of an account in one transaction, and returns what the
// outbox sends.
func (l *ledgers) changes(account string) (sent []*message.Message) {
	l.t.Helper()
	outbox, err := forwarder.NewOutbox(l.st, forwarder.OutboxConfig{Service: account, Sequences: true})
	require.NoError(l.t, err)
	require.NoError(l.t, l.st.InTx(l.t.Context(), func(ctx context.Context, _ store.Tx) error {
		for n := range 4 {
			msg := message.NewMessage(account+strconv.Itoa(n+1), []byte(strconv.Itoa(n+1)))
			msgmeta.SetKey(msg, account)
			if err := outbox.Publish(ctx, "accounts", msg); err != nil {
				return err
			}
		}
		return nil
	}))
	for p := range store.OutboxPartitions {
		rows, err := l.st.ReadOutbox(l.t.Context(), store.Partition{Service: account, Number: p}, 0, 10, 1<<20)
		require.NoError(l.t, err)
		for _, row := range rows {
			msg := message.NewMessage(row.MessageID, row.Payload)
			msg.Metadata = row.Metadata
			msg.SetContext(l.t.Context())
			sent = append(sent, msg)
		}
	}
	require.Len(l.t, sent, 4)
	return sent
}

func (l *ledgers) deliver(msgs ...*message.Message) {
	l.t.Helper()
	for _, msg := range msgs {
		require.NoError(l.t, l.book(msg))
	}
}

// finally waits until so many changes are booked.
func (l *ledgers) finally(n int) string {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(l.all()) >= n }, patience, 5*time.Millisecond)
	return strings.Join(l.all(), " ")
}

func (l *ledgers) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.booked)
}

func expectBooked(what, want, got string) []string {
	if got == want {
		return nil
	}
	return []string{what + ": booked " + got + " instead of " + want}
}

func (l *ledgers) waits() []string {
	l.serve(ledgerConsumer+"-waits", middleware.GapWait(time.Hour))
	sent := l.changes("waits")
	l.deliver(sent[0], sent[1], sent[3], sent[2])
	return expectBooked("waits", "1 2 3 4", l.finally(4))
}

func (l *ledgers) fetches() []string {
	l.serve(ledgerConsumer+"-fetches", middleware.GapWait(50*time.Millisecond), middleware.GapFetch())
	sent := l.changes("fetches")
	l.deliver(sent[0], sent[1], sent[3])
	booked := l.finally(3)
	l.deliver(sent[2].Copy()) // too late: it is in the account
	if late := strings.Join(l.all(), " "); late != booked {
		booked = late
	}
	return expectBooked("fetches", "1 2 the account", booked)
}

func (l *ledgers) parks() []string {
	consumer := ledgerConsumer + "-parks"
	l.serve(consumer, middleware.GapPark())
	sent := l.changes("parks")
	l.deliver(sent[0], sent[1], sent[3])
	if got := l.finally(2); got != "1 2" {
		return expectBooked("parks", "1 2", got)
	}
	rows, err := l.st.ListParked(l.t.Context(), store.ParkedFilter{Consumer: consumer}, 0, 10)
	require.NoError(l.t, err)
	require.Len(l.t, rows, 1)
	require.NoError(l.t, l.st.InTx(l.t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := l.st.ReleaseParked(ctx, tx, rows[0].ID, store.Release{By: "anna"})
		return err
	}))
	return expectBooked("parks", "1 2 4", l.finally(3))
}
