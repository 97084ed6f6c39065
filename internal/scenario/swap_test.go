package scenario

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// mistake is a step of docs/swap.md that is left out.
type mistake string

const (
	noMistake mistake = ""
	noDrain   mistake = "consumers read the new broker before the old one is drained"
	noHold    mistake = "instances that send to the old broker and to the new one run side by side"
)

// A service moves from SQS to Kafka and back while others keep sending, by the
// steps of docs/swap.md; its consumer is killed in the middle. Each step that is
// left out breaks the order, where there is one.
func TestLiveSwap(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		return // there is no second broker to move to
	}
	for _, queue := range []string{sqs, sqsFIFO} {
		t.Run(queue+"/protected", func(t *testing.T) {
			t.Parallel()
			s := newSwap(t, queue)
			s.play(queue, kafka, noMistake)
			s.play(kafka, queue, noMistake)
			require.Empty(t, s.finish(queue == sqsFIFO))
		})
	}
	for _, m := range []mistake{noDrain, noHold} {
		t.Run(sqsFIFO+"/unprotected/"+string(m), func(t *testing.T) {
			t.Parallel()
			s := newSwap(t, sqsFIFO)
			s.play(sqsFIFO, kafka, m)
			damage := s.finish(true)
			require.NotEmpty(t, damage, "the check found nothing wrong")
			t.Logf("with the mistake: %s", strings.Join(damage, "; "))
		})
	}
}

// swap is a shop that sends, with a database of its own, and a store that
// listens, with another.
type swap struct {
	t                 *testing.T
	topic, group      string
	shopURL, storeURL string
	shopDB, storeDB   *sql.DB
	urls              map[string]string
	brokers           map[string]*brokers.Broker
	logger            *logbook

	mu        sync.RWMutex // held by writers while they write through an instance
	instances [2]*headrace.Plugin
	writers   sync.WaitGroup
	stop      chan struct{}

	listens swapConsumer // as it was started last
}

// Keys, and how often each is written: a load that the emulated queue carries beside
// other tests.
const (
	swapKeys  = 6
	swapEvery = 80 * time.Millisecond
)

func newSwap(t *testing.T, queue string) *swap {
	t.Helper()
	s := &swap{
		t: t, topic: testenv.Topic(t, "swap"), group: "store",
		shopURL: testenv.Postgres(t), storeURL: testenv.Postgres(t),
		urls: map[string]string{
			queue: withOptions(brokerURL(t, queue), "visibility=3s"),
			kafka: withOptions(brokerURL(t, kafka), "session_timeout=6s"),
		},
		brokers: map[string]*brokers.Broker{}, logger: newLogbook(t), stop: make(chan struct{}),
	}
	s.shopDB, s.storeDB = testenv.Open(t, s.shopURL), testenv.Open(t, s.storeURL)
	s.must(s.shopDB, "CREATE TABLE sent (key text, number int)")
	s.must(s.storeDB, "CREATE TABLE effects (pos bigserial, key text, number int)")
	for _, db := range []*sql.DB{s.shopDB, s.storeDB} {
		st, err := store.Open(t.Context(), db, store.Config{Dialect: store.Postgres, Migrate: true, Logger: s.logger})
		require.NoError(t, err)
		require.NoError(t, st.Close())
	}
	for name, rawURL := range s.urls {
		b, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: all.Openers(), Logger: s.logger})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		s.brokers[name] = b
	}
	for i := range s.instances {
		s.instances[i] = s.instance(s.brokers[queue].Publisher)
	}
	t.Cleanup(s.end)
	for key := range swapKeys {
		s.writers.Go(func() { s.write(fmt.Sprintf("key-%d", key)) })
	}
	return s
}

func (s *swap) must(db *sql.DB, statement string) {
	s.t.Helper()
	_, err := db.ExecContext(s.t.Context(), statement)
	require.NoError(s.t, err, statement)
}

