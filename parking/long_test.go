package parking_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// protected is a handler behind Parking and Dedupe.
func (y *yard) protected(st *store.Store, h func(msg *message.Message) error) func(*message.Message) error {
	y.Helper()
	park, err := middleware.NewParking(st, middleware.ParkingConfig{Consumer: consumer})
	require.NoError(y, err)
	dedupe, err := middleware.NewDedupe(st, middleware.DedupeConfig{Consumer: consumer})
	require.NoError(y, err)
	protected := park.Middleware(dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) { return nil, h(msg) }))
	return func(msg *message.Message) error {
		_, err := protected(msg)
		return err
	}
}

// longLines are keys of which each has a message that waits for a person, and many
// behind it.
type longLines struct {
	*yard

	keys, behind, late int

	mu      sync.Mutex
	handled map[string][]string
	count   int
}

func (l *longLines) message(key string, n int) *message.Message {
	msg := message.NewMessage(fmt.Sprintf("%s/%06d", key, n), []byte("payload"))
	msgmeta.SetKey(msg, key)
	return msg
}

// fill puts the lines there as arrivals would, many in a transaction.
func (l *longLines) fill() (heads []int64) {
	l.Helper()
	for k := range l.keys {
		key := fmt.Sprint("k", k)
		line := store.KeyLine(consumer, key)
		row := func(n int) store.ParkedRow {
			msg := l.message(key, n)
			return store.ParkedRow{
				Origin: store.OriginConsumer, Consumer: consumer, Line: line.Line, Key: key,
				InboxID: msg.UUID, MessageID: msg.UUID, Payload: msg.Payload, Metadata: msg.Metadata,
				Status: store.StatusParked, Class: "unknown", Reason: "poison", Attempts: 1,
			}
		}
		require.NoError(l, l.st.InTx(l.Context(), func(ctx context.Context, tx store.Tx) error {
			id, _, _, err := l.st.Park(ctx, tx, row(0), nil)
			heads = append(heads, id)
			return err
		}))
		const batch = 200
		for from := 1; from <= l.behind; from += batch {
			require.NoError(l, l.st.InTx(l.Context(), func(ctx context.Context, tx store.Tx) error {
				for n := from; n < min(from+batch, l.behind+1); n++ {
					waiting := store.InboxRow{Consumer: consumer, MessageID: row(n).InboxID, Verdict: store.Accepted}
					if _, _, err := l.st.InsertInbox(ctx, waiting); err != nil {
						return err
					}
					if _, _, err := l.st.LineUp(ctx, tx, row(n)); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	return heads
}

func (l *longLines) handle(msg *message.Message) error {
	return store.AfterCommit(msg.Context(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		key := msgmeta.GetKey(msg)
		l.handled[key] = append(l.handled[key], msg.UUID)
		l.count++
	})
}

func (l *longLines) total() int { return l.keys * (1 + l.behind + l.late) }

// Many lines are released while more arrives for each of them. With HEADRACE_FAULTS=full
// 110,000 messages of 100 keys are kept.
func TestALongLineDrainsInOrder(t *testing.T) {
	t.Parallel()
	onEachYard(t, func(y *yard) {
		bound := 10 * time.Minute
		l := &longLines{yard: y, keys: 10, behind: 60, late: 5, handled: map[string][]string{}}
		if os.Getenv("HEADRACE_FAULTS") == "full" {
			l.keys, l.behind, bound = 100, 1100, time.Hour
		}
		heads := l.fill()
		for range 2 {
			st := y.another()
			y.subscribe(st, nil, parking.SubscriberConfig{}, y.protected(st, l.handle))
		}
		began := time.Now()
		var arrivals sync.WaitGroup
		arrive := y.protected(y.st, l.handle)
		arrivals.Go(func() {
			for n := range l.late {
				for k := range l.keys {
					if err := arrive(l.message(fmt.Sprint("k", k), 1+l.behind+n)); err != nil {
						t.Error(err)
					}
				}
			}
		})
		for _, id := range heads {
			require.NoError(t, y.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				_, err := y.st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
				return err
			}))
		}
		arrivals.Wait()
		var most uint64
		require.Eventually(t, func() bool {
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			most = max(most, memory.HeapInuse)
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.count >= l.total()
		}, bound, 50*time.Millisecond)
		took := time.Since(began)
		t.Logf("%d messages in %s (%.0f/s), heap in use at most %d MiB", l.total(), took.Round(time.Millisecond),
			float64(l.total())/took.Seconds(), most>>20)
		for k := range l.keys {
			key := fmt.Sprint("k", k)
			y.eventually("the line opens", func() bool { return y.opened(key) })
			require.Len(t, l.handled[key], 1+l.behind+l.late, "each once")
			for n, id := range l.handled[key] {
				require.Equal(t, l.message(key, n).UUID, id, "in order")
			}
		}
	})
}
