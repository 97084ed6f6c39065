package brokers_test

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/testenv"
)

// onSQL runs a test on the brokers that are databases, with a connection of the
// test's own to the same schema.
func onSQL(t *testing.T, test func(t *testing.T, b *bundle, db *sql.DB)) {
	t.Helper()

	for _, c := range cases(t) {
		if c.name != "postgres" && c.name != "mariadb" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			database := c.url(t)
			c.url = func(*testing.T) string { return database }
			db := testenv.Open(t, database)
			test(t, setup(t, c), db)
		})
	}
}

// placeholder is the first parameter of a statement.
func (b *bundle) placeholder() string {
	if b.name == "postgres" {
		return "$1"
	}

	return "?"
}

func TestTopicsWithLikeNamesStayApart(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		t.Helper()
		if b.name != "postgres" && b.name != "mariadb" && b.name != "mem-file" {
			return // topics of Kafka and SQS have rules of their own
		}

		long := strings.Repeat("long_", 30)
		topics := []string{
			"orders", "Orders", "orders ", "ord-ers", "ord.ers", "ord_ers", long + "a", long + "b", "t_orders", "Ünïcödé",
			`odd "'` + "`" + `;-- \ $1 ?`, "h_x", "_",
		}
		for _, topic := range topics {
			require.NoError(t, b.Publisher.Publish(topic, newMessage("", topic)), topic)
		}
		for _, topic := range topics {
			ctx, cancel := context.WithCancel(t.Context())
			b.topic = topic
			messages, _ := b.subscribeCtx(ctx, t, "one")
			require.Equal(t, []string{topic}, receiveAcked(t, messages, 1))
			cancel()
			waitClosed(t, messages)
		}
		if b.name == "mem-file" {
			return // any name will do
		}
		require.ErrorIs(t, b.Publisher.Publish(strings.Repeat("x", 300), newMessage("", "x")), brokers.ErrTopic)
		require.ErrorIs(t, b.Publisher.Publish("nul\x00", newMessage("", "x")), brokers.ErrTopic)
	})
}

func TestGroupsWithLikeNamesStayApart(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, _ *sql.DB) {
		t.Helper()
		b.publish(t, newMessage("", "x"))
		for _, group := range []string{"one", "ONE", "one ", strings.Repeat("g", 254) + "a", strings.Repeat("g", 254) + "b"} {
			ctx, cancel := context.WithCancel(t.Context())
			messages, _ := b.subscribeCtx(ctx, t, group)
			require.Equal(t, []string{"x"}, receiveAcked(t, messages, 1), group)
			cancel()
			waitClosed(t, messages)
		}
		_, err := b.SubscriberFor(strings.Repeat("g", 256))
		require.Error(t, err)
	})
}

func TestManyProcessesMayStartAtOnce(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, _ *sql.DB) {
		t.Helper()
		const processes = 8
		var wg sync.WaitGroup
		errs := make([]error, processes)
		opened := make([]*brokers.Broker, processes)
		for i := range opened {
			opened[i] = open(t, b.rawURL) // their caches of what exists are their own
		}
		for i := range opened {
			wg.Go(func() {
				if i%2 == 0 {
					errs[i] = opened[i].Publisher.Publish(b.topic, newMessage("", "x"))

					return
				}
				sub, err := opened[i].SubscriberFor("starter")
				if err == nil {
					_, err = sub.Subscribe(t.Context(), b.topic)
				}
				errs[i] = err
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Len(t, receiveDistinct(t, b.subscribe(t, "one"), processes/2), processes/2)
	})
}

func TestManyMessagesInOneCallAreOneTransaction(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, _ *sql.DB) {
		t.Helper()
		messages := newMessages("k", 2500) // more than one INSERT takes
		require.NoError(t, b.Publisher.Publish(b.topic, messages...))
		n, err := b.Capabilities.Backlog(t.Context(), b.topic, "one")
		require.NoError(t, err)
		require.EqualValues(t, len(messages), n)
		require.Equal(t, payloadsOf(messages[:20]), receiveAcked(t, b.subscribe(t, "one"), 20))
	})
}

// A handler at work must not keep other topics and groups from being read, nor
// publishers from publishing: watermill-sql's own settings do, by transaction ids
// on Postgres and by gap locks on MySQL.
func TestHandlerAtWorkHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, _ *sql.DB) {
		t.Helper()
		one := b.subscribe(t, "one")
		b.publish(t, newMessage("k", "first"))
		held := receive(t, one)

		published := make(chan error, 1)
		go func() { published <- b.Publisher.Publish(b.topic, newMessage("k", "second")) }()
		select {
		case err := <-published:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "a handler at work blocks publishers")
		}
		require.Equal(t, []string{"first", "second"}, receiveAcked(t, b.subscribe(t, "two"), 2))
		held.Ack()
		require.Equal(t, []string{"second"}, receiveAcked(t, one, 1))
	})
}

