package crash_test

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

// combination is a broker on a store.
type combination struct {
	name     string
	database func(t testing.TB) string
	// broker returns the broker's URL. It may be the database's own.
	broker func(t testing.TB, database string) string
	// options make it redeliver soon after a death.
	options string
	// impatient makes it deliver again what is not acked soon; "" where there is
	// no such deadline.
	impatient string
	// join: handlers work in the SQL broker's own transaction.
	join bool
	// oneProcess: SQLite's writers belong in one process.
	oneProcess bool
}

func sameDatabase(_ testing.TB, database string) string { return database }

const (
	sqlOptions   = "poll_max=20ms&nack_delay=20ms&drain=5s&pool=4"
	sqlImpatient = "ack_deadline=500ms"
	sqsOptions   = "visibility=2s&wait=1s&receivers=4&nack_delay=20ms&drain=5s"
)

// combinations are the brokers and stores to test; with -short those that need
// no service.
func combinations(t testing.TB) []combination {
	t.Helper()
	embedded := combination{
		name: "mem on sqlite", database: testenv.SQLite, oneProcess: true,
		broker: func(t testing.TB, _ string) string {
			return "mem:?file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue.db"))
		},
		options: "poll=10ms&nack_delay=20ms&ack_deadline=500ms&drain=5s",
	}
	if testing.Short() {
		return []combination{embedded}
	}
	return []combination{
		embedded,
		{
			name: "kafka on postgres", database: testenv.Postgres,
			broker: func(t testing.TB, _ string) string { return testenv.Kafka(t) },
			// The shortest session that a broker allows by default.
			options: "partitions=4&session_timeout=6s&heartbeat=500ms&commit_interval=100ms&nack_delay=20ms&drain=5s",
		},
		{
			name: "sqs on postgres", database: testenv.Postgres,
			broker:  func(t testing.TB, _ string) string { return testenv.SQS(t) },
			options: sqsOptions, impatient: "visibility=1s",
		},
		{
			name: "sqs fifo on postgres", database: testenv.Postgres,
			broker:  func(t testing.TB, _ string) string { return testenv.SQS(t) },
			options: sqsOptions + "&fifo=true", impatient: "visibility=1s",
		},
		{
			name: "postgres on postgres", database: testenv.Postgres, broker: sameDatabase,
			options: sqlOptions, impatient: sqlImpatient,
		},
		{
			name: "mariadb on mariadb", database: testenv.MariaDB, broker: sameDatabase,
			options: sqlOptions, impatient: sqlImpatient,
		},
		{
			name: "postgres on postgres, joined", database: testenv.Postgres, broker: sameDatabase,
			options: sqlOptions + "&join=true", impatient: sqlImpatient, join: true,
		},
		{
			name: "mariadb on mariadb, joined", database: testenv.MariaDB, broker: sameDatabase,
			options: sqlOptions + "&join=true", impatient: sqlImpatient, join: true,
		},
	}
}

// onEach runs a test on every combination, in parallel.
func onEach(t *testing.T, test func(t *testing.T, c combination)) {
	t.Helper()
	onThose(t, func(combination) bool { return true }, test)
}

// onThose leaves out combinations that the test says nothing of, so that none
// counts as passed where nothing was tried.
func onThose(t *testing.T, chosen func(combination) bool, test func(t *testing.T, c combination)) {
	t.Helper()
	t.Parallel()
	for _, c := range combinations(t) {
		if !chosen(c) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// withOptions returns the URL with options set, the last of a name.
func withOptions(t testing.TB, rawURL, options string) string {
	t.Helper()
	parsed, err := url.Parse(rawURL)
	require.NoError(t, err)
	query := parsed.Query()
	for option := range strings.SplitSeq(options, "&") {
		name, value, _ := strings.Cut(option, "=")
		query.Set(name, value)
	}
	parsed.RawQuery = query.Encode()
	return parsed.String()
}
