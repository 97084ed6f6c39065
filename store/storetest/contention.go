package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testContention(t *testing.T, h Harness) {
	tests := []test{
		{"ALostAttemptIsRunAgain", contentionRetried},
		{"EveryAttemptLostEndsInATypedError", contentionGivesUp},
		{"ACancelledMessageIsNotRunAgain", contentionCancelled},
		{"WritersTakeTurns", contentionWriters},
	}
	if h.Dialect != store.SQLite { // which has one writer
		tests = append(tests,
			test{"DeadlockIsRetried", deadlockRetried},
			test{"DeadlockWithoutRetriesEndsInATypedError", deadlockGivesUp},
			test{"SwallowedDeadlockLetsNothingElseRun", deadlockSwallowed},
		)
	}
	each(t, h, tests)
}

//nolint:gochecknoglobals // a constant in all but kind
var about = store.About{Consumer: "stock.reserve", MessageID: "m-1", Keys: []string{"product/1", "product/2"}}

func contentionRetried(t *testing.T, b *bundle) {
	logger := watermill.NewCaptureLogger()
	stats := &recorded{}
	st := b.store(t, store.Config{Logger: logger, Hooks: []any{stats}})
	attempts := 0
	err := st.InTx(store.WithAbout(t.Context(), about), func(ctx context.Context, tx store.Tx) error {
		attempts++
		require.NoError(t, insert(ctx, tx, attempts))
		if attempts < 3 {
			return fmt.Errorf("wrapped: %w", b.lost())
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, b.int(t, "SELECT sum(id) FROM things"), "only the last attempt's effects")
	require.Equal(t, 3, stats.last(t).Attempts)
	require.True(t, stats.last(t).Committed)
	requireLogged(t, logger, watermill.InfoLogLevel, "running it again")
}

// requireLogged looks for an entry that names whose work it was.
func requireLogged(
	t *testing.T, logger *watermill.CaptureLoggerAdapter, level watermill.LogLevel, text string,
) watermill.CapturedMessage {
	t.Helper()
	for _, entry := range logger.Captured()[level] {
		if strings.Contains(entry.Msg, text) {
			require.Equal(t, about.Consumer, entry.Fields["consumer"])
			require.Equal(t, about.MessageID, entry.Fields["message_id"])
			require.Equal(t, "product/1,product/2", entry.Fields["keys"])
			return entry
		}
	}
	require.Failf(t, "not logged", "%q in %v", text, logger.Captured())
	return watermill.CapturedMessage{}
}

func contentionGivesUp(t *testing.T, b *bundle) {
	logger := watermill.NewCaptureLogger()
	st := b.store(t, store.Config{MaxRetries: 2, Logger: logger})
	attempts := 0
	err := st.InTx(store.WithAbout(t.Context(), about), func(ctx context.Context, tx store.Tx) error {
		attempts++
		require.NoError(t, insert(ctx, tx, 1))
		return b.lost()
	})
	require.ErrorIs(t, err, store.ErrContention)
	require.True(t, st.IsContention(err))
	require.GreaterOrEqual(t, attempts, 3, "and more where the machine is so slow that waiting for the lock ends too")
	require.Zero(t, b.things(t))
	requireLogged(t, logger, watermill.ErrorLogLevel, "on every attempt")
}

func contentionCancelled(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	attempts := 0
	err := st.InTx(ctx, func(context.Context, store.Tx) error {
		attempts++
		cancel()
		return b.lost()
	})
	require.True(t, st.IsContention(err))
	require.Equal(t, 1, attempts)
}

func contentionWriters(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	second := b.storeOn(t, b.open(t), store.Config{}) // another process, as far as SQLite can tell
	b.exec(t, "INSERT INTO things (id, n) VALUES (1, 0)")
	const writers, each = 4, 10
	var all sync.WaitGroup
	errs := make(chan error, writers*each)
	for w := range writers {
		all.Go(func() {
			st := []*store.Store{st, second}[w%2]
			for range each {
				errs <- st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
					var n int
					query := "SELECT n FROM things WHERE id = 1"
					if b.h.Dialect != store.SQLite {
						query += " FOR UPDATE"
					}
					if err := tx.GetContext(ctx, &n, query); err != nil {
						return err
					}
					_, err := tx.ExecContext(ctx, "UPDATE things SET n = ? WHERE id = 1", n+1)
					return err
				})
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, writers*each, b.int(t, "SELECT n FROM things WHERE id = 1"))
}

// crossed runs two units that lock the same two rows in opposite order. Their
// first attempts meet: each holds its first row before either asks for its
// second. swallow makes the handler ignore the second statement's error.
func crossed(t *testing.T, b *bundle, st *store.Store, swallow bool) [2]error {
	t.Helper()
	b.exec(t, "INSERT INTO things (id, n) VALUES (1, 0)")
	b.exec(t, "INSERT INTO things (id, n) VALUES (2, 0)")
	var held [2]chan struct{}
	held[0], held[1] = make(chan struct{}), make(chan struct{})
	var errs [2]error
	var both sync.WaitGroup
	for i := range 2 {
		both.Go(func() {
			attempts := 0
			errs[i] = st.InTx(store.WithAbout(t.Context(), about), func(ctx context.Context, tx store.Tx) error {
				attempts++
				add := func(id int) error {
					_, err := tx.ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = ?", id)
					return err
				}
				if err := add(i + 1); err != nil {
					return err
				}
				if attempts == 1 {
					close(held[i])
					await(t, "the other unit holds its first row", held[1-i])
				}
				err := add(2 - i)
				if err != nil && swallow {
					if after := insert(ctx, tx, 100+i); after == nil {
						t.Error("a statement ran after its transaction had been rolled back")
					}
					return nil
				}
				return err
			})
		})
	}
	both.Wait()
	return errs
}

// deadlockRetried is S15: no effect lost, none doubled.
func deadlockRetried(t *testing.T, b *bundle) {
	logger := watermill.NewCaptureLogger()
	stats := &recorded{}
	st := b.store(t, store.Config{Logger: logger, Hooks: []any{stats}})
	errs := crossed(t, b, st, false)
	require.NoError(t, errs[0])
	require.NoError(t, errs[1])
	require.Equal(t, 2, b.int(t, "SELECT n FROM things WHERE id = 1"))
	require.Equal(t, 2, b.int(t, "SELECT n FROM things WHERE id = 2"))
	entry := requireLogged(t, logger, watermill.InfoLogLevel, "running it again")
	require.Contains(t, entry.Fields["cause"], "UPDATE things SET n = n + 1", "names the statement in contention")
	attempts := 0
	for _, s := range stats.all() {
		attempts += s.Attempts
		require.Positive(t, s.Length, "the transaction's length is reported")
	}
	require.GreaterOrEqual(t, attempts, 3, "and more where the machine is so slow that waiting for the lock ends too")
}

func deadlockGivesUp(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{MaxRetries: -1})
	errs := crossed(t, b, st, false)
	lost := errs[0]
	if lost == nil {
		lost = errs[1]
	} else {
		require.NoError(t, errs[1], "one of them wins")
	}
	require.ErrorIs(t, lost, store.ErrContention)
	require.ErrorContains(t, lost, "UPDATE things SET n = n + 1")
	require.Equal(t, 2, b.int(t, "SELECT sum(n) FROM things"))
}

// MySQL has rolled the victim's transaction back when it reports the deadlock:
// without the guard, what follows would be committed statement by statement.
func deadlockSwallowed(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	errs := crossed(t, b, st, true)
	require.NoError(t, errs[0], "retried, although the handler hid the reason")
	require.NoError(t, errs[1], "retried, although the handler hid the reason")
	require.Equal(t, 4, b.int(t, "SELECT sum(n) FROM things"))
	require.Equal(t, 2, b.things(t))
}
