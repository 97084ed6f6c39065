package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// shard is a partition of the rows that name no service.
func shard(number int) store.Partition { return store.Partition{Number: number} }

func publish(t *testing.T, st *store.Store, rows ...store.OutboxRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertOutbox(ctx, tx, rows)
	}))
}

func remember(t *testing.T, st *store.Store, consumer string, verdict store.Verdict, ids ...string) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		for _, id := range ids {
			_, inserted, err := st.InsertInbox(ctx, store.InboxRow{Consumer: consumer, MessageID: id, Verdict: verdict})
			require.NoError(t, err)
			require.True(t, inserted)
		}
		return nil
	}))
}

// failPublish records a failed publish for the row of a service's message.
func failPublish(t *testing.T, st *store.Store, service, messageID, cause string) {
	t.Helper()
	for n := range store.OutboxPartitions {
		p := store.Partition{Service: service, Number: n}
		rows, err := st.ReadOutbox(t.Context(), p, 0, 100, 1<<20)
		require.NoError(t, err)
		for _, row := range rows {
			if row.MessageID == messageID {
				require.NoError(t, st.FailOutbox(t.Context(), p, row.ID, errors.New(cause)))
			}
		}
	}
}

// age makes the outbox's rows older.
func age(t *testing.T, kind string, db *sql.DB, by time.Duration) {
	t.Helper()
	earlier := map[string]string{
		"postgres": "created_at - interval '%d microseconds'",
		"mariadb":  "created_at - INTERVAL %d MICROSECOND",
		"sqlite":   "created_at - %d",
	}[kind]
	_, err := db.ExecContext(t.Context(), "UPDATE headrace_outbox SET created_at = "+fmt.Sprintf(earlier, by.Microseconds()))
	require.NoError(t, err)
}

// busy fills a database as a running service would.
func busy(t *testing.T, kind, url string) *sql.DB {
	t.Helper()
	st, db := migrated(t, kind, url)
	publish(t, st,
		store.OutboxRow{MessageID: "1", Destination: "default", Topic: "stock", Service: "shop"},
		store.OutboxRow{MessageID: "2", Destination: "default", Topic: "stock", Service: "shop"},
		store.OutboxRow{MessageID: "3", Destination: "audit", Topic: "changes", Service: "shop"})
	failPublish(t, st, "shop", "2", "broker said:\n\tno")
	age(t, kind, db, 10*time.Minute)
	remember(t, st, "stock.on-change", store.Applied, "a", "b")
	remember(t, st, "stock.on-change", store.Parked, "c")
	remember(t, st, "billing.on-change", store.Applied, "a")
	repeat(t, st,
		store.VerdictLogRow{Consumer: "stock.on-change", MessageID: "a", Verdict: store.Duplicate},
		store.VerdictLogRow{Consumer: "stock.on-change", MessageID: "a", Verdict: store.Duplicate},
		store.VerdictLogRow{Consumer: "billing.on-change", MessageID: "a", Verdict: store.Duplicate, Observed: true})
	for _, name := range []string{"forwarder/shop/host-1", "outbox/shop/10", "outbox/shop/9", "outbox/shop/5", "purge/stock"} {
		lease(t, st, name, "host-1", time.Minute)
	}
	for _, name := range []string{"forwarder/shop/host-2", "outbox/shop/1"} { // has just died
		lease(t, st, name, "host-2", -10*time.Second)
	}
	lease(t, st, "forwarder/shop/host-4", "host-4", -5*time.Minute)
	require.NoError(t, st.ReleaseLease(t.Context(), lease(t, st, "outbox/shop/2", "host-3", time.Minute)))
	return db
}

func repeat(t *testing.T, st *store.Store, rows ...store.VerdictLogRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for _, row := range rows {
			require.NoError(t, st.LogVerdict(ctx, tx, row))
		}
		return nil
	}))
}

func lease(t *testing.T, st *store.Store, name, owner string, ttl time.Duration) store.Lease {
	t.Helper()
	taken, ok, err := st.AcquireLease(t.Context(), name, owner, ttl)
	require.NoError(t, err)
	require.True(t, ok)
	return taken
}

