package scenario

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

const shipConsumer = "fulfilment.ship"

// A copy that the broker may still deliver finds its message remembered, because
// the window is as long as the broker's. The unprotected side allows a shorter
// one, and the copy comes after the purge.
func TestS14_PurgeAndTheLateDuplicate(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}),
		func(t *testing.T, p pair, protected bool) []string {
			const redelivery = time.Hour
			w := open(t, p)
			w.createOrders()
			w.must("INSERT INTO orders VALUES ('order')")
			cfg := middleware.DedupeConfig{
				Consumer: shipConsumer, Window: 2 * redelivery, RedeliveryWindow: redelivery,
			}
			if !protected {
				cfg.Window = redelivery / 4
				_, err := middleware.NewDedupe(w.st, cfg)
				require.ErrorContains(t, err, "AllowShortWindow")
				cfg.AllowShortWindow = true
			}
			ship := w.shipper(cfg)
			require.NoError(t, ship("order"))
			w.age(redelivery / 2)
			w.purge(middleware.PurgeConfig{Window: cfg.Window})
			require.NoError(t, ship("order"))
			return w.fulfilmentDamage("order")
		})
}

// A copy that comes later than the window is handled again: docs/dedupe.md says
// what protects from it.
func TestS14_PurgeForgetsWhatIsOlderThanTheWindow(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			w := open(t, pair{mem, database})
			w.createOrders()
			ship := w.shipper(middleware.DedupeConfig{Consumer: shipConsumer})
			require.NoError(t, ship("order"))
			w.age(middleware.DefaultWindow + time.Hour)
			require.NoError(t, ship("order"), "old, but still remembered")
			require.Equal(t, 1, w.count("SELECT count(*) FROM shipments"))
			w.age(middleware.DefaultWindow + time.Hour) // the copy's entry in the log too
			w.purge(middleware.PurgeConfig{})
			require.Zero(t, w.count("SELECT count(*) FROM headrace_inbox"))
			require.Zero(t, w.count("SELECT count(*) FROM headrace_verdict_log"))
			require.NoError(t, ship("order"))
			require.Equal(t, 2, w.count("SELECT count(*) FROM shipments"))
		})
	}
}

// With Sequence a copy is known by its number, however long ago the purge was.
func TestS14_ACopyAfterThePurgeIsKnownByItsNumber(t *testing.T) {
	onAndOff(t, on(t, []string{mem}, []string{postgres, mariadb, sqlite}),
		func(t *testing.T, p pair, protected bool) []string {
			w := open(t, p)
			w.createOrders()
			w.must("INSERT INTO orders VALUES ('order')")
			d, err := middleware.NewDedupe(w.st, middleware.DedupeConfig{Consumer: shipConsumer})
			require.NoError(t, err)
			seq, err := middleware.NewSequence(w.st, middleware.SequenceConfig{})
			require.NoError(t, err)
			ship := message.HandlerFunc(func(msg *message.Message) ([]*message.Message, error) {
				return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES (?)", msg.UUID)
			})
			if protected {
				ship = seq.Middleware(ship)
			}
			ship = d.Middleware(ship)
			for range 2 {
				msg := message.NewMessage("order", nil)
				msgmeta.SetNumber(msg, msgmeta.Number{Producer: "shop/default/orders", Key: "order", Epoch: 1, Sequence: 1})
				_, err := ship(msg)
				require.NoError(t, err)
				w.age(middleware.DefaultWindow + time.Hour)
				w.purge(middleware.PurgeConfig{})
				require.Zero(t, w.count("SELECT count(*) FROM headrace_inbox"))
			}
			return w.fulfilmentDamage("order")
		})
}

// shipper returns a function that delivers a message to a handler behind Dedupe.
func (w *world) shipper(cfg middleware.DedupeConfig) func(id string) error {
	w.t.Helper()
	d, err := middleware.NewDedupe(w.st, cfg)
	require.NoError(w.t, err)
	h := d.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		return nil, w.exec(msg.Context(), "INSERT INTO shipments VALUES (?)", msg.UUID)
	})
	return func(id string) error {
		_, err := h(message.NewMessage(id, nil))
		return err
	}
}

