package headrace_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// bundle is a database with a table, and a broker in memory.
type bundle struct {
	db  *sql.DB
	bus *gochannel.GoChannel
	cfg headrace.Config
}

func setup(t *testing.T) *bundle {
	t.Helper()
	db := testenv.Open(t, testenv.SQLite(t))
	_, err := db.ExecContext(t.Context(), "CREATE TABLE effects (id VARCHAR(64))")
	require.NoError(t, err)
	bus := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	return &bundle{db: db, bus: bus, cfg: headrace.Config{Service: "test", Publisher: bus, Migrate: true}}
}

func (b *bundle) open(t *testing.T) *headrace.Plugin {
	t.Helper()
	hr, err := headrace.New(t.Context(), b.db, b.cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, hr.Close()) })
	return hr
}

// route runs a router with one handler until the test ends.
func (b *bundle) route(t *testing.T, hr *headrace.Plugin, handler message.NoPublishHandlerFunc) {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("effect", "in", b.bus, handler)
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		require.NoError(t, router.Close())
		require.NoError(t, <-done)
	})
	<-router.Running()
}

func (b *bundle) effects(t *testing.T) (n int) {
	t.Helper()
	require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT count(*) FROM effects").Scan(&n))
	return n
}

func (b *bundle) out(t *testing.T) <-chan *message.Message {
	t.Helper()
	out, err := b.bus.Subscribe(t.Context(), "out")
	require.NoError(t, err)
	return out
}

// write is a handler that uses its own database and publishes by hand.
func write(db *sql.DB, publisher message.Publisher) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		if _, err := db.ExecContext(msg.Context(), "INSERT INTO effects VALUES (?)", msg.UUID); err != nil {
			return err
		}
		out := message.NewMessage("of-"+msg.UUID, msg.Payload)
		out.SetContext(msg.Context())
		return publisher.Publish("out", out)
	}
}

// verdicts passes on what Dedupe decided.
type verdicts chan middleware.Verdict

func (v verdicts) OnVerdict(verdict middleware.Verdict) { v <- verdict }

func TestAttachedHandlersTakeEffectOnceAndTheirMessagesAreSent(t *testing.T) {
	t.Parallel()
	b := setup(t)
	decided := make(verdicts, 10)
	b.cfg.Hooks = []any{decided}
	hr := b.open(t)
	out := b.out(t)
	b.route(t, hr, write(hr.DB(), hr.Publisher()))
	for range 2 {
		require.NoError(t, b.bus.Publish("in", message.NewMessage("1", nil)))
	}
	require.ElementsMatch(t, []store.Verdict{store.Applied, store.Duplicate},
		[]store.Verdict{(<-decided).Verdict, (<-decided).Verdict})
	require.Equal(t, 1, b.effects(t))
	msg := <-out
	require.Equal(t, "of-1", msg.UUID)
	msg.Ack()
	require.NoError(t, hr.Drain(t.Context()))
}

func TestTheForwarderIsNamedAfterTheHostAndServesTheService(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, service := range []string{"shop", "Lädchen", "a/b c's \\ \"?%", strings.Repeat("s", 100)} {
		b := setup(t)
		b.cfg.Service = service
		hr := b.open(t)
		b.route(t, hr, func(*message.Message) error { return nil })
		<-hr.Running()
		leases, err := hr.Store().Leases(t.Context(), "outbox/")
		require.NoError(t, err)
		require.NotEmpty(t, leases)
		require.True(t, strings.HasPrefix(leases[0].Owner, host+"-"), leases[0].Owner)
		partition, ok := forwarder.LeasedPartition(leases[0].Name)
		require.True(t, ok, leases[0].Name)
		require.Equal(t, service, partition.Service)

		require.NoError(t, hr.Publisher().Publish("out", message.NewMessage("1", nil)))
		require.NoError(t, hr.Drain(t.Context()))
	}
}

func TestAFailedHandlerLeavesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hr := b.open(t)
	boom := errors.New("boom")
	handler := write(hr.DB(), hr.Publisher())
	protected := hr.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		require.NoError(t, handler(msg))
		return nil, boom
	})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	failed := make(chan error, 10)
	router.AddConsumerHandler("effect", "in", b.bus, func(msg *message.Message) error {
		_, err := protected(msg)
		failed <- err
		return nil
	})
	go func() { _ = router.Run(t.Context()) }()
	<-router.Running()
	require.NoError(t, b.bus.Publish("in", message.NewMessage("1", nil)))
	require.ErrorIs(t, <-failed, boom)
	require.Zero(t, b.effects(t))
	counts, err := hr.Store().CountOutbox(t.Context())
	require.NoError(t, err)
	require.Empty(t, counts)
	require.NoError(t, router.Close())
}

func TestObservingChangesNothingButRemembers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	decided := make(verdicts, 10)
	b.cfg.Hooks, b.cfg.Observe = []any{decided}, true
	hr := b.open(t)
	require.Same(t, b.db, hr.DB())
	b.route(t, hr, write(hr.DB(), hr.Publisher()))
	for _, want := range []store.Verdict{store.Applied, store.Duplicate} {
		require.NoError(t, b.bus.Publish("in", message.NewMessage("1", nil)))
		verdict := <-decided
		require.Equal(t, want, verdict.Verdict)
		require.True(t, verdict.Observed)
	}
	require.Equal(t, 2, b.effects(t), "observing skips nothing")
	require.NoError(t, hr.Publisher().Close())
	require.NoError(t, b.bus.Publish("out", message.NewMessage("3", nil)), "a router's close must not reach the publisher")
}

func TestStrictRefusesWhatForgetsTheContext(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Strict = true
	hr := b.open(t)
	_, err := hr.DB().ExecContext(t.Context(), "INSERT INTO effects VALUES ('x')")
	require.ErrorIs(t, err, store.ErrOutside)
	require.ErrorIs(t, hr.Publisher().Publish("out", message.NewMessage("1", nil)), store.ErrOutside)
	_, err = hr.DB().ExecContext(store.MeantOutside(t.Context()), "INSERT INTO effects VALUES ('x')")
	require.NoError(t, err)
}

// A key function that finds no key in what is put aside would bring it back for
// ever, and so would strict mode: a PoisonQueue publishes outside of the unit
// that has failed.
func TestPoisonQueuePutsAsideWhatHasNoKeyAlsoInStrictMode(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Strict, b.cfg.Key = true, keys.FromJSON("product")
	hr := b.open(t)
	aside := b.out(t)
	poison, err := wmiddleware.PoisonQueue(hr.Publisher(), "out")
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(poison)
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("effect", "in", b.bus, func(msg *message.Message) error {
		if _, err := hr.DB().ExecContext(msg.Context(), "INSERT INTO effects VALUES (?)", msg.UUID); err != nil {
			return err
		}
		return errors.New("no sense in it")
	})
	done := make(chan error, 1)
	go func() { done <- router.Run(context.WithoutCancel(t.Context())) }()
	<-router.Running()
	require.NoError(t, b.bus.Publish("in", message.NewMessage("1", []byte("no JSON"))))
	msg := <-aside
	require.Equal(t, "1", msg.UUID)
	require.Contains(t, msg.Metadata.Get(wmiddleware.ReasonForPoisonedKey), "no sense in it")
	msg.Ack()
	require.Zero(t, b.effects(t))
	require.ErrorIs(t, hr.Publisher().Publish("out", message.NewMessage("2", []byte("no JSON"))), keys.ErrNoKey)
	require.NoError(t, router.Close())
	require.NoError(t, <-done)
}

func TestDrainSendsWhatIsLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	out := b.out(t)
	writer := b.open(t)
	for range 3 {
		require.NoError(t, writer.Publisher().Publish("out", message.NewMessage(watermill.NewUUID(), nil)))
	}
	require.NoError(t, writer.Close())
	require.NoError(t, b.open(t).Drain(t.Context()))
	for range 3 {
		(<-out).Ack()
	}
}

func TestADrainThatIsCutOffSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.cfg.Publisher, b.cfg.Hooks = refusing{}, []any{afterAFailure(cancel)}
	hr := b.open(t)
	require.NoError(t, hr.Publisher().Publish("out", message.NewMessage("1", nil)))
	err := hr.Drain(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, `1 for topic "out" of destination "default" (`)
	require.ErrorContains(t, err, "refused")
}

// afterAFailure is called when a failed publish was recorded.
type afterAFailure func()

func (f afterAFailure) OnPublish(stats forwarder.PublishStats) {
	if stats.Failed > 0 {
		f()
	}
}

type refusing struct{}

func (refusing) Publish(string, ...*message.Message) error { return errors.New("refused") }
func (refusing) Close() error                              { return nil }

func TestFurtherDestinationsHaveTheirOwnPublishers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	audit := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, audit.Close()) })
	heard, err := audit.Subscribe(t.Context(), "out")
	require.NoError(t, err)
	b.cfg.Destinations = map[string]message.Publisher{"audit": audit}
	hr := b.open(t)
	err = hr.PublisherFor("other").Publish("out", message.NewMessage("0", nil))
	require.ErrorContains(t, err, `there is no destination "other" in Config.Destinations; known are audit, default`)
	require.NoError(t, hr.PublisherFor("audit").Publish("out", message.NewMessage("1", nil)))
	require.NoError(t, hr.Drain(t.Context()))
	msg := <-heard
	require.Equal(t, "1", msg.UUID)
	msg.Ack()
}

func TestAPluginRunsOnce(t *testing.T) {
	t.Parallel()
	hr := setup(t).open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- hr.Run(ctx) }()
	<-hr.Running()
	require.ErrorContains(t, hr.Run(ctx), "running already")
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, hr.Close())
	require.NoError(t, hr.Close())
	require.ErrorIs(t, hr.Run(t.Context()), headrace.ErrClosed)
	require.ErrorIs(t, hr.Drain(t.Context()), headrace.ErrClosed)
}

func TestCloseEndsRun(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Purge.Consumers = []string{"test.effect"}
	hr := b.open(t)
	done := make(chan error, 1)
	go func() { done <- hr.Run(t.Context()) }()
	<-hr.Running()
	require.NoError(t, hr.Close())
	require.NoError(t, <-done)
}

func TestNewRefusesWhatCantWork(t *testing.T) {
	t.Parallel()
	b := setup(t)
	valid := b.cfg
	b.open(t) // makes the tables
	for name, c := range map[string]struct {
		change func(*headrace.Config)
		want   string
	}{
		"service":   {func(c *headrace.Config) { c.Service = "" }, "Config.Service is required"},
		"publisher": {func(c *headrace.Config) { c.Publisher = nil }, "Config.Publisher is required"},
		"destination": {func(c *headrace.Config) {
			c.Destinations = map[string]message.Publisher{"default": b.bus}
		}, "Config.Publisher's name"},
		"consumer": {func(c *headrace.Config) { c.Dedupe.Consumer = "x" }, "Config.Dedupe.Consumer"},
		"window":   {func(c *headrace.Config) { c.RedeliveryWindow = 30 * 24 * time.Hour }, "longer Window"},
		"purge": {func(c *headrace.Config) {
			c.Purge.Consumers, c.Purge.Schedule = []string{"x"}, "never"
		}, "cron expression"},
		"key": {func(c *headrace.Config) { c.Forwarder.LeaseTTL = 1; c.Key = keys.Default() }, "LeaseTTL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := valid
			c.change(&cfg)
			_, err := headrace.New(t.Context(), b.db, cfg)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := headrace.New(t.Context(), nil, valid)
	require.ErrorContains(t, err, "needs a *sql.DB")
}

func TestNewWithoutTheTablesSaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Migrate = false
	_, err := headrace.New(t.Context(), b.db, b.cfg)
	require.ErrorIs(t, err, store.ErrSchemaMissing)
	require.EqualError(t, err, "headrace: the schema is missing or too old: there is no table headrace_migrations: "+
		"run `headrace migrate up --db URL`, or set Migrate in headrace.Config (or store.Config)")
}