const busyText = `DB

OUTBOX  3 unsent, 1 failing, 0 parked, oldest AGE
SERVICE  DESTINATION  TOPIC  UNSENT  FAILING  PARKED  OLDEST  LAST ERROR
shop  audit  changes  1  0  0  AGE
shop  default  stock  2  1  0  AGE  broker said: no

INBOX
CONSUMER  VERDICT  MESSAGES
billing.on-change  applied  1
stock.on-change  applied  2
stock.on-change  parked (open)  1

REPEATS
CONSUMER  VERDICT  DELIVERIES
billing.on-change  duplicate (observed only)  1
stock.on-change  duplicate  2

LEASES
SERVICE  OWNER  PARTITIONS  OTHER LEASES  EXPIRES
shop  host-1  3 of 16: 5, 9-10  purge/stock  in AGE
shop  host-2  none  expired AGE ago
shop  nobody  13 of 16: 0-4, 6-8, 11-15
1 owner died more than a minute ago (--verbose shows all leases)
`

const verboseLeases = `
LEASES
NAME  OWNER  EPOCH  EXPIRES
forwarder/shop/host-1  host-1  1  in AGE
forwarder/shop/host-2  host-2  1  expired AGE ago
forwarder/shop/host-4  host-4  1  expired AGE ago
outbox/shop/1  host-2  1  expired AGE ago
outbox/shop/2  nobody  1  given back
outbox/shop/5  host-1  1  in AGE
outbox/shop/9  host-1  1  in AGE
outbox/shop/10  host-1  1  in AGE
purge/stock  host-1  1  in AGE
`

func TestStatusShowsOutboxInboxRepeatsAndLeases(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		busy(t, kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "status", "--db", url), term.err.String())
		require.Equal(t, busyText, steady(term.out.String(), url))
		require.Empty(t, term.err.String())

		require.Equal(t, exitOK, term.run(t, "status", "--verbose", "--db", url), term.err.String())
		require.Contains(t, steady(term.out.String(), url), verboseLeases)

		got := result[statusJSON](t, exitOK, "status", "--db", url)
		require.EqualValues(t, 3, got.Outbox.Unsent)
		require.EqualValues(t, 1, got.Outbox.Failing)
		require.InDelta(t, 600, got.Outbox.OldestAgeSeconds, 60)
		require.Len(t, got.Outbox.Topics, 2)
		require.Equal(t, "broker said:\n\tno", got.Outbox.Topics[1].LastError)
		require.Equal(t, inboxJSON{"stock.on-change", "parked", true, 1}, got.Inbox[2])
		require.Equal(t, []repeatsJSON{
			{"billing.on-change", "duplicate", true, 1},
			{"stock.on-change", "duplicate", false, 2},
		}, got.Repeats)
		require.Len(t, got.Leases, 9, "JSON leaves nothing out")
		require.False(t, got.Leases[1].Live)
		require.Negative(t, got.Leases[1].ExpiresInSeconds)
		require.True(t, got.Leases[0].Live)
		require.InDelta(t, 60, got.Leases[0].ExpiresInSeconds, 59)
		require.Empty(t, got.Problems)
	})
}

func TestStatusAndDoctorNameWhatIsParkedInTheOutbox(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, _ := migrated(t, kind, url)
		publish(t, st, store.OutboxRow{MessageID: "1", Destination: "default", Topic: "stock", Service: "shop"})
		for n := range store.OutboxPartitions {
			rows, err := st.ReadOutbox(t.Context(), store.Partition{Service: "shop", Number: n}, 0, 100, 1<<20)
			require.NoError(t, err)
			for _, row := range rows {
				owned := lease(t, st, "outbox/shop/"+strconv.Itoa(n), "host-1", time.Minute)
				parked, err := st.ParkOutbox(t.Context(), owned, row, store.ParkedRow{Reason: "too large"})
				require.NoError(t, err)
				require.True(t, parked)
			}
		}
		var term terminal
		require.Equal(t, exitOK, term.run(t, "status", "--db", url), term.err.String())
		require.Contains(t, steady(term.out.String(), url), "OUTBOX  1 unsent, 0 failing, 1 parked, oldest AGE\n"+
			"SERVICE  DESTINATION  TOPIC  UNSENT  FAILING  PARKED  OLDEST  LAST ERROR\n"+
			"shop  default  stock  1  0  1  AGE  too large\n")
		got := examine(t, exitOK, url)
		require.Equal(t, gradeOK, got["outbox errors"].Status)
		require.Equal(t, gradeWarn, got["outbox parked"].Status)
		require.Contains(t, got["outbox parked"].Cause, "1 to topic stock of destination default (too large)")
	})
}

