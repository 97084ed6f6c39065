package scenario

import (
	"context"
	"database/sql"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// patience bounds every wait for something that should come soon: long, because
// it is only used up by a test that fails, and because on the Postgres broker
// other tests' open transactions on the server hold messages up.
const patience = 2 * time.Minute

// Kinds of database and broker that single tests name.
const (
	postgres = "postgres"
	mariadb  = "mariadb"
	sqlite   = "sqlite"

	mem     = "mem"
	kafka   = "kafka"
	sqs     = "sqs"
	sqsFIFO = "sqs-fifo"
)

// pair is a broker and the database of the services that use it.
type pair struct{ broker, database string }

// everyPair is each broker with each database.
func everyPair(t *testing.T) []pair {
	t.Helper()
	brokers, databases := testenv.Brokers(t), testenv.Databases(t)
	pairs := make([]pair, 0, len(brokers)*len(databases))
	for _, broker := range brokers {
		for _, database := range databases {
			pairs = append(pairs, pair{broker, database})
		}
	}
	return pairs
}

// on is each of the brokers with each of the databases, for scenarios that name
// theirs. It is empty where a -short run has none of them.
func on(t *testing.T, brokers, databases []string) (pairs []pair) {
	t.Helper()
	for _, p := range everyPair(t) {
		if slices.Contains(brokers, p.broker) && slices.Contains(databases, p.database) {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// onAndOff plays a scenario with its protection and without. play returns what
// the invariant check found wrong.
func onAndOff(t *testing.T, pairs []pair, play func(t *testing.T, p pair, protected bool) (damage []string)) {
	t.Helper()
	t.Parallel()
	for _, p := range pairs {
		t.Run(p.broker+"/"+p.database+"/protected", func(t *testing.T) {
			t.Parallel()
			require.Empty(t, play(t, p, true))
		})
		t.Run(p.broker+"/"+p.database+"/unprotected", func(t *testing.T) {
			t.Parallel()
			damage := play(t, p, false)
			require.NotEmpty(t, damage, "the check found nothing wrong with the protection off")
			t.Logf("without the protection: %s", strings.Join(damage, "; "))
		})
	}
}

// world is one broker and one database with what hangs on them.
type world struct {
	pair

	t *testing.T
	// dbURL and brokerURL let other processes join.
	dbURL, brokerURL string
	db               *sql.DB
	st               *store.Store
	outbox           *forwarder.Outbox
	bus              *brokers.Broker
	logger           *logbook
}

type option func(w *world, cfg *store.Config)

// withStore changes the store's configuration.
func withStore(change func(*store.Config)) option {
	return func(_ *world, cfg *store.Config) { change(cfg) }
}

// withBroker gives the broker's URL, for the brokers that tests share.
func withBroker(rawURL string) option {
	return func(w *world, _ *store.Config) { w.brokerURL = rawURL }
}

// withDatabase gives the database's URL, for databases that tests share.
func withDatabase(rawURL string) option {
	return func(w *world, _ *store.Config) { w.dbURL = rawURL }
}

func open(t *testing.T, p pair, options ...option) *world {
	t.Helper()
	w := &world{pair: p, t: t, logger: newLogbook(t)}
	cfg := store.Config{Dialect: dialectOf(p.database), Migrate: true, Logger: w.logger, WarnTxLonger: -1}
	for _, o := range options {
		o(w, &cfg)
	}
	if w.dbURL == "" {
		w.dbURL = testenv.Database(t, p.database)
	}
	if w.brokerURL == "" {
		w.brokerURL = brokerURL(t, p.broker)
	}
	w.db = testenv.Open(t, w.dbURL)
	if p.broker == postgres {
		t.Cleanup(func() { explainPostgres(t, w.brokerURL) })
	}
	var err error
	w.st, err = store.Open(t.Context(), w.db, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.st.Close()) })
	w.outbox, err = forwarder.NewOutbox(w.st, forwarder.OutboxConfig{})
	require.NoError(t, err)
	w.bus = w.openBroker(brokers.Config{})
	return w
}

func (w *world) openBroker(cfg brokers.Config) *brokers.Broker {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	cfg.Openers, cfg.Logger = all.Openers(), w.logger
	bus, err := brokers.Open(ctx, w.brokerURL, cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, bus.Close()) })
	return bus
}

// explainPostgres says, of a test that failed, who else was writing on the server.
// The Postgres broker delivers a message when all transactions that began before
// it was sent have ended, whoever's they are: a long one elsewhere is waited for
// once for each message that the test sends, and can use its patience up.
func explainPostgres(t *testing.T, rawURL string) {
	t.Helper()
	if !t.Failed() {
		return
	}
	rows, err := testenv.Open(t, rawURL).QueryContext(context.WithoutCancel(t.Context()),
		`SELECT concat_ws(' ', pid, application_name, 'open for', clock_timestamp() - xact_start, state, left(query, 100))
		FROM pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start`)
	if err != nil {
		t.Logf("who else writes on the server is not known: %v", err)
		return
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if rows.Scan(&line) == nil {
			t.Logf("a transaction that has written is open on the server: %s", line)
		}
	}
	if err := rows.Err(); err != nil {
		t.Logf("who else writes on the server is not known in full: %v", err)
	}
}

func dialectOf(database string) store.Dialect {
	return map[string]store.Dialect{postgres: store.Postgres, mariadb: store.MySQL, sqlite: store.SQLite}[database]
}

