package scenario

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// The domain's transaction is B, the queue's is A: a transactional queue whose
// ack is a commit of its own. Either may fail when the other has committed.

// sqlPairs are the transactional queues.
func sqlPairs(t *testing.T) (pairs []pair) {
	t.Helper()
	return slices.DeleteFunc(on(t, []string{postgres, mariadb}, []string{postgres, mariadb}),
		func(p pair) bool { return p.broker != p.database })
}

func TestS12_TwoTransactions(t *testing.T) {
	onAndOff(t, sqlPairs(t), func(t *testing.T, p pair, protected bool) []string {
		queue := findable(t, p.broker)
		return twoTransactions(t, twoTransactionsCase{
			pair: p, options: []option{withBroker(queue.url)}, queue: queue,
			protect: func(w *world, s *subscription) {
				if protected {
					s.middlewares = append(s.middlewares, w.dedupe("stock"))
				}
			},
		})
	})
}

// Joined, both are one: when the commit fails neither has happened, and when it
// succeeds both have. The protection is the joining alone: neither side has a
// Dedupe that would make up for it.
func TestS12_TwoTransactions_Joined(t *testing.T) {
	onAndOff(t, sqlPairs(t), func(t *testing.T, p pair, protected bool) []string {
		queue := findable(t, p.broker)
		c := twoTransactionsCase{
			pair: p, options: []option{withBroker(queue.url), withDatabase(queue.databaseURL)}, queue: queue,
			protect: func(w *world, s *subscription) {
				if !protected {
					return
				}
				w.brokerURL = withOptions(w.brokerURL, "join=true")
				bus := w.openBroker(brokers.Config{Join: brokers.JoinUnits(w.st.Begin)})
				require.True(t, bus.Capabilities.JoinsTx)
				var err error
				s.subscriber, err = bus.SubscriberFor("stock")
				require.NoError(t, err)
			},
		}
		if protected {
			c.commitsAtAck = 1
		}
		return twoTransactions(t, c)
	})
}

type twoTransactionsCase struct {
	pair

	options []option
	queue   findableQueue
	protect func(*world, *subscription)
	// commitsAtAck is 1 where the domain's commit comes with the queue's, after
	// the handler has returned: a failure then shows after one success more.
	commitsAtAck int
}

func twoTransactions(t *testing.T, c twoTransactionsCase) []string {
	t.Helper()
	s := newStock(open(t, c.pair, c.options...))
	topic, acked := s.topic("stock"), newTally()
	sub := subscription{
		service: "stock", topic: topic,
		middlewares: chain(one(acked.acked), one(c.queue.breakOnce("a-fails"))),
		handle:      s.addUnlessDomainFails("b-fails"),
	}
	c.protect(s.world, &sub)
	s.serve(sub)
	// The queue's commit fails for one message after its handler has returned, the
	// domain's commit for the other.
	aFails := stockChanged{Product: 1, Quantity: 10, Line: 1}
	bFails := stockChanged{Product: 2, Quantity: 20, Line: 2}
	require.NoError(t, s.bus.Publisher.Publish(topic, s.named("a-fails", aFails), s.named("b-fails", bFails)))
	acked.wait(t, "a-fails", 2)
	acked.wait(t, "b-fails", 1+c.commitsAtAck)
	s.settled(topic, "stock")
	return append(s.damage(aFails), s.damage(bFails)...)
}

func (s stock) named(uuid string, e stockChanged) *message.Message {
	msg := s.message(e)
	msg.UUID = uuid
	return msg
}

// addUnlessDomainFails does the work of a message; the commit fails once for the
// message of this name.
func (s stock) addUnlessDomainFails(name string) message.HandlerFunc {
	first := firstTime()
	return func(msg *message.Message) ([]*message.Message, error) {
		e, err := parseStock(msg)
		if err != nil {
			return nil, err
		}
		return nil, s.st.InTx(msg.Context(), func(ctx context.Context, _ store.Tx) error {
			if err := s.add(ctx, e); err != nil {
				return err
			}
			if msg.UUID == name && first(name) {
				return store.BeforeCommit(ctx, func(context.Context, store.Tx) error { return errInjected })
			}
			return s.recommend(ctx, e.Product)
		})
	}
}

// findableQueue is a SQL broker whose sessions in the server can be told from
// others'.
type findableQueue struct {
	t                *testing.T
	url, databaseURL string
	admin            *sql.DB
	kill             string
	args             []any
}

func findable(t *testing.T, kind string) findableQueue {
	t.Helper()
	q := findableQueue{t: t, databaseURL: testenv.Database(t, kind)}
	if kind == postgres {
		tag := testenv.Topic(t, "queue")
		q.admin = testenv.Open(t, q.databaseURL)
		q.databaseURL = withOptions(q.databaseURL, "application_name="+tag)
		q.kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity " +
			"WHERE application_name = $1 AND state = 'idle in transaction'"
		q.args = []any{tag}
	} else {
		q.admin = testenv.Open(t, q.databaseURL)
	}
	q.url = withOptions(q.databaseURL, "poll_max=20ms&nack_delay=5ms")
	return q
}

// breakOnce kills the session in which the queue's message was read, once its
// handler has returned, and before its ack.
func (q findableQueue) breakOnce(name string) message.HandlerMiddleware {
	first := firstTime()
	return func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			produced, err := h(msg)
			if err != nil || msg.UUID != name || !first(name) {
				return produced, err
			}
			return produced, q.killSessions(context.WithoutCancel(msg.Context()))
		}
	}
}

// killSessions ends the queue's sessions: on Postgres those in a transaction, on
// MariaDB all in its database, where idle ones are replaced by their pools.
func (q findableQueue) killSessions(ctx context.Context) error {
	if q.kill != "" {
		var killed int
		err := q.admin.QueryRowContext(ctx, q.kill, q.args...).Scan(&killed)
		if err == nil && killed == 0 {
			err = errors.New("found no session to kill")
		}
		return err
	}
	var ids []string
	err := sqlx.NewDb(q.admin, "mysql").SelectContext(ctx, &ids,
		"SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
	for _, id := range ids {
		_, killed := q.admin.ExecContext(ctx, "KILL "+id)
		err = errors.Join(err, killed)
	}
	if err == nil && len(ids) == 0 {
		err = errors.New("found no session to kill")
	}
	return err
}