func TestStatusOfAnIdleService(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		migrated(t, kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "status", "--check", "--db", url), term.err.String())
		require.Equal(t, "DB\n\nOUTBOX  nothing unsent\n\nINBOX  empty\n\nREPEATS  none\n\n"+noLeases+"\n",
			steady(term.out.String(), url))

		require.Equal(t, exitOK, term.run(t, "status", "--json", "--db", url), term.err.String())
		require.JSONEq(t, `{"database": "DB", "inbox": [], "repeats": [], "leases": [], "problems": [],
			"outbox": {"unsent": 0, "failing": 0, "parked": 0, "oldest_age_seconds": 0, "topics": []},
			"scheduled": {"waiting": 0, "next_in_seconds": 0},
			"parked": [], "unknown_effects": 0}`, steady(term.out.String(), url))
	})
}

func TestStatusChecksItsLimits(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		busy(t, kind, url)
		for name, test := range map[string]struct {
			args []string
			want string
		}{
			"usual age":     {[]string{"--check"}, "the oldest unsent message has waited AGE, the limit is AGE"},
			"age":           {[]string{"--max-age", "9m"}, "the oldest unsent message has waited AGE, the limit is AGE"},
			"longer age":    {[]string{"--max-age", "1h"}, ""},
			"unsent":        {[]string{"--max-age", "1h", "--max-unsent", "2"}, "3 messages unsent, the limit is 2"},
			"enough unsent": {[]string{"--max-age", "1h", "--max-unsent", "3"}, ""},
			"failing": {[]string{"--max-age", "1h", "--max-failing", "0"}, "1 message failed to be published, " +
				"the limit is 0"},
			"enough failing":  {[]string{"--max-age", "1h", "--max-failing", "1"}, ""},
			"no limit at all": {nil, ""},
		} {
			var term terminal
			exit := term.run(t, append([]string{"status", "--db", url}, test.args...)...)
			want, wantExit := busyText, exitOK
			if test.want != "" {
				want, wantExit = busyText+"\nPROBLEM  "+test.want+"\n", exitProblem
			}
			require.Equal(t, wantExit, exit, name)
			require.Equal(t, want, steady(term.out.String(), url), name)
			require.Empty(t, term.err.String(), name)
			got := result[statusJSON](t, wantExit, append([]string{"status", "--db", url}, test.args...)...)
			require.Equal(t, test.want != "", len(got.Problems) == 1, name)
		}
	})
}

func TestStatusWithoutSchemaSaysHowToGetOne(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, _ := migrated(t, kind, url)
		require.NoError(t, st.Migrator().Down(t.Context()))
		var term terminal
		require.Equal(t, exitProblem, term.run(t, "status", "--db", url))
		require.Empty(t, term.out.String())
		require.Contains(t, term.err.String(), "the schema is missing or too old")
		require.Contains(t, term.err.String(), "run `headrace migrate up --db URL`")
	})
}

