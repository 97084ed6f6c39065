package middleware_test

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

type bundle struct {
	st     *store.Store
	db     *sql.DB
	outbox *forwarder.Outbox
}

func setup(t *testing.T, kind string) *bundle {
	t.Helper()
	return setupOn(t, kind, testenv.Database(t, kind), true)
}

// setupOn uses a database that others may use, too; the first one makes its table.
func setupOn(t *testing.T, kind, address string, first bool) *bundle {
	t.Helper()
	db := testenv.Open(t, address)
	dialect := map[string]store.Dialect{"postgres": store.Postgres, "mariadb": store.MySQL, "sqlite": store.SQLite}[kind]
	st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	if first {
		_, err = db.ExecContext(t.Context(), "CREATE TABLE stock (product int PRIMARY KEY, quantity int NOT NULL)")
		require.NoError(t, err)
		_, err = db.ExecContext(t.Context(), "INSERT INTO stock VALUES (1, 0)")
		require.NoError(t, err)
	}
	outbox, err := forwarder.NewOutbox(st, forwarder.OutboxConfig{})
	require.NoError(t, err)
	return &bundle{st, db, outbox}
}

func (b *bundle) quantity(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT quantity FROM stock").Scan(&n))
	return n
}

func (b *bundle) dedupe(t *testing.T) *middleware.Dedupe {
	t.Helper()
	d, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: "stock.add", Outbox: b.outbox})
	require.NoError(t, err)
	return d
}

func (b *bundle) add(msg *message.Message) ([]*message.Message, error) {
	_, err := store.JoinDB(b.st).ExecContext(msg.Context(), "UPDATE stock SET quantity = quantity + 1")
	return nil, err
}

func eachDatabase(t *testing.T, f func(t *testing.T, b *bundle)) {
	t.Helper()
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, setup(t, kind))
		})
	}
}

func TestAMessageTakesEffectOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		handler := b.dedupe(t).Middleware(b.add)
		for range 3 {
			_, err := handler(message.NewMessage("1", nil))
			require.NoError(t, err)
		}
		require.Equal(t, 1, b.quantity(t))
	})
}

func TestAFailedMessageIsNotRemembered(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		boom := errors.New("boom")
		calls := 0
		handler := b.dedupe(t).Middleware(func(msg *message.Message) ([]*message.Message, error) {
			calls++
			if _, err := b.add(msg); err != nil {
				return nil, err
			}
			if calls == 1 {
				return nil, boom
			}
			return nil, nil
		})
		_, err := handler(message.NewMessage("1", nil))
		require.ErrorIs(t, err, boom)
		_, err = handler(message.NewMessage("1", nil))
		require.NoError(t, err)
		require.Equal(t, 1, b.quantity(t))
	})
}

func TestCopiesAtOnceTakeEffectOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		// Two instances, so that copies meet in the database and in the process.
		one := b.dedupe(t).Middleware(b.add)
		other := b.dedupe(t).Middleware(b.add)
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				handler := one
				if i%2 == 0 {
					handler = other
				}
				_, err := handler(message.NewMessage("1", nil))
				require.NoError(t, err)
			})
		}
		wg.Wait()
		require.Equal(t, 1, b.quantity(t))
	})
}

func TestReturnedMessagesAreSentWithTheEffects(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		published := make(chan *message.Message, 10)
		to := publisherFunc(func(_ string, msgs ...*message.Message) error {
			for _, m := range msgs {
				published <- m
			}
			return nil
		})
		f, err := forwarder.New(b.st, map[string]message.Publisher{"default": to}, forwarder.Config{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		t.Cleanup(func() { cancel(); require.NoError(t, <-done) })

		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		sub := &oneSubscriber{ch: make(chan *message.Message)}
		router.AddMiddleware(b.dedupe(t).Middleware)
		router.AddHandler("h", "in", sub, "out", publisherFunc(func(string, ...*message.Message) error {
			return errors.New("the router must have nothing left to publish")
		}), func(msg *message.Message) ([]*message.Message, error) {
			_, err := b.add(msg)
			return []*message.Message{message.NewMessage("out-"+msg.UUID, []byte("x"))}, err
		})
		go func() { _ = router.Run(ctx) }()
		for range 2 {
			msg := message.NewMessage("1", nil)
			sub.ch <- msg
			select {
			case <-msg.Acked():
			case <-msg.Nacked():
				t.Fatal("nacked")
			}
		}
		got := <-published
		require.Equal(t, "out-1", got.UUID)
		testenv.Eventually(t, 10*time.Second, 10*time.Millisecond, func() (bool, string) {
			counts, err := b.st.CountOutbox(ctx)
			require.NoError(t, err)
			return len(counts) == 0, "outbox not empty"
		})
		require.Empty(t, published)
		require.Equal(t, 1, b.quantity(t))
		close(sub.ch)
		require.NoError(t, router.Close())
	})
}

type publisherFunc func(string, ...*message.Message) error

func (f publisherFunc) Publish(topic string, msgs ...*message.Message) error {
	return f(topic, msgs...)
}
func (publisherFunc) Close() error { return nil }

type oneSubscriber struct{ ch chan *message.Message }

func (s *oneSubscriber) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return s.ch, nil
}
func (s *oneSubscriber) Close() error { return nil }

func TestAReturnedMessageWithoutMetadataGetsTheCorrelationID(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		in := message.NewMessage("1", nil)
		in.SetContext(context.Background())
		wmiddleware.SetCorrelationID("c", in)
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		sub := &oneSubscriber{ch: make(chan *message.Message)}
		router.AddMiddleware(b.dedupe(t).Middleware)
		router.AddHandler("h", "in", sub, "out", publisherFunc(nil), func(*message.Message) ([]*message.Message, error) {
			return []*message.Message{{UUID: "out"}}, nil
		})
		ended := make(chan error, 1)
		go func() { ended <- router.Run(t.Context()) }()
		sub.ch <- in
		select {
		case <-in.Acked():
		case <-in.Nacked():
			t.Error("nacked")
		}
		close(sub.ch)
		require.NoError(t, <-ended)
		counts, err := b.st.CountOutbox(t.Context())
		require.NoError(t, err)
		require.Len(t, counts, 1)
	})
}

func TestServicesThatCouldBecomeOneConsumerAreRefused(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		_, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Service: "shop.eu"})
		require.ErrorContains(t, err, "dot")
	})
}
