package testenv_test

import (
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

// recorder stands in for a test that is expected to fail.
type recorder struct {
	testing.TB

	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failure = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// failureOf runs f as a test would run and returns what it failed with, or "".
// The string that f returns is dropped; it lets testenv's functions stand for f.
func failureOf(t *testing.T, f func(testing.TB) string) string {
	t.Helper()

	stand := &recorder{TB: t}
	done := make(chan struct{})

	go func() {
		defer close(done)

		f(stand)
	}()
	<-done

	return stand.failure
}

func TestMissingServiceFailsTheTestAndSaysHowToBringItUp(t *testing.T) {
	for variable, ask := range map[string]func(testing.TB) string{
		"HEADRACE_TEST_KAFKA":    testenv.Kafka,
		"HEADRACE_TEST_SQS":      testenv.SQS,
		"HEADRACE_TEST_POSTGRES": testenv.Postgres,
		"HEADRACE_TEST_MARIADB":  testenv.MariaDB,
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "")

			failure := failureOf(t, ask)
			require.Contains(t, failure, variable)
			require.Contains(t, failure, "scripts/brokers start")
			require.Contains(t, failure, `eval "$(scripts/brokers env)"`)
		})
	}
}

func TestMalformedServiceURLFailsTheTestWithoutShowingIt(t *testing.T) {
	t.Setenv("HEADRACE_TEST_POSTGRES", "postgres://user:secret@%zz")

	failure := failureOf(t, testenv.Postgres)
	require.Contains(t, failure, "HEADRACE_TEST_POSTGRES must be a URL")
	require.NotContains(t, failure, "secret")
}

func TestEachDatabaseIsEmptyAndItsOwn(t *testing.T) {
	t.Parallel()

	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()

			for range 2 {
				// The same table twice: it would exist already in a shared schema.
				db := testenv.Open(t, testenv.Database(t, kind))
				_, err := db.ExecContext(t.Context(), "CREATE TABLE probe (id INTEGER)")
				require.NoError(t, err)
			}
		})
	}
}

func TestDatabaseIsDroppedAtTheEndOfTheTest(t *testing.T) {
	t.Parallel()

	const count = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = '%s'"

	name := map[string]*regexp.Regexp{
		"postgres": regexp.MustCompile(`search_path=(\w+)`),
		"mariadb":  regexp.MustCompile(`/(\w+)$`),
	}

	for _, kind := range testenv.Databases(t) {
		if kind == "sqlite" { // a file in the test's own directory
			continue
		}

		t.Run(kind, func(t *testing.T) {
			t.Parallel()

			var dropped string

			t.Run("test", func(t *testing.T) {
				url := testenv.Database(t, kind)
				dropped = name[kind].FindStringSubmatch(url)[1]
			})

			var left int

			db := testenv.Open(t, testenv.Database(t, kind))
			require.NoError(t, db.QueryRowContext(t.Context(), fmt.Sprintf(count, dropped)).Scan(&left))
			require.Zero(t, left)
		})
	}
}

func TestParametersInTheURLReachTheDriver(t *testing.T) {
	t.Parallel()

	parameters := map[string]struct{ add, query, want string }{
		"postgres": {"&application_name=probe", "SHOW application_name", "probe"},
		"mariadb":  {"?max_statement_time=7", "SELECT ROUND(@@max_statement_time)", "7"},
		"sqlite":   {"&_pragma=user_version(7)", "PRAGMA user_version", "7"},
	}

	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()

			var got string

			db := testenv.Open(t, testenv.Database(t, kind)+parameters[kind].add)
			require.NoError(t, db.QueryRowContext(t.Context(), parameters[kind].query).Scan(&got))
			require.Equal(t, parameters[kind].want, got)
		})
	}
}

func TestUnknownKindOfDatabaseFailsTheTest(t *testing.T) {
	t.Parallel()

	failure := failureOf(t, func(t testing.TB) string {
		t.Helper()

		return testenv.Database(t, "oracle")
	})
	require.Contains(t, failure, `"oracle"`)
}

func TestTopicIsUniqueShortAndSafeOnEveryBroker(t *testing.T) {
	t.Parallel()

	safe := regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)
	seen := map[string]bool{}

	for _, prefix := range []string{
		"orders", "", "Orders.Created/v1", "__internal", "7days", "größe", strings.Repeat("long", 30),
	} {
		for range 100 {
			topic := testenv.Topic(t, prefix)
			require.Regexp(t, safe, topic)
			require.False(t, seen[topic], "%s came twice", topic)
			seen[topic] = true
		}
	}

	require.Contains(t, testenv.Topic(t, "orders"), "orders_")
}

func TestShortRunNeedsNoServices(t *testing.T) {
	t.Parallel()

	if testing.Short() {
		require.Equal(t, []string{"sqlite"}, testenv.Databases(t))
		require.Equal(t, []string{"mem"}, testenv.Brokers(t))

		return
	}

	require.Equal(t, []string{"postgres", "mariadb", "sqlite"}, testenv.Databases(t))
	require.Equal(t, []string{"mem", "kafka", "sqs", "sqs-fifo", "postgres", "mariadb"}, testenv.Brokers(t))
}

func TestEventuallyReturnsOnceTheConditionHolds(t *testing.T) {
	t.Parallel()

	asked := 0

	testenv.Eventually(t, time.Minute, time.Millisecond, func() (bool, string) {
		asked++

		return asked == 3, "not yet"
	})
	require.Equal(t, 3, asked)
}

func TestEventuallyFailsWithTheLastStateSeen(t *testing.T) {
	t.Parallel()

	asked := 0
	failure := failureOf(t, func(t testing.TB) string {
		t.Helper()
		testenv.Eventually(t, 20*time.Millisecond, time.Millisecond, func() (bool, string) {
			asked++

			return false, fmt.Sprintf("asked %d times", asked)
		})

		return ""
	})
	require.Contains(t, failure, "within 20ms")
	require.Contains(t, failure, fmt.Sprintf("last seen: asked %d times", asked))
}