// instance starts a process of the shop, as far as the outbox is concerned.
func (s *swap) instance(publisher message.Publisher) *headrace.Plugin {
	s.t.Helper()
	hr, err := headrace.New(s.t.Context(), s.shopDB, headrace.Config{
		Service: "shop", Publisher: publisher, Logger: s.logger,
		Forwarder: forwarder.Config{
			LeaseTTL: shortLease, RescanInterval: 100 * time.Millisecond, MaxRetryBackoff: 200 * time.Millisecond,
		},
	})
	require.NoError(s.t, err)
	go func() { _ = hr.Run(context.WithoutCancel(s.t.Context())) }() // Close ends it
	receive(s.t, hr.Running(), "the shop's start")
	return hr
}

// restart replaces one process of the shop; the other one goes on.
func (s *swap) restart(i int, publisher message.Publisher) {
	s.t.Helper()
	s.shut(i)
	s.open(i, publisher)
}

func (s *swap) open(i int, publisher message.Publisher) {
	s.t.Helper()
	fresh := s.instance(publisher)
	s.mu.Lock()
	s.instances[i] = fresh
	s.mu.Unlock()
}

// shut ends a process of the shop. Writers use the other one meanwhile.
func (s *swap) shut(i int) {
	s.t.Helper()
	s.mu.Lock()
	old := s.instances[i]
	s.instances[i] = nil
	s.mu.Unlock()
	require.NoError(s.t, old.Close())
}

// write sells one key's goods, until the end: a row and its message at a time.
func (s *swap) write(key string) {
	ticker := time.NewTicker(swapEvery)
	defer ticker.Stop()
	for number := 1; ; number++ {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		if err := s.sell(key, number); err != nil {
			s.t.Errorf("%s %d: %v", key, number, err)
			return
		}
	}
}

func (s *swap) sell(key string, number int) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	hr := s.instances[number%2]
	if hr == nil {
		hr = s.instances[(number+1)%2]
	}
	return hr.Store().InTx(s.t.Context(), func(ctx context.Context, tx store.Tx) error {
		if _, err := tx.ExecContext(ctx, "INSERT INTO sent VALUES ($1, $2)", key, number); err != nil {
			return err
		}
		msg := newMessage(fmt.Sprintf("%s %d", key, number))
		msg.SetContext(ctx)
		msgmeta.SetKey(msg, key)
		return hr.Publisher().Publish(s.topic, msg)
	})
}

// play moves from one broker to another by the steps of docs/swap.md. The consumer
// is away while the shop switches, so that keys have messages on both.
func (s *swap) play(from, to string, m mistake) {
	s.t.Helper()
	s.listens = swapConsumer{Database: s.storeURL, Topic: s.topic, Group: s.group, From: s.urls[from]}
	listener := s.listens.start(s.t)
	s.hear(50)
	if from == kafka {
		listener.stop() // after a kill Kafka keeps its partitions for it, for 6s
	} else {
		listener.kill()
	}

	s.pileUp(from, 40)
	if m == noHold {
		// The first instance switches, sends, and is gone again: the other one, not
		// switched yet, takes over.
		s.restart(0, s.brokers[to].Publisher)
		s.pileUp(to, 20)
		s.shut(0)
		s.pileUp(from, 40)
		s.relayed()
		s.open(0, s.brokers[to].Publisher)
	} else {
		s.restart(0, brokers.Held{})
		s.restart(1, brokers.Held{})
		s.restart(0, s.brokers[to].Publisher)
	}
	s.restart(1, s.brokers[to].Publisher)
	s.pileUp(to, 40)

	if m == noDrain {
		s.listens.From = s.urls[to]
		listener = s.listens.start(s.t)
		s.hear(30)
		listener.stop()
		s.listens.From = s.urls[from]
	}
	s.listens.To = s.urls[to]
	listener = s.listens.start(s.t)
	s.hear(20)
	if m == noMistake && !slices.Contains([]string{from, to}, sqs) { // once is enough
		listener.kill()
		listener = s.listens.start(s.t)
	}
	s.drained(from)
	s.hear(50) // from the new broker, as the old one has none
	listener.stop()
}

// pileUp waits until n more messages than now wait on a broker that nobody reads.
func (s *swap) pileUp(on string, n int64) {
	s.t.Helper()
	want := s.backlog(on) + n
	testenv.Eventually(s.t, patience, tick, func() (bool, string) {
		got := s.backlog(on)
		return got >= want, fmt.Sprintf("%d of %d messages on %s", got, want, on)
	})
}

