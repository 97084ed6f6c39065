package scenario

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
)

// side is where a middleware of Watermill's stands.
type side string

const (
	outside side = "outside" // added before Dedupe
	inside  side = "inside"  // added after Dedupe
)

// beside is a service whose one handler raises product 1, behind Dedupe and one
// of Watermill's middlewares.
type beside struct {
	stock

	topic, out      string
	attempts, acked *tally
}

// eachSide plays a test with a middleware on either side, on every database.
func eachSide(t *testing.T, test func(t *testing.T, b beside, where side)) {
	t.Helper()
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		for _, where := range []side{outside, inside} {
			t.Run(database+"/"+string(where), func(t *testing.T) {
				t.Parallel()
				s := newStock(open(t, pair{mem, database}))
				test(t, beside{s, s.topic("in"), s.topic("out"), newTally(), newTally()}, where)
			})
		}
	}
}

// handle starts the service and gives it one message. after runs in the handler
// when the product is raised; it is given the number of the attempt.
func (b beside) handle(
	where side, stockMiddleware message.HandlerMiddleware,
	after func(attempt int, msg *message.Message) ([]*message.Message, error),
) {
	b.t.Helper()
	around := []message.HandlerMiddleware{stockMiddleware, b.dedupe("stock")}
	if where == inside {
		around[0], around[1] = around[1], around[0]
	}
	b.serve(subscription{
		service: "stock", topic: b.topic, publish: b.out, middlewares: append(one(b.acked.acked), around...),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			if err := b.raise(msg.Context(), 1); err != nil {
				return nil, err
			}
			return after(b.attempts.add(msg.UUID), msg)
		},
	})
	msg := message.NewMessage("m", []byte("x"))
	wmiddleware.SetCorrelationID("correlated", msg)
	require.NoError(b.t, b.bus.Publisher.Publish(b.topic, msg))
	b.acked.wait(b.t, "m", 1)
	b.settled(b.topic, "stock")
}

func (b beside) raised() int {
	b.t.Helper()
	return b.count("SELECT quantity FROM products WHERE id = 1")
}

func failOnce(attempt int, _ *message.Message) ([]*message.Message, error) {
	if attempt == 1 {
		return nil, errInjected
	}
	return nil, nil
}

func TestStockRetry(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		b.handle(where, wmiddleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond}.Middleware, failOnce)
		attempts, _ := b.attempts.get("m")
		require.Equal(t, 2, attempts)
		if where == outside {
			require.Equal(t, 1, b.raised(), "each attempt is a transaction of its own")
		} else {
			require.Equal(t, 2, b.raised(), "what the failed attempt wrote stays: see package middleware's doc")
		}
	})
}

// After a statement that failed, Postgres refuses all others of the transaction.
func TestStockRetryAfterAFailedStatement(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		b.handle(where, wmiddleware.Retry{MaxRetries: 3, InitialInterval: time.Millisecond}.Middleware,
			func(attempt int, msg *message.Message) ([]*message.Message, error) {
				if attempt == 1 {
					return nil, b.exec(msg.Context(), "INSERT INTO there_is_no_such_table VALUES (1)")
				}
				return nil, nil
			})
		want := 1
		if where == inside && b.database != postgres {
			want = 2 // as in TestStockRetry; Postgres rolls back and is given the message again
		}
		require.Equal(t, want, b.raised())
	})
}

func TestStockRecoverer(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		b.handle(where, wmiddleware.Recoverer, func(attempt int, _ *message.Message) ([]*message.Message, error) {
			if attempt == 1 {
				panic(errInjected)
			}
			return nil, nil
		})
		require.Equal(t, 1, b.raised())
	})
}

// shortTimeout leaves time for the statements before a handler waits for it.
func shortTimeout(h message.HandlerFunc) message.HandlerFunc {
	return wmiddleware.Timeout(500 * time.Millisecond)(h)
}

func TestStockTimeout(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		b.handle(where, shortTimeout, func(attempt int, msg *message.Message) ([]*message.Message, error) {
			if attempt == 1 {
				<-msg.Context().Done()
				return nil, msg.Context().Err()
			}
			return nil, nil
		})
		require.Equal(t, 1, b.raised())
	})
}

// A handler that has returned nil must be able to commit, and so must what it
// has returned, though its time was over.
func TestStockTimeoutOfAHandlerThatSucceedsAllTheSame(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		b.handle(where, shortTimeout, func(_ int, msg *message.Message) ([]*message.Message, error) {
			<-msg.Context().Done()
			return []*message.Message{newMessage("out")}, nil
		})
		attempts, _ := b.attempts.get("m")
		require.Equal(t, 1, attempts)
		require.Equal(t, 1, b.raised())
		require.Equal(t, 1, b.count("SELECT count(*) FROM headrace_outbox WHERE topic = ?", b.out))
	})
}

func TestStockCorrelationID(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		heard := make(chan string, 1)
		b.serve(subscription{
			service: "next", topic: b.out,
			handle: func(msg *message.Message) ([]*message.Message, error) {
				heard <- wmiddleware.MessageCorrelationID(msg)
				return nil, nil
			},
		})
		b.forward(forwarder.Config{})
		b.handle(where, wmiddleware.CorrelationID, func(int, *message.Message) ([]*message.Message, error) {
			return []*message.Message{newMessage("out")}, nil
		})
		require.Equal(t, "correlated", receive(t, heard, "the message that the handler returned"))
	})
}

func TestStockPoisonQueue(t *testing.T) {
	eachSide(t, func(t *testing.T, b beside, where side) {
		poison, poisoned := b.topic+"_poison", newTally()
		b.serve(subscription{
			service: "undertaker", topic: poison, middlewares: one(poisoned.acked),
			handle: func(msg *message.Message) ([]*message.Message, error) {
				if msg.Metadata.Get(wmiddleware.ReasonForPoisonedKey) == "" {
					return nil, errors.New("no reason")
				}
				return nil, nil
			},
		})
		b.forward(forwarder.Config{})
		queue, err := wmiddleware.PoisonQueue(b.outbox.Publisher(), poison)
		require.NoError(t, err)
		b.handle(where, queue, func(int, *message.Message) ([]*message.Message, error) { return nil, errInjected })
		poisoned.wait(t, "m", 1)
		remembered := b.count("SELECT count(*) FROM headrace_inbox")
		if where == outside {
			require.Zero(t, b.raised(), "what failed was rolled back")
			require.Zero(t, remembered, "and isn't handled: sent again, it will be tried again")
		} else {
			require.Equal(t, 1, b.raised(), "what failed was committed: see package middleware's doc")
			require.Equal(t, 1, remembered)
		}
	})
}

// Inside, after a failed statement, Postgres can't commit: nothing is written,
// and the message comes again until its handler succeeds.
func TestStockPoisonQueueInsideAfterAFailedStatement(t *testing.T) {
	t.Parallel()
	for _, p := range on(t, []string{mem}, []string{postgres}) {
		s := newStock(open(t, p))
		b := beside{s, s.topic("in"), s.topic("out"), newTally(), newTally()}
		queue, err := wmiddleware.PoisonQueue(b.outbox.Publisher(), b.topic+"_poison")
		require.NoError(t, err)
		b.handle(inside, queue, func(attempt int, msg *message.Message) ([]*message.Message, error) {
			if attempt == 1 {
				return nil, b.exec(msg.Context(), "INSERT INTO there_is_no_such_table VALUES (1)")
			}
			return nil, nil
		})
		require.Equal(t, 1, b.raised())
		require.Zero(t, b.count("SELECT count(*) FROM headrace_outbox"), "the poisoned copy went with the transaction")
	}
}