// age makes what Dedupe remembers older.
func (w *world) age(by time.Duration) {
	w.t.Helper()
	minus := fmt.Sprintf(map[string]string{
		postgres: "- interval '%d microseconds'", mariadb: "- INTERVAL %d MICROSECOND", sqlite: "- %d",
	}[w.database], by.Microseconds())
	w.must("UPDATE headrace_inbox SET processed_at = processed_at "+minus,
		"UPDATE headrace_verdict_log SET created_at = created_at "+minus)
}

// purges collects what purges report.
type purges chan middleware.PurgeStats

func (p purges) OnPurge(stats middleware.PurgeStats) { p <- stats }

func (w *world) purge(cfg middleware.PurgeConfig) middleware.PurgeStats {
	w.t.Helper()
	told := make(purges, 1)
	cfg.Consumers, cfg.Hooks, cfg.Pause = []string{shipConsumer}, []any{told}, time.Nanosecond
	p, err := middleware.NewPurge(w.st, cfg)
	require.NoError(w.t, err)
	p.PurgeNow(w.t.Context())
	stats := <-told
	require.NoError(w.t, stats.Err)
	return stats
}

const (
	purgeBatch = 500
	purgePause = 50 * time.Millisecond
)

// purgeRows are fewer on SQLite, where the purge and the consumer take turns as
// the one writer.
func purgeRows(database string) int {
	if database == sqlite {
		return 4 * purgeBatch
	}
	return 20_000
}

// insertOldRows fills the inbox with messages of a month ago, one of each open
// verdict among them.
func (w *world) insertOldRows(n int) {
	w.t.Helper()
	numbers := map[string]string{
		postgres: "SELECT i FROM generate_series(1, %d) AS g(i)",
		mariadb:  "SELECT seq AS i FROM seq_1_to_%d",
		sqlite:   "WITH RECURSIVE g(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < %d) SELECT i FROM g",
	}[w.database]
	id := "concat('old-', i)"
	if w.database == sqlite {
		id = "'old-' || i"
	}
	w.must("INSERT INTO headrace_inbox (consumer, message_id, verdict) SELECT '" + shipConsumer + "', " + id +
		", 'applied' FROM (" + fmt.Sprintf(numbers, n) + ") AS numbers")
	for _, open := range []store.Verdict{store.Accepted, store.Gap, store.Parked, store.Conflict} {
		w.must(fmt.Sprintf("INSERT INTO headrace_inbox (consumer, message_id, verdict) VALUES ('%s', 'open-%s', '%s')",
			shipConsumer, open, open))
	}
	w.age(30 * 24 * time.Hour)
}

// Three instances purge at three o'clock, and one does it. It waits while many
// messages wait, then works in small batches beside a consumer that goes on.
func TestS14_PurgeAtAQuietHour(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			purgeAtAQuietHour(t, open(t, pair{mem, database}))
		})
	}
}