// relayed waits until what is in the outbox now was sent, by whoever runs.
func (s *swap) relayed() {
	s.t.Helper()
	var last sql.NullInt64
	require.NoError(s.t, s.shopDB.QueryRowContext(s.t.Context(), "SELECT max(id) FROM headrace_outbox").Scan(&last))
	testenv.Eventually(s.t, patience, tick, func() (bool, string) {
		left := s.count(s.shopDB, fmt.Sprintf("headrace_outbox WHERE id <= %d", last.Int64))
		return left == 0, fmt.Sprintf("%d rows in the outbox", left)
	})
}

func (s *swap) drained(broker string) {
	s.t.Helper()
	testenv.Eventually(s.t, patience, tick, func() (bool, string) {
		got := s.backlog(broker)
		return got == 0, fmt.Sprintf("%d messages on %s", got, broker)
	})
}

func (s *swap) backlog(broker string) int64 {
	s.t.Helper()
	n, err := s.brokers[broker].Backlog(s.t.Context(), s.topic, s.group)
	require.NoError(s.t, err)
	return n
}

// hear waits until n more messages than now took effect.
func (s *swap) hear(n int) {
	s.t.Helper()
	want := s.count(s.storeDB, "effects") + n
	testenv.Eventually(s.t, patience, tick, func() (bool, string) {
		got := s.count(s.storeDB, "effects")
		return got >= want, fmt.Sprintf("%d of %d effects", got, want)
	})
}

func (s *swap) count(db *sql.DB, table string) (n int) {
	s.t.Helper()
	require.NoError(s.t, db.QueryRowContext(s.t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

// finish lets everything arrive and compares what was sent with what it did.
func (s *swap) finish(ordered bool) (damage []string) {
	s.t.Helper()
	close(s.stop)
	s.writers.Wait()
	listener := s.listens.start(s.t)
	testenv.Eventually(s.t, patience, tick, func() (bool, string) {
		waiting := s.count(s.shopDB, "headrace_outbox")
		return waiting == 0, fmt.Sprintf("%d rows in the outbox", waiting)
	})
	for broker := range s.brokers {
		s.drained(broker)
	}
	listener.stop()

	for key := range swapKeys {
		damage = append(damage, s.compare(fmt.Sprintf("key-%d", key), ordered)...)
	}
	s.t.Logf("%d messages sent, %d effects", s.count(s.shopDB, "sent"), s.count(s.storeDB, "effects"))
	return damage
}

// compare looks at one key: each number from 1 on once, in this order.
func (s *swap) compare(key string, ordered bool) (damage []string) {
	s.t.Helper()
	sent := s.numbers(s.shopDB, "SELECT number FROM sent WHERE key = $1 ORDER BY number", key)
	effects := s.numbers(s.storeDB, "SELECT number FROM effects WHERE key = $1 ORDER BY pos", key)
	last, seen := 0, map[int]int{}
	for _, number := range effects {
		if ordered && number < last {
			damage = append(damage, fmt.Sprintf("%s: %d came after %d", key, number, last))
			ordered = false // once is enough
		}
		last = number
		seen[number]++
	}
	for _, number := range sent {
		if seen[number] != 1 {
			damage = append(damage, fmt.Sprintf("%s: %d took effect %d times", key, number, seen[number]))
		}
	}
	return damage
}

func (s *swap) numbers(db *sql.DB, query, key string) (numbers []int) {
	s.t.Helper()
	rows, err := db.QueryContext(s.t.Context(), query, key)
	require.NoError(s.t, err)
	defer rows.Close()
	for rows.Next() {
		var n int
		require.NoError(s.t, rows.Scan(&n))
		numbers = append(numbers, n)
	}
	require.NoError(s.t, rows.Err())
	return numbers
}

// end stops what runs.
func (s *swap) end() {
	select {
	case <-s.stop:
	default:
		close(s.stop)
	}
	s.writers.Wait()
	for i, hr := range s.instances {
		if hr != nil {
			s.shut(i)
		}
	}
}