// What waits for people is counted by its consumer, and isn't taken back unasked.
func TestWhatIsParkedIsNamedBeforeItIsLost(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, url := on.T, on.url
		st, _ := migrated(t, on.kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "doctor", "--db", url), term.out.String())
		require.Contains(t, term.out.String(), "no message waits for a person")
		keep(t, st, "sku-1", "1", store.StatusParked, errUnknown)
		keep(t, st, "sku-1", "2", store.StatusWaiting, nil)
		keep(t, st, "sku-2", "3", store.StatusDelayed, errRefused)
		keep(t, st, "sku-3", "4", store.StatusReview, errors.New("conflict"))
		unknownEffect(t, st)

		got := result[statusJSON](t, exitOK, "status", "--db", url)
		require.Len(t, got.Parked, 1)
		kept := got.Parked[0]
		require.Positive(t, kept.OldestAgeSeconds)
		kept.OldestAgeSeconds = 0
		require.Equal(t, parkedCountJSON{Consumer: parkedConsumer, Parked: 1, Review: 1, Delayed: 1, Waiting: 1}, kept)
		require.EqualValues(t, 1, got.UnknownEffects)
		require.Equal(t, exitOK, term.run(t, "status", "--db", url))
		require.Contains(t, steady(term.out.String(), url),
			"shop.orders  1  1  1  0  0  1  AGE  0\n\nEFFECTS  1 call of unknown outcome")
		require.Equal(t, exitOK, term.run(t, "doctor", "--db", url))
		told := durations.ReplaceAllString(term.out.String(), "AGE")
		require.Contains(t, told, "shop.orders: 1 parked, 1 in review, 1 behind them, the oldest for AGE")
		require.Contains(t, told, "shop.orders: 1 are to be tried again, and no process says that it handles them")
		require.Contains(t, told, "1 call of unknown outcome")

		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--db", url), term.err.String()) // the positions
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--db", url), term.err.String()) // the versions
		require.Equal(t, exitFailed, term.run(t, "migrate", "down", "--yes", "--db", url))
		require.Contains(t, term.err.String(), "version 4 holds what is nowhere else: 1 parked, 1 in review, "+
			"1 to be tried again, 1 waiting behind others of consumer shop.orders")
		require.EqualValues(t, 4, downTo(t, url))
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--force", "--db", url), term.err.String())
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--db", url), term.err.String()) // the audit
		require.Equal(t, exitFailed, term.run(t, "migrate", "down", "--yes", "--db", url))
		require.Contains(t, term.err.String(), "1 call of unknown outcome and 0 begun of scope charge")
		require.Equal(t, exitOK, term.run(t, "migrate", "down", "--yes", "--force", "--db", url), term.err.String())
	})
}

// A retry whose consumer doesn't run says so, and doesn't wait for it for ever.
func TestARetryThatNobodyHandlesSaysSo(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		keep(on.T, st, "sku-1", "1", store.StatusParked, errRefused)
		keep(on.T, st, "sku-2", "2", store.StatusParked, errRefused)
		keep(on.T, st, "sku-3", "3", store.StatusParked, errRefused)
		keep(on.T, st, "sku-4", "4", store.StatusParked, errRefused)
		keep(on.T, st, "sku-5", "5", store.StatusReview, errRefused)
		do := newCommands(on.T, on.url)
		const named = `"not_running":["shop.orders"]`
		compact := strings.NewReplacer(" ", "", "\n", "")
		require.Contains(on, compact.Replace(do.do(exitOK, "parked", "retry", "1", "--json")), named)
		require.Contains(on, compact.Replace(do.do(exitOK, "parked", "edit", "4", "--set", "a=b", "--retry", "--json")), named)
		require.Contains(on, compact.Replace(do.do(exitOK, "review", "accept", "5", "--json")), named)
		require.Contains(on, do.term.err.String(), "no process says that it handles messages of shop.orders")
		do.do(exitOK, "key", "release", parkedConsumer, "sku-2")
		require.Contains(on, do.term.err.String(), "no process says that it handles messages of shop.orders")
		desk := parking.NewDesk(st, parking.DeskConfig{Actor: "anna"})
		p, err := desk.RetryAll(on.Context(), store.ParkedFilter{IDs: []int64{3}},
			parking.GroupOptions{Follow: true, Patience: time.Millisecond})
		var nobody *parking.NobodyRunsError
		require.ErrorAs(on, err, &nobody)
		require.Equal(on, []string{parkedConsumer}, nobody.Consumers)
		require.Equal(on, 1, p.Open)

		_, took, err := st.AcquireLease(on.Context(), store.PresenceLease(parkedConsumer, "host-1"), "host-1", time.Hour)
		require.NoError(on, err)
		require.True(on, took)
		keep(on.T, st, "sku-6", "6", store.StatusParked, errRefused)
		do.do(exitOK, "parked", "retry", "6")
		require.NotContains(on, do.term.err.String(), "no process")
	})
}

// unknownEffect writes a call of which nobody knows whether it has happened.
func unknownEffect(t *testing.T, st *store.Store) {
	t.Helper()
	effect := store.EffectRow{Scope: "charge", Key: "1", Provider: "bank", RequestHash: make([]byte, 32), Owner: "host-1"}
	err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, _, err := st.ClaimEffect(ctx, effect, time.Minute, nil)
		return err
	})
	require.NoError(t, err)
	effect.Status, effect.Epoch, effect.LastError = store.EffectUnknown, 1, "timeout"
	ok, err := st.FinishEffect(t.Context(), effect)
	require.NoError(t, err)
	require.True(t, ok)
}
