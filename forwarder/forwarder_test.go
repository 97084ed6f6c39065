package forwarder_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

const (
	deadline = 20 * time.Second
	quick    = 5 * time.Millisecond
)

type bundle struct {
	st     *store.Store
	db     *sql.DB
	outbox *forwarder.Outbox
}

func eachDatabase(t *testing.T, f func(t *testing.T, b *bundle)) {
	t.Helper()
	t.Parallel()
	eachKind(t, testenv.Databases(t), func(t *testing.T, b *bundle, _ string) { f(t, b) })
}

// eachServer runs a test on the databases that are reached by a network.
func eachServer(t *testing.T, f func(t *testing.T, b *bundle, address string)) {
	t.Helper()
	t.Parallel()
	eachKind(t, slices.DeleteFunc(testenv.Databases(t), func(kind string) bool { return kind == "sqlite" }), f)
}

func eachKind(t *testing.T, kinds []string, f func(t *testing.T, b *bundle, address string)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			address := testenv.Database(t, kind)
			db := testenv.Open(t, address)
			dialect := map[string]store.Dialect{
				"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite,
			}[kind]
			st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{})
			require.NoError(t, err)
			f(t, &bundle{st, db, outbox}, address)
		})
	}
}

// broker records what it was given, unless refuse says no.
type broker struct {
	refuse func(topic string, msg *message.Message) error

	mu  sync.Mutex
	got []*message.Message
}

func (b *broker) Publish(topic string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		if b.refuse != nil {
			if err := b.refuse(topic, msg); err != nil {
				return err
			}
		}
		b.mu.Lock()
		b.got = append(b.got, msg)
		b.mu.Unlock()
	}
	return nil
}

func (b *broker) Close() error { return nil }

func (b *broker) ids(key string) (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, msg := range b.got {
		if key == "" || msgmeta.GetKey(msg) == key {
			ids = append(ids, msg.UUID)
		}
	}
	return ids
}

func (b *bundle) run(
	t *testing.T, to message.Publisher, cfg forwarder.Config, adjust ...func(*forwarder.Forwarder),
) (stop func()) {
	t.Helper()
	f, err := forwarder.New(b.st, map[string]message.Publisher{"default": to}, cfg)
	require.NoError(t, err)
	for _, a := range adjust {
		a(f)
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(context.WithoutCancel(t.Context())) }()
	select {
	case <-f.Running():
	case err := <-done:
		t.Fatal("forwarder ended", err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			require.NoError(t, f.Close())
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func (b *bundle) publish(t *testing.T, topic, key string, ids ...string) {
	t.Helper()
	msgs := make([]*message.Message, 0, len(ids))
	for _, id := range ids {
		msg := message.NewMessage(id, []byte(id))
		msgmeta.SetKey(msg, key)
		msgs = append(msgs, msg)
	}
	require.NoError(t, b.outbox.Publish(t.Context(), topic, msgs...))
}

func (b *bundle) waiting(t *testing.T) (unsent int64, lastError string) {
	t.Helper()
	counts, err := b.st.CountOutbox(t.Context())
	require.NoError(t, err)
	for _, c := range counts {
		unsent += c.Unsent
		if c.LastError != "" {
			lastError = c.LastError
		}
	}
	return unsent, lastError
}

func (b *bundle) eventuallyWaiting(t *testing.T, want int64) {
	t.Helper()
	testenv.Eventually(t, deadline, 10*time.Millisecond, func() (bool, string) {
		n, last := b.waiting(t)
		return n == want, fmt.Sprintf("%d rows wait, want %d (%s)", n, want, last)
	})
}

func sequence(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s%04d", prefix, i))
	}
	return ids
}

func TestEachKeyIsSentInOrderAndTheOutboxEmptied(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var to broker
		for k := range 20 {
			key := fmt.Sprintf("k%d-", k)
			b.publish(t, "topic", key, sequence(key, 100)...)
		}
		b.run(t, &to, forwarder.Config{BatchSize: 37})
		b.eventuallyWaiting(t, 0)
		for k := range 20 {
			key := fmt.Sprintf("k%d-", k)
			require.Equal(t, sequence(key, 100), to.ids(key))
		}
	})
}

