package adopt_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/testenv"
)

// patience bounds each wait: a killed Kafka consumer is missed after ten seconds.
const patience = 90 * time.Second

// parts are the broker and the database of one run.
type parts struct {
	name       string
	broker, db string
	// own says that the program runs as it is, with its own Kafka and Postgres
	// code.
	own bool
}

// eachParts runs a test on every pair of broker and database.
func eachParts(t *testing.T, f func(t *testing.T, p parts)) {
	t.Helper()
	onParts(t, []func(testing.TB) parts{memSQLite, kafkaPostgres, postgresMariaDB}, f)
}

// inTheLongRun leaves a test to runs without -short: it builds programs and plays
// them for up to half a minute, and what it needs to find is found there.
func inTheLongRun(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a test for the long run: make test")
	}
}

// onParts runs a test on pairs; only on the first with -short.
func onParts(t *testing.T, pairs []func(testing.TB) parts, f func(t *testing.T, p parts)) {
	t.Helper()
	t.Parallel()
	if testing.Short() {
		pairs = pairs[:1]
	}
	for _, pair := range pairs {
		p := pair(t)
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f(t, p)
		})
	}
}

func memSQLite(t testing.TB) parts {
	t.Helper()
	file := url.QueryEscape(filepath.Join(t.TempDir(), "broker.db"))
	return parts{name: "mem-sqlite", broker: "mem:?file=" + file + "&ack_deadline=4s", db: testenv.SQLite(t)}
}

func kafkaPostgres(t testing.TB) parts {
	t.Helper()
	return parts{name: "kafka-postgres", broker: testenv.Kafka(t) + "?partitions=4", db: testenv.Postgres(t), own: true}
}

func postgresMariaDB(t testing.TB) parts {
	t.Helper()
	return parts{name: "postgres-mariadb", broker: testenv.Postgres(t), db: testenv.MariaDB(t)}
}

// environment is where one run of an example happens.
type environment struct {
	parts

	app      string
	topics   string // prefix
	opened   *brokers.Broker
	database *sql.DB
	partners *partners
}

func newEnvironment(t *testing.T, app string, p parts) *environment {
	t.Helper()
	e := &environment{parts: p, app: app, topics: testenv.Topic(t, "a") + "_", partners: newPartners(t)}

	u, err := dburl.Parse(p.db)
	require.NoError(t, err)
	e.database, err = u.ForService().Open()
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.database.Close()) })
	schema, err := os.ReadFile(filepath.Join(app, "schema.sql"))
	require.NoError(t, err)
	for statement := range strings.SplitSeq(string(schema), ";\n") {
		if strings.TrimSpace(statement) != "" {
			e.exec(t, statement)
		}
	}

	e.opened, err = brokers.Open(t.Context(), p.broker, brokers.Config{Openers: all.Openers()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.opened.Close()) })
	return e
}

func (e *environment) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := e.database.ExecContext(t.Context(), e.bind(statement), args...)
	require.NoError(t, err, statement)
}

// bind turns "?" into the database's placeholders.
func (e *environment) bind(query string) string {
	if !strings.HasPrefix(e.db, "postgres") {
		return query
	}
	for i := 1; strings.Contains(query, "?"); i++ {
		query = strings.Replace(query, "?", fmt.Sprintf("$%d", i), 1)
	}
	return query
}

// start runs a binary in the environment.
func (e *environment) start(t *testing.T, binary, worker string, env ...string) *process {
	t.Helper()
	broker := e.broker
	if e.own {
		u, err := url.Parse(broker)
		require.NoError(t, err)
		broker = u.Host
	}
	return start(t, binary, worker, append(env,
		"DB="+e.db, "BROKER="+broker, "TOPICS="+e.topics, "PARTNERS="+e.partners.url)...)
}

// stage is a consumer group of a topic.
type stage struct{ topic, group string }

// drained waits until everything was handled, following the messages' way: when
// a stage has nothing left and the outbox is empty, nothing comes to the next
// ones any more.
func (e *environment) drained(t *testing.T, stages ...stage) {
	t.Helper()
	for _, s := range stages {
		testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
			n, err := e.opened.Capabilities.Backlog(t.Context(), e.topics+s.topic, s.group)
			return err == nil && n == 0, fmt.Sprintf("backlog of %s at %s: %d, %v", s.group, s.topic, n, err)
		})
		e.outboxEmpty(t)
	}
}

// outboxEmpty waits until the outbox is empty, where there is one.
func (e *environment) outboxEmpty(t *testing.T) {
	t.Helper()
	testenv.Eventually(t, patience, 50*time.Millisecond, func() (bool, string) {
		var n int
		err := e.database.QueryRowContext(t.Context(), "SELECT count(*) FROM headrace_outbox").Scan(&n)
		if err != nil && t.Context().Err() == nil {
			return true, "there is none"
		}
		return n == 0, fmt.Sprintf("%d in the outbox", n)
	})
}

// sums reads a query of a name and a number into the ledger.
func (e *environment) sums(ctx context.Context, t *testing.T, ledger map[string]int, prefix, query string) {
	t.Helper()
	rows, err := e.database.QueryContext(ctx, query)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int
		require.NoError(t, rows.Scan(&name, &n))
		ledger[prefix+name] = n
	}
	require.NoError(t, rows.Err())
}