func purgeAtAQuietHour(t *testing.T, w *world) {
	t.Helper()
	w.createOrders()
	rows := purgeRows(w.database)
	w.insertOldRows(rows)
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 31, 2, 59, 0, 0, time.UTC))
	told, backlog := make(purges, 10), newBacklog()
	const instances = 3
	w.runPurges(instances, middleware.PurgeConfig{
		Consumers: []string{shipConsumer}, BatchSize: purgeBatch, Pause: purgePause,
		Backlog: backlog.ask, Clock: clock, Hooks: []any{told}, Logger: w.logger,
	})
	require.NoError(t, clock.BlockUntilContext(t.Context(), instances))
	require.Equal(t, rows+4, w.count("SELECT count(*) FROM headrace_inbox"), "not before the quiet hour")

	clock.Advance(time.Minute)
	for range instances - 1 {
		require.Contains(t, receive(t, told, "the other instances").Interrupted, "another instance")
	}
	const asked = 3
	for range asked { // many messages wait, each time it asks
		receive(t, backlog.asked, "the question")
		require.NoError(t, clock.BlockUntilContext(t.Context(), instances))
		clock.Advance(purgePause)
	}
	require.Equal(t, rows+4, w.count("SELECT count(*) FROM headrace_inbox"), "not while many messages wait")
	backlog.deep.Store(false)

	stats, longest, handled := w.handleDuring(clock, told)
	require.NoError(t, stats.Err)
	require.Empty(t, stats.Interrupted)
	require.EqualValues(t, rows, stats.Purged)
	require.Equal(t, rows/purgeBatch, stats.Batches)
	require.Equal(t, 4, w.count("SELECT count(*) FROM headrace_inbox WHERE message_id LIKE 'open-%'"), "open rows stay")
	require.Equal(t, handled+4, w.count("SELECT count(*) FROM headrace_inbox"))
	require.Less(t, longest, 3*time.Second, "the consumer waited for the purge")
	t.Logf("%d rows in %d batches; the consumer handled %d messages meanwhile, the slowest took %s",
		stats.Purged, stats.Batches, handled, longest.Round(time.Microsecond))
}

// runPurges runs instances until the test ends.
func (w *world) runPurges(instances int, cfg middleware.PurgeConfig) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, instances)
	w.t.Cleanup(func() {
		cancel()
		for range instances {
			require.NoError(w.t, <-done)
		}
	})
	for range instances {
		p, err := middleware.NewPurge(w.another(nil), cfg)
		require.NoError(w.t, err)
		go func() { done <- p.Run(ctx) }()
	}
}

// handleDuring handles messages until the purge is over. Each lets the purge's
// pause go by, so that the two keep pace.
func (w *world) handleDuring(
	clock *clockwork.FakeClock, told purges,
) (stats middleware.PurgeStats, longest time.Duration, handled int) {
	w.t.Helper()
	ship := w.shipper(middleware.DedupeConfig{Consumer: shipConsumer})
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		began := time.Now()
		require.NoError(w.t, ship(fmt.Sprintf("new-%d", handled)))
		longest = max(longest, time.Since(began))
		handled++
		clock.Advance(purgePause)
		select {
		case stats = <-told:
			return stats, longest, handled
		default:
		}
	}
	w.t.Fatalf("the purge wasn't over after %s", patience)
	return stats, longest, handled
}

// backlog says that many messages wait until it is told otherwise.
type backlog struct {
	deep  atomic.Bool
	asked chan struct{}
}

func newBacklog() *backlog {
	b := &backlog{asked: make(chan struct{}, 1)}
	b.deep.Store(true)
	return b
}

func (b *backlog) ask(context.Context, string) (int64, error) {
	select {
	case b.asked <- struct{}{}:
	default:
	}
	if b.deep.Load() {
		return 1_000_000, nil
	}
	return 0, nil
}

// When the quiet hours are over the rest waits for the next night.
func TestS14_PurgeStopsWhenQuietHoursAreOver(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			w := open(t, pair{mem, database})
			w.insertOldRows(3 * purgeBatch)
			clock := clockwork.NewFakeClock()
			told := make(purges, 1)
			p, err := middleware.NewPurge(w.st, middleware.PurgeConfig{
				Consumers: []string{shipConsumer}, BatchSize: purgeBatch, Pause: time.Minute, QuietFor: time.Hour,
				Clock: clock, Hooks: []any{told},
			})
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				p.PurgeNow(t.Context())
			}()
			require.NoError(t, clock.BlockUntilContext(t.Context(), 1)) // in the pause after the first batch
			clock.Advance(time.Hour)
			stats := receive(t, told, "the purge's end")
			<-done
			require.Contains(t, stats.Interrupted, "quiet hours")
			require.EqualValues(t, purgeBatch, stats.Purged)
			require.Equal(t, 2*purgeBatch+4, w.count("SELECT count(*) FROM headrace_inbox"))
			require.EqualValues(t, 2*purgeBatch, w.purge(middleware.PurgeConfig{}).Purged)
		})
	}
}
