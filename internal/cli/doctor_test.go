package cli

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// examine runs doctor and returns its findings by check.
func examine(t *testing.T, wantExit int, url string, args ...string) map[string]finding {
	t.Helper()
	got := result[doctorJSON](t, wantExit, append([]string{"doctor", "--db", url}, args...)...)
	require.Equal(t, wantExit == exitOK, got.Healthy)
	findings := map[string]finding{}
	for _, f := range got.Findings {
		require.NotContains(t, findings, f.Check, "named twice")
		require.NotEmpty(t, f.Cause, f.Check)
		require.True(t, f.Status == gradeOK || f.WayOut != "", "%s has no way out", f.Check)
		findings[f.Check] = f
	}
	return findings
}

// with adds a parameter to a database's URL.
func with(t *testing.T, raw, name, value string) string {
	t.Helper()
	separator := "?"
	if strings.Contains(raw, "?") {
		separator = "&"
	}
	return raw + separator + url.Values{name: {value}}.Encode()
}

func TestDoctorOfAHealthyDatabase(t *testing.T) {
	t.Parallel()
	checks := map[string]string{
		"postgres": "version isolation lock timeout idle timeout durability clock schema",
		"mariadb":  "version isolation lock timeout deadlock log durability clock schema",
		"sqlite":   "version journal busy timeout durability clock schema",
	}
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		migrated(t, kind, url)
		got := result[doctorJSON](t, exitOK, "doctor", "--strict", "--db", url)
		names := make([]string, 0, len(got.Findings))
		for _, f := range got.Findings {
			if f.Check != checkOfWindow {
				require.Equal(t, gradeOK, f.Status, "%+v", f)
			}
			names = append(names, f.Check)
		}
		require.Equal(t, checks[kind]+" outbox age outbox errors outbox parked outbox owners scheduled parked dedupe window",
			strings.Join(names, " "))

		var term terminal
		require.Equal(t, exitOK, term.run(t, "doctor", "--db", url))
		text := steady(term.out.String(), url)
		require.Contains(t, text, fmt.Sprintf("\nok  schema  version %d\nok  outbox age  nothing unsent\n", store.SchemaVersion))
		require.Contains(t, text, "\nskip  dedupe window  no broker was given to compare it with\n  → pass --broker URL\n")
		require.Contains(t, text, "0 warnings, 0 failed, 1 skipped\n")
		require.Empty(t, term.err.String())
	})
}

func TestDoctorWithoutSchema(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		db := testenv.Open(t, url)
		_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id INTEGER)") // makes SQLite's file, too
		require.NoError(t, err)
		got := examine(t, exitProblem, url)
		require.Equal(t, gradeFail, got["schema"].Status)
		require.Contains(t, got["schema"].WayOut, "headrace migrate up")
		require.NotContains(t, got, "outbox age", "there is no outbox to look at")

		var term terminal
		require.Equal(t, exitProblem, term.run(t, "doctor", "--db", url))
		require.Contains(t, steady(term.out.String(), url), "fail  schema  there are no tables with the prefix \"headrace_\"\n"+
			"  → run `headrace migrate up`, or check --schema and --prefix\n")
		require.Empty(t, term.err.String())
	})
}

func TestDoctorFindsPartitionsWithoutOwner(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, db := migrated(t, kind, url)
		publish(t, st, store.OutboxRow{MessageID: "1", Destination: "d", Topic: "t"})
		owners := examine(t, exitOK, url)["outbox owners"]
		require.Equal(t, gradeWarn, owners.Status, "a handover takes some seconds")

		age(t, kind, db, time.Minute)
		owners = examine(t, exitProblem, url)["outbox owners"]
		require.Equal(t, gradeFail, owners.Status)
		require.Regexp(t, `no forwarder relays service \(none\), for which 1 message is waiting, for up to 1m`, owners.Cause)
		_, _, err := st.AcquireLease(t.Context(), "forwarder//it", "it", time.Minute)
		require.NoError(t, err)
		owners = examine(t, exitProblem, url)["outbox owners"]
		require.Regexp(t, `no forwarder of service \(none\) owns partition \(\d+\) where 1 message is waiting, for up to 1m`,
			owners.Cause)

		for p := range store.OutboxPartitions { // owners that died
			_, ok, err := st.AcquireLease(t.Context(), forwarder.PartitionLease(shard(p)), "dead", -time.Second)
			require.NoError(t, err)
			require.True(t, ok)
		}
		require.Equal(t, gradeFail, examine(t, exitProblem, url)["outbox owners"].Status)

		for p := range store.OutboxPartitions {
			_, ok, err := st.AcquireLease(t.Context(), forwarder.PartitionLease(shard(p)), "live", time.Minute)
			require.NoError(t, err)
			require.True(t, ok)
		}
		require.Equal(t, gradeOK, examine(t, exitOK, url)["outbox owners"].Status)
	})
}