func TestAFailingKeyWaitsAndOthersFlow(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var mu sync.Mutex
		down := true
		to := broker{refuse: func(_ string, msg *message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if down && msg.UUID == "bad0003" {
				return errors.New("refused by the broker")
			}
			return nil
		}}
		b.run(t, &to, forwarder.Config{BatchSize: 5, RetryBackoff: quick, MaxRetryBackoff: 4 * quick})
		b.publish(t, "topic", "bad", sequence("bad", 50)...)
		b.publish(t, "topic", "good", sequence("good", 50)...)
		b.eventuallyWaiting(t, 47)
		require.Equal(t, sequence("good", 50), to.ids("good"))
		require.Equal(t, sequence("bad", 3), to.ids("bad"))
		_, lastError := b.waiting(t)
		require.Contains(t, lastError, "refused by the broker")

		mu.Lock()
		down = false
		mu.Unlock()
		b.eventuallyWaiting(t, 0)
		require.Equal(t, sequence("bad", 50), to.ids("bad"))
	})
}

func TestATopicThatIsDownHoldsNoOther(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var mu sync.Mutex
		down := true
		to := broker{refuse: func(topic string, _ *message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			if down && topic == "down" {
				return errors.New("no such topic")
			}
			return nil
		}}
		for i := range 100 {
			b.publish(t, "down", fmt.Sprintf("d%d", i), fmt.Sprintf("d%d", i))
			b.publish(t, "up", fmt.Sprintf("u%d", i), fmt.Sprintf("u%d", i))
		}
		b.run(t, &to, forwarder.Config{BatchSize: 10, RetryBackoff: quick, MaxRetryBackoff: 10 * quick})
		b.eventuallyWaiting(t, 100)
		mu.Lock()
		down = false
		mu.Unlock()
		b.eventuallyWaiting(t, 0)
		require.Len(t, to.ids(""), 200)
	})
}

func TestARowCommittedLateIsSentToo(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // one writer: ids are committed in order
		}
		var to broker
		b.run(t, &to, forwarder.Config{RescanInterval: 50 * time.Millisecond})
		early, err := b.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		msg := message.NewMessage("early", nil)
		msgmeta.SetKey(msg, "k")
		require.NoError(t, b.outbox.PublishTx(t.Context(), early, "topic", msg))
		b.publish(t, "topic", "k", "later")
		testenv.Eventually(t, deadline, time.Millisecond, func() (bool, string) {
			return len(to.ids("")) == 1, "later not sent"
		})
		require.NoError(t, early.Commit())
		b.eventuallyWaiting(t, 0)
		require.Equal(t, []string{"later", "early"}, to.ids(""))
	})
}

func TestAnUnknownDestinationKeepsItsRows(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		other, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Destination: "elsewhere"})
		require.NoError(t, err)
		require.NoError(t, other.Publish(t.Context(), "topic", message.NewMessage("1", nil)))
		var to broker
		b.publish(t, "topic", "k", "2")
		b.run(t, &to, forwarder.Config{})
		testenv.Eventually(t, deadline, 10*time.Millisecond, func() (bool, string) {
			n, lastError := b.waiting(t)
			return n == 1 && strings.Contains(lastError, "elsewhere"), lastError
		})
		require.Equal(t, []string{"2"}, to.ids(""))
	})
}

func TestForwardersShareThePartitionsAndTakeOver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		var to broker
		cfg := forwarder.Config{LeaseTTL: time.Second}
		stop := b.run(t, &to, cfg)
		b.run(t, &to, cfg)
		b.run(t, &to, cfg)
		shares := func() map[string]int {
			leases, err := b.st.Leases(t.Context(), "outbox/")
			require.NoError(t, err)
			owned := map[string]int{}
			for _, l := range leases {
				if l.Owner != "" && l.ExpiresIn > 0 {
					owned[l.Owner]++
				}
			}
			return owned
		}
		all := func(owners, atMost int) func() (bool, string) {
			return func() (bool, string) {
				owned := shares()
				sum := 0
				for _, n := range owned {
					sum += n
					if n > atMost {
						return false, fmt.Sprint(owned)
					}
				}
				return len(owned) == owners && sum == store.OutboxPartitions, fmt.Sprint(owned)
			}
		}
		testenv.Eventually(t, deadline, 20*time.Millisecond, all(3, 6))
		stop()
		testenv.Eventually(t, deadline, 20*time.Millisecond, all(2, 8))
		for k := range 50 {
			key := fmt.Sprintf("k%d-", k)
			b.publish(t, "topic", key, sequence(key, 5)...)
		}
		b.eventuallyWaiting(t, 0)
		require.Len(t, to.ids(""), 250)
	})
}