// On Postgres a transaction that has written and stays open delays what is
// published after it began; nothing is stepped over.
func TestMessageCommittedLateIsNotSteppedOver(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, db *sql.DB) {
		t.Helper()
		b.publish(t, newMessage("k", "first"))
		messages := b.subscribe(t, "one")
		require.Equal(t, []string{"first"}, receiveAcked(t, messages, 1))

		// A publish that is slow to commit: the same statements, by hand.
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		table := "headrace_msgs_t_" + b.topic
		if b.name == "mariadb" {
			_, err = tx.ExecContext(t.Context(), "SELECT 1 FROM headrace_broker_topics WHERE slug = ? FOR UPDATE", "t_"+b.topic)
			require.NoError(t, err)
			_, err = tx.ExecContext(t.Context(), "INSERT INTO "+table+" (uuid, payload, metadata) VALUES ('late', 'late', '{}')")
		} else {
			_, err = tx.ExecContext(t.Context(),
				"INSERT INTO "+table+" (uuid, payload, metadata, transaction_id) "+
					"VALUES ('late', 'late', '{}', pg_current_xact_id())")
		}
		require.NoError(t, err)

		published := make(chan error, 1)
		go func() { published <- b.Publisher.Publish(b.topic, newMessage("k", "after")) }()
		timer := time.NewTimer(300 * time.Millisecond)
		defer timer.Stop()
		select {
		case msg := <-messages:
			require.FailNow(t, "a later message was delivered first", string(msg.Payload))
		case <-timer.C:
		}
		require.NoError(t, tx.Commit())
		require.NoError(t, <-published)
		require.Equal(t, []string{"late", "after"}, receiveAcked(t, messages, 2))
	})
}

func TestSlowHandlerLosesItsMessageAfterTheDeadlineOnly(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, _ *sql.DB) {
		t.Helper()
		b.Broker = open(t, withOptions(t, b.rawURL, map[string]string{"ack_deadline": "200ms"}))
		messages := b.subscribe(t, "one")
		b.publish(t, newMessage("k", "slow"), newMessage("k", "next"))

		slow := receive(t, messages)
		<-slow.Context().Done()
		again := receive(t, messages)
		require.Equal(t, slow.UUID, again.UUID)
		slow.Ack() // too late, and without effect on the copy
		again.Nack()
		require.Equal(t, []string{"slow", "next"}, receiveAcked(t, messages, 2))
	})
}

func TestPayloadsAreStoredAsTheyAre(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, db *sql.DB) {
		t.Helper()
		msg := newMessage("k", `{"b":1,  "a":1.0}`)
		b.publish(t, msg)
		var payload []byte
		require.NoError(t, db.QueryRowContext(t.Context(),
			fmt.Sprintf("SELECT payload FROM headrace_msgs_t_%s WHERE uuid = %s", b.topic, b.placeholder()),
			msg.UUID).Scan(&payload))
		require.Equal(t, []byte(msg.Payload), payload)
	})
}

func TestLostConnectionsAreMadeAgain(t *testing.T) {
	t.Parallel()
	onSQL(t, func(t *testing.T, b *bundle, db *sql.DB) {
		t.Helper()
		name := testenv.Topic(t, "app")
		if b.name == "postgres" {
			b.Broker = open(t, withOptions(t, b.rawURL, map[string]string{"application_name": name}))
		}
		messages := b.subscribe(t, "one")
		b.publish(t, newMessage("k", "held"))
		held := receive(t, messages)

		if b.name == "postgres" {
			_, err := db.ExecContext(t.Context(),
				"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name)
			require.NoError(t, err)
		} else {
			killConnections(t, db)
		}
		held.Ack() // can't be recorded any more
		testenv.Eventually(t, patience, 10*time.Millisecond, func() (bool, string) {
			err := b.Publisher.Publish(b.topic, newMessage("k", "next"))

			return err == nil, fmt.Sprint(err)
		})
		require.Equal(t, []string{"held", "next"}, receiveAcked(t, messages, 2))
	})
}

// killConnections ends all connections to the MySQL database but the caller's.
func killConnections(t *testing.T, db *sql.DB) {
	t.Helper()

	for _, id := range connections(t, db) {
		// One that has ended by itself since is as good.
		_, _ = db.ExecContext(t.Context(), fmt.Sprintf("KILL %d", id))
	}
}

func connections(t *testing.T, db *sql.DB) (ids []int64) {
	t.Helper()

	rows, err := db.QueryContext(t.Context(),
		"SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id int64
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())

	return ids
}

// BenchmarkSQL shows how fast one consumer drains a topic with a backlog.
func BenchmarkSQL(b *testing.B) {
	for name, database := range map[string]func(testing.TB) string{
		"postgres": testenv.Postgres, "mariadb": testenv.MariaDB,
	} {
		b.Run(name, func(b *testing.B) {
			broker, err := brokers.Open(b.Context(), database(b), brokers.Config{Openers: all.Openers(), Group: "one"})
			require.NoError(b, err)
			defer func() { require.NoError(b, broker.Close()) }()
			backlog := make([]*message.Message, b.N)
			for i := range backlog {
				backlog[i] = newMessage("k", strings.Repeat("x", 256))
			}
			require.NoError(b, broker.Publisher.Publish("t", backlog...))
			messages, err := broker.Subscriber.Subscribe(b.Context(), "t")
			require.NoError(b, err)
			b.ResetTimer()
			for range b.N {
				(<-messages).Ack()
			}
		})
	}
}