func TestDoctorFindsAServiceThatNobodyRelays(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, db := migrated(t, kind, url)
		take := func(name string) {
			_, taken, err := st.AcquireLease(t.Context(), name, "host-1", time.Minute)
			require.NoError(t, err)
			require.True(t, taken)
		}
		take("forwarder/shop/host-1")
		for n := range store.OutboxPartitions {
			take(forwarder.PartitionLease(store.Partition{Service: "shop", Number: n}))
		}
		publish(t, st, store.OutboxRow{MessageID: "1", Service: "shop", Destination: "d", Topic: "t"})
		age(t, kind, db, time.Minute)
		owners := examine(t, exitOK, url)["outbox owners"]
		require.Equal(t, gradeOK, owners.Status)
		require.Contains(t, owners.Cause, "forwarders run for shop")

		publish(t, st, store.OutboxRow{MessageID: "2", Service: "billing", Destination: "d", Topic: "t"})
		age(t, kind, db, time.Minute)
		owners = examine(t, exitProblem, url)["outbox owners"]
		require.Equal(t, gradeFail, owners.Status)
		require.Contains(t, owners.Cause, "no forwarder relays service billing, for which 1 message is waiting")
		require.Contains(t, owners.WayOut, "start service billing")
	})
}

func TestDoctorFindsOldAndFailingMessages(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		busy(t, kind, url)
		got := examine(t, exitProblem, url)
		require.Equal(t, gradeFail, got["outbox age"].Status)
		require.Contains(t, got["outbox age"].Cause, "3 messages unsent, the oldest for 10m")
		require.Equal(t, gradeWarn, got["outbox errors"].Status)
		require.Contains(t, got["outbox errors"].Cause, "1 to topic stock of destination default (broker said: no)")
		require.Equal(t, gradeOK, examine(t, exitProblem, url, "--max-age", "1h")["outbox age"].Status)
	})
}

func TestDoctorComparesTheClocks(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		migrated(t, kind, url)
		for _, skew := range []time.Duration{-time.Hour, time.Hour} {
			term := terminal{now: func() time.Time { return time.Now().Add(skew) }}
			require.Equal(t, exitOK, term.run(t, "doctor", "--db", url))
			where := map[bool]string{true: "1h0m0s behind this machine's", false: "1h0m0s ahead of this machine's"}[skew > 0]
			require.Contains(t, term.out.String(), "warn  clock")
			require.Contains(t, term.out.String(), "the database's clock is "+where)
			require.Equal(t, exitProblem, term.run(t, "doctor", "--strict", "--db", url))
		}
	})
}

func TestDoctorReadsTheSessionsSettings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ kind, name, value, check, status string }{
		{"postgres", "lock_timeout", "100", "lock timeout", gradeWarn},
		{"postgres", "lock_timeout", "5000", "lock timeout", gradeOK},
		{"postgres", "idle_in_transaction_session_timeout", "1000", "idle timeout", gradeWarn},
		{"postgres", "default_transaction_isolation", "serializable", "isolation", gradeWarn},
		{"postgres", "synchronous_commit", "off", "durability", gradeFail},
		{"mariadb", "tx_isolation", "'SERIALIZABLE'", "isolation", gradeWarn},
		{"mariadb", "tx_isolation", "'READ-COMMITTED'", "isolation", gradeOK},
		{"mariadb", "innodb_lock_wait_timeout", "3", "lock timeout", gradeOK},
		{"sqlite", "_pragma", "journal_mode(DELETE)", "journal", gradeWarn},
		{"sqlite", "_pragma", "journal_mode(WAL)", "journal", gradeOK},
		{"sqlite", "_pragma", "busy_timeout(0)", "busy timeout", gradeWarn},
		{"sqlite", "_pragma", "busy_timeout(99)", "busy timeout", gradeOK},
		{"sqlite", "_pragma", "synchronous(OFF)", "durability", gradeFail},
		{"sqlite", "_pragma", "synchronous(NORMAL)", "durability", gradeWarn},
	} {
		t.Run(test.kind+" "+test.name+" "+test.value, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && test.kind != "sqlite" {
				return // there are no services
			}
			url := testenv.Database(t, test.kind)
			if test.kind == "sqlite" {
				url, _, _ = strings.Cut(url, "?") // it has pragmas of its own
			}
			migrated(t, test.kind, url)
			exit := exitOK
			if test.status == gradeFail {
				exit = exitProblem
			}
			got := examine(t, exit, with(t, url, test.name, test.value))
			require.Equal(t, test.status, got[test.check].Status, "%+v", got[test.check])
		})
	}
}