func TestAForwarderThatLostItsLeaseStopsSending(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		if b.st.Dialect() == store.SQLite {
			return // its lease lasts until somebody takes it
		}
		var to broker
		b.run(t, &to, forwarder.Config{LeaseTTL: 900 * time.Millisecond})
		// Another owner takes everything for ever.
		_, err := b.db.ExecContext(t.Context(), "UPDATE headrace_leases SET owner = 'thief', epoch = epoch + 1")
		require.NoError(t, err)
		testenv.Eventually(t, deadline, 20*time.Millisecond, func() (bool, string) {
			_, err := b.db.ExecContext(t.Context(),
				"UPDATE headrace_leases SET owner = 'thief', epoch = epoch + 1, expires_at = "+map[store.Dialect]string{
					store.Postgres: "now() + interval '1 hour'", store.MySQL: "UTC_TIMESTAMP() + INTERVAL 1 HOUR",
				}[b.st.Dialect()]+" WHERE name LIKE 'outbox/%'")
			require.NoError(t, err)
			probe := message.NewMessage("probe", nil)
			before := len(to.ids(""))
			require.NoError(t, b.outbox.Publish(t.Context(), "topic", probe))
			n, _ := b.waiting(t)
			return n > 1 && len(to.ids("")) == before, "still sending"
		})
	})
}

func TestCloseFinishesAndConfirmsWhatIsInFlight(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		entered, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		to := broker{refuse: func(string, *message.Message) error {
			once.Do(func() { close(entered); <-release })
			return nil
		}}
		stop := b.run(t, &to, forwarder.Config{})
		b.publish(t, "topic", "k", sequence("m", 100)...)
		<-entered
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		close(release)
		<-stopped
		n, _ := b.waiting(t)
		require.EqualValues(t, 100-len(to.ids("")), n, "what was sent is confirmed, what wasn't is kept")
		leases, err := b.st.Leases(t.Context(), "")
		require.NoError(t, err)
		for _, l := range leases {
			require.Empty(t, l.Owner)
		}
	})
}

func TestPublishRefusesWhatCannotBeSentAndWritesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		good := message.NewMessage("1", nil)
		require.ErrorIs(t, b.outbox.Publish(ctx, "topic", good, message.NewMessage("", nil)), forwarder.ErrNoUUID)
		bad := message.NewMessage("2", nil)
		bad.Metadata["x"] = "a\x00b"
		require.ErrorIs(t, b.outbox.Publish(ctx, "topic", good, bad), store.ErrContent)
		require.ErrorContains(t, b.outbox.Publish(ctx, "", good), "topic is empty")
		require.ErrorContains(t, b.outbox.Publish(ctx, "topic", nil), "nil")
		keyed, err := forwarder.NewOutbox(b.st, forwarder.OutboxConfig{Key: keys.FromJSON("id")})
		require.NoError(t, err)
		require.ErrorIs(t, keyed.Publish(ctx, "topic", good), keys.ErrNoKey)
		n, _ := b.waiting(t)
		require.Zero(t, n)
	})
}

func TestPublishersJoinTheTransactionOfTheirContext(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		boom := errors.New("boom")
		publishIn := func(ctx context.Context) error {
			msg := message.NewMessageWithContext(ctx, "1", nil)
			return b.outbox.Publisher().Publish("topic", msg)
		}
		require.ErrorIs(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			require.NoError(t, publishIn(ctx))
			return boom
		}), boom)
		n, _ := b.waiting(t)
		require.Zero(t, n)
		require.NoError(t, b.st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error { return publishIn(ctx) }))
		n, _ = b.waiting(t)
		require.EqualValues(t, 1, n)

		tx, err := b.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		require.NoError(t, b.outbox.TxPublisher(t.Context(), tx).Publish("topic", message.NewMessage("2", nil)))
		require.NoError(t, tx.Rollback())
		n, _ = b.waiting(t)
		require.EqualValues(t, 1, n)
	})
}

func TestAForwarderWhoseLeasesCouldNotBeNamedIsRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		_, err := forwarder.New(b.st, map[string]message.Publisher{"default": &broker{}}, forwarder.Config{Name: "order service"})
		require.ErrorContains(t, err, "Config.Name")
	})
}