// brokerURL opens a broker on which unique topics are enough to be alone. What
// failed comes again quickly.
func brokerURL(t *testing.T, kind string) string {
	t.Helper()
	switch kind {
	case kafka:
		return withOptions(testenv.Kafka(t), "partitions=2&nack_delay=20ms&nack_delay_max=100ms&commit_interval=100ms")
	case sqs:
		return withOptions(testenv.SQS(t), "wait=1s&receivers=4&nack_delay=20ms&nack_delay_max=100ms")
	case sqsFIFO:
		return withOptions(testenv.SQS(t), "fifo=true&wait=1s&receivers=4&nack_delay=20ms&nack_delay_max=100ms")
	case postgres:
		return withOptions(testenv.Postgres(t), "poll_max=20ms&nack_delay=5ms")
	case mariadb:
		return withOptions(testenv.MariaDB(t), "poll_max=20ms&nack_delay=5ms")
	}
	return "mem:?nack_delay=5ms"
}

// memFile is the embedded broker for several processes.
func memFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "queue.db")
	return "mem:?nack_delay=5ms&poll=10ms&file=" + url.QueryEscape(file)
}

func withOptions(rawURL, query string) string {
	if strings.Contains(rawURL, "?") {
		return rawURL + "&" + query
	}
	return rawURL + "?" + query
}

// another opens the same database as another process would: a store with a pool
// of its own.
func (w *world) another(change func(*store.Config)) *store.Store {
	w.t.Helper()
	cfg := store.Config{Dialect: dialectOf(w.database), Logger: w.logger, WarnTxLonger: -1}
	if change != nil {
		change(&cfg)
	}
	st, err := store.Open(w.t.Context(), testenv.Open(w.t, w.dbURL), cfg)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, st.Close()) })
	return st
}

// joined is the handle that existing handlers would use: it joins the context's
// unit of work, and without one each statement stands alone.
func (w *world) joined() *sqlx.DB { return store.JoinDBX(w.st) }

// exec runs a statement with "?" placeholders the way a handler would.
func (w *world) exec(ctx context.Context, query string, args ...any) error {
	db := w.joined()
	_, err := db.ExecContext(ctx, db.Rebind(query), args...)
	return err
}

// must runs statements of the test itself.
func (w *world) must(statements ...string) {
	w.t.Helper()
	for _, statement := range statements {
		_, err := w.db.ExecContext(w.t.Context(), statement)
		require.NoError(w.t, err, statement)
	}
}

// count reads one number from the user's own tables.
func (w *world) count(query string, args ...any) (n int) {
	w.t.Helper()
	row := w.db.QueryRowContext(w.t.Context(), sqlx.Rebind(sqlx.BindType(bindName(w.database)), query), args...)
	require.NoError(w.t, row.Scan(&n), query)
	return n
}

func bindName(database string) string {
	if database == postgres {
		return "postgres"
	}
	return "mysql"
}

// topic returns a topic of this test's own.
func (w *world) topic(prefix string) string { return testenv.Topic(w.t, prefix) }

// dedupe returns the protection of most scenarios.
func (w *world) dedupe(service string, change ...func(*middleware.DedupeConfig)) message.HandlerMiddleware {
	w.t.Helper()
	cfg := middleware.DedupeConfig{Service: service, Outbox: w.outbox, Logger: w.logger}
	for _, c := range change {
		c(&cfg)
	}
	d, err := middleware.NewDedupe(w.st, cfg)
	require.NoError(w.t, err)
	return d.Middleware
}

// forward relays the outbox to the broker until the test ends or the returned
// function is called.
func (w *world) forward(cfg forwarder.Config, decorate ...func(message.Publisher) message.Publisher) (stop func()) {
	w.t.Helper()
	publisher := w.bus.Publisher
	for _, d := range decorate {
		publisher = d(publisher)
	}
	_, stop = w.runForwarder(w.t.Context(), w.st, cfg, map[string]message.Publisher{forwarder.DefaultDestination: publisher})
	return stop
}

func (w *world) runForwarder(
	ctx context.Context, st *store.Store, cfg forwarder.Config, destinations map[string]message.Publisher,
) (f *forwarder.Forwarder, stop func()) {
	w.t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = w.logger
	}
	if cfg.RescanInterval == 0 {
		cfg.RescanInterval = 100 * time.Millisecond
	}
	if cfg.MaxRetryBackoff == 0 {
		cfg.MaxRetryBackoff = 200 * time.Millisecond
	}
	f, err := forwarder.New(st, destinations, cfg)
	require.NoError(w.t, err)
	done := make(chan error, 1)
	go func() { done <- f.Run(context.WithoutCancel(ctx)) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		require.NoError(w.t, f.Close())
		require.NoError(w.t, <-done)
	}
	w.t.Cleanup(stop)
	receive(w.t, f.Running(), "the forwarder's start")
	return f, stop
}

// sent waits until nothing is left in the outbox.
func (w *world) sent() {
	w.t.Helper()
	testenv.Eventually(w.t, patience, 10*time.Millisecond, func() (bool, string) {
		n := w.count("SELECT count(*) FROM headrace_outbox")
		return n == 0, strings.Repeat("row ", n)
	})
}

// settled waits until a group has acked all messages of a topic, where the
// broker can tell.
func (w *world) settled(topic, group string) {
	w.t.Helper()
	if w.bus.Capabilities.Backlog == nil {
		return
	}
	testenv.Eventually(w.t, patience, 10*time.Millisecond, func() (bool, string) {
		n, err := w.bus.Capabilities.Backlog(w.t.Context(), topic, group)
		require.NoError(w.t, err)
		return n == 0, "messages are waiting"
	})
}

// receive waits for a signal.
func receive[T any](t *testing.T, signal <-chan T, what string) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-signal:
	case <-timer.C:
		t.Fatalf("waited %s for %s", patience, what)
	}
	return v
}

// tick is how often a state of the outside world is asked for.
const tick = 10 * time.Millisecond