func TestDoctorJudgesServers(t *testing.T) {
	t.Parallel()
	version := func(product, version string) store.Server { return store.Server{Product: product, Version: version} }
	set := func(name, value string) store.Server { return store.Server{Settings: map[string]string{name: value}} }
	isolation := func(product, level string) store.Server {
		return store.Server{Product: product, Settings: map[string]string{"transaction_isolation": level}}
	}
	for name, test := range map[string]struct {
		check  func(store.Server) finding
		server store.Server
		want   string
	}{
		"Postgres 12":       {checkVersion, version("PostgreSQL", "12.19"), gradeFail},
		"Postgres 13":       {checkVersion, version("PostgreSQL", "13.0"), gradeOK},
		"Postgres beta":     {checkVersion, version("PostgreSQL", "18beta1"), gradeOK},
		"MySQL 5.7":         {checkVersion, version("MySQL", "5.7.44"), gradeFail},
		"MySQL 8.0.12":      {checkVersion, version("MySQL", "8.0.12"), gradeFail},
		"MySQL 8.0.13":      {checkVersion, version("MySQL", "8.0.13-log"), gradeOK},
		"MySQL 8.4":         {checkVersion, version("MySQL", "8.4.0"), gradeOK},
		"MariaDB 10.5":      {checkVersion, version("MariaDB", "10.5.29-MariaDB"), gradeFail},
		"MariaDB 10.6":      {checkVersion, version("MariaDB", "10.6.0-MariaDB"), gradeOK},
		"MariaDB 11":        {checkVersion, version("MariaDB", "11.8.3-MariaDB-0+deb13u1"), gradeOK},
		"strange version":   {checkVersion, version("PostgreSQL", "devel"), gradeWarn},
		"deadlocks logged":  {checkMySQLDeadlocks, set("innodb_print_all_deadlocks", "ON"), gradeOK},
		"deadlocks hidden":  {checkMySQLDeadlocks, set("innodb_print_all_deadlocks", "OFF"), gradeWarn},
		"no flush":          {checkMySQLDurability, set("innodb_flush_log_at_trx_commit", "0"), gradeFail},
		"flush to machine":  {checkMySQLDurability, set("innodb_flush_log_at_trx_commit", "2"), gradeWarn},
		"flush to disk":     {checkMySQLDurability, set("innodb_flush_log_at_trx_commit", "1"), gradeOK},
		"fsync off":         {checkPostgresDurability, set("fsync", "off"), gradeFail},
		"pages at risk":     {checkPostgresDurability, set("full_page_writes", "off"), gradeFail},
		"idle for ever":     {checkPostgresIdle, set("idle_in_transaction_session_timeout", "0"), gradeOK},
		"idle too short":    {checkPostgresIdle, set("idle_in_transaction_session_timeout", "1000"), gradeWarn},
		"no InnoDB":         {checkMySQLLocks, store.Server{}, gradeWarn},
		"MySQL isolation":   {checkIsolation, isolation("MySQL", "REPEATABLE-READ"), gradeOK},
		"usual isolation":   {checkIsolation, isolation("PostgreSQL", "read committed"), gradeOK},
		"unusual isolation": {checkIsolation, isolation("PostgreSQL", "repeatable read"), gradeWarn},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := test.check(test.server)
			require.Equal(t, test.want, found.Status, "%+v", found)
		})
	}
	rolledBack := checkMySQLLocks(store.Server{Settings: map[string]string{
		"innodb_lock_wait_timeout": "50", "innodb_rollback_on_timeout": "ON",
	}})
	require.Contains(t, rolledBack.Cause, "innodb_rollback_on_timeout is ON")
}

func TestDoctorComparesTheWindowWithTheBroker(t *testing.T) {
	t.Parallel()
	db := testenv.SQLite(t)
	migrated(t, "sqlite", db)

	window := examine(t, exitOK, db, "--strict", "--broker", "mem:", "--window", "168h")["dedupe window"]
	require.Equal(t, gradeOK, window.Status, "nothing could be done about it")
	require.Contains(t, window.Cause, "7 days")
	require.Contains(t, window.WayOut, "not covered are copies of what is older: after an absence of 7 days, and when a group")

	if testing.Short() {
		return // there is no Kafka
	}
	broker := with(t, testenv.Kafka(t), "retention", "240h")
	window = examine(t, exitProblem, db, "--broker", broker, "--window", "168h")["dedupe window"]
	require.Equal(t, gradeFail, window.Status)
	require.Contains(t, window.Cause, "remembered for 7 days, but "+testenv.Kafka(t)+" can deliver a copy 10 days later")
	require.Contains(t, window.WayOut, "DedupeConfig.Window")

	window = examine(t, exitOK, db, "--broker", broker, "--window", "240h")["dedupe window"]
	require.Equal(t, gradeOK, window.Status)
}

func TestDoctorReadsTheSettingsOfTopics(t *testing.T) {
	t.Parallel()
	db := testenv.SQLite(t)
	migrated(t, "sqlite", db)
	got := examine(t, exitOK, db, "--strict", "--broker", "mem:", "--topic", "stock")
	require.Equal(t, gradeSkip, got["topic stock"].Status)
	if testing.Short() {
		return // there is no Kafka
	}

	address := testenv.Kafka(t)
	admin, err := sarama.NewClusterAdmin([]string{strings.TrimPrefix(address, "kafka://")}, sarama.NewConfig())
	require.NoError(t, err)
	defer func() { require.NoError(t, admin.Close()) }()
	create := func(settings map[string]string) string {
		topic := testenv.Topic(t, "doctor")
		detail := &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1, ConfigEntries: map[string]*string{}}
		for name, value := range settings {
			detail.ConfigEntries[name] = &value
		}
		require.NoError(t, admin.CreateTopic(topic, detail, false))
		testenv.Eventually(t, time.Minute, 10*time.Millisecond, func() (bool, string) {
			found, err := admin.DescribeTopics([]string{topic})
			require.NoError(t, err)
			return len(found) == 1 && errors.Is(found[0].Err, sarama.ErrNoError), "the topic is on its way"
		})
		return topic
	}
	usual := create(map[string]string{"retention.ms": "691200000"})
	long := create(map[string]string{"retention.ms": "864000000"})
	small := create(map[string]string{"retention.ms": "-1", "max.message.bytes": "100000"})
	compacted := create(map[string]string{"cleanup.policy": "compact"})

	got = examine(t, exitProblem, db, "--broker", with(t, address, "retention", "192h"), "--window", "192h",
		"--topic", usual+","+long, "--topic", small, "--topic", compacted, "--topic", "there-is-none")
	require.Equal(t, gradeOK, got["topic "+usual].Status)
	require.Equal(t, gradeOK, got["topic "+long+" size"].Status)
	require.Equal(t, gradeFail, got["topic "+long+" window"].Status)
	require.Contains(t, got["topic "+long+" window"].Cause, "10 days later")
	for _, unbounded := range []string{small, compacted} {
		require.Equal(t, gradeOK, got["topic "+unbounded+" window"].Status)
		require.Contains(t, got["topic "+unbounded+" window"].Cause, "without a bound")
		require.Contains(t, got["topic "+unbounded+" window"].WayOut, "offsets reset")
	}
	require.Equal(t, gradeWarn, got["topic "+small+" size"].Status)
	require.Regexp(t, `max_body=9\d{4} `, got["topic "+small+" size"].WayOut)
	require.Equal(t, gradeFail, got["topic there-is-none"].Status)
}

func TestDoctorWithABrokerThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	db := testenv.SQLite(t)
	migrated(t, "sqlite", db)

	got := examine(t, exitProblem, db, "--connect-timeout", "200ms", "--broker", "kafka://me:hunter22@127.0.0.1:1?sasl=plain")
	require.Equal(t, gradeFail, got["broker"].Status)
	require.Contains(t, got["broker"].Cause, "kafka://127.0.0.1:1")
	require.NotContains(t, got["broker"].Cause, "hunter22")
	require.Equal(t, gradeOK, got["schema"].Status, "the rest is examined all the same")

	for _, bad := range []string{"kafka://127.0.0.1:1?no_such=1", "carrier-pigeon://loft", "no URL"} {
		var term terminal
		require.Equal(t, exitFailed, term.run(t, "doctor", "--db", db, "--broker", bad), bad)
		require.Empty(t, term.out.String())
		require.Contains(t, term.err.String(), "headrace: brokers: ")
	}
}

func TestDoctorFindsMessagesForLaterThatNobodySends(t *testing.T) {
	t.Parallel()
	at := func(service string, in time.Duration) store.ScheduledCount {
		return store.ScheduledCount{Service: service, Topic: "mail", Waiting: 2, NextIn: in}
	}
	fine := checkScheduled([]store.ScheduledCount{at("shop", time.Hour), at("", -time.Second)})
	require.Equal(t, ok("scheduled", "no message for later is overdue (4 wait)"), fine)
	late := checkScheduled([]store.ScheduledCount{at("shop", -time.Minute), at("", time.Hour)})
	require.Contains(t, late.Cause, "messages of service shop for topic mail have been due for 1m0s")
	require.NotEqual(t, fine.Status, late.Status)
}
