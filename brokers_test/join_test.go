package brokers_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// joined is a broker whose handlers work in the transaction that records the
// ack, and a table for them to write to.
type joined struct {
	*bundle

	db *sql.DB
	st *store.Store
}

func onJoined(t *testing.T, test func(t *testing.T, j *joined)) {
	t.Helper()
	onSQL(t, func(t *testing.T, b *bundle, db *sql.DB) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), "CREATE TABLE effects (n VARCHAR(100))")
		require.NoError(t, err)
		dialect := store.Postgres
		if b.name == "mariadb" {
			dialect = store.MySQL
		}
		st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, st.Close()) })

		j := &joined{bundle: b, db: db, st: st}
		j.rawURL = withOptions(t, b.rawURL, map[string]string{"join": "true", "drain": "300ms"})
		j.Broker = j.open(t, nil)
		test(t, j)
	})
}

func (j *joined) open(t *testing.T, options map[string]string) *brokers.Broker {
	t.Helper()

	b, err := brokers.Open(t.Context(), withOptions(t, j.rawURL, options),
		brokers.Config{Openers: all.Openers(), Group: "one", Join: brokers.JoinUnits(j.st.Begin)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	return b
}

// effect writes a row as a handler would.
func (j *joined) effect(ctx context.Context, t *testing.T, n string) {
	t.Helper()

	require.NoError(t, j.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO effects (n) VALUES (?)", n)

		return err
	}))
}

func (j *joined) effects(t *testing.T) (effects []string) {
	t.Helper()

	rows, err := j.db.QueryContext(t.Context(), "SELECT n FROM effects ORDER BY n")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var n string
		require.NoError(t, rows.Scan(&n))
		effects = append(effects, n)
	}
	require.NoError(t, rows.Err())

	return effects
}

// waitCommitted waits for effects that were acked.
func (j *joined) waitCommitted(t *testing.T, want ...string) {
	t.Helper()

	testenv.Eventually(t, patience, 5*time.Millisecond, func() (bool, string) {
		got := fmt.Sprint(j.effects(t))

		return got == fmt.Sprint(want), got
	})
}

func TestJoinedEffectsAndAckAreOneCommit(t *testing.T) {
	t.Parallel()
	onJoined(t, func(t *testing.T, j *joined) {
		t.Helper()
		require.True(t, j.Capabilities.JoinsTx)
		messages := j.subscribe(t, "one")
		j.publish(t, newMessage("k", "first"), newMessage("k", "second"))

		first := receive(t, messages)
		j.effect(first.Context(), t, "of the first attempt")
		require.Empty(t, j.effects(t), "nothing is visible before the commit")
		after := make(chan struct{})
		require.NoError(t, store.AfterCommit(first.Context(), func() { close(after) }))
		first.Ack()
		<-after
		require.Equal(t, []string{"of the first attempt"}, j.effects(t))

		second := receive(t, messages)
		require.Equal(t, "second", string(second.Payload))
		j.effect(second.Context(), t, "of the second message")
		second.Ack()
		j.waitCommitted(t, "of the first attempt", "of the second message")
	})
}

func TestJoinedEffectsOfAFailedAttemptAreUndone(t *testing.T) {
	t.Parallel()

	for name, fail := range map[string]func(t *testing.T, j *joined, msg *message.Message){
		"nack": func(_ *testing.T, _ *joined, msg *message.Message) { msg.Nack() },
		"hook before commit": func(t *testing.T, _ *joined, msg *message.Message) {
			t.Helper()
			require.NoError(t, store.BeforeCommit(msg.Context(), func(context.Context, store.Tx) error {
				return errors.New("not yet")
			}))
			msg.Ack()
		},
		"statement failed": func(t *testing.T, j *joined, msg *message.Message) {
			t.Helper()
			require.Error(t, j.st.InTx(msg.Context(), func(ctx context.Context, tx store.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")

				return err
			}))
			msg.Ack() // in spite of it
		},
		"deadline": func(_ *testing.T, _ *joined, msg *message.Message) { <-msg.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onJoined(t, func(t *testing.T, j *joined) {
				t.Helper()
				j.Broker = j.open(t, map[string]string{"ack_deadline": "1s"})
				messages := j.subscribe(t, "one")
				j.publish(t, newMessage("k", "x"))

				msg := receive(t, messages)
				j.effect(msg.Context(), t, "undone")
				fail(t, j, msg)

				again := receive(t, messages)
				require.Equal(t, msg.UUID, again.UUID)
				require.Empty(t, j.effects(t))
				j.effect(again.Context(), t, "done")
				again.Ack()
				j.waitCommitted(t, "done")
			})
		})
	}
}

func TestJoinedEffectsOfAConsumerThatClosesAreUndone(t *testing.T) {
	t.Parallel()
	onJoined(t, func(t *testing.T, j *joined) {
		t.Helper()
		messages, sub := j.subscribeCtx(t.Context(), t, "one")
		j.publish(t, newMessage("k", "x"))
		msg := receive(t, messages)
		j.effect(msg.Context(), t, "undone")
		require.NoError(t, sub.Close())
		waitClosed(t, messages)
		require.Empty(t, j.effects(t))
		msg.Ack() // too late

		again := receive(t, j.subscribe(t, "one"))
		j.effect(again.Context(), t, "done")
		again.Ack()
		j.waitCommitted(t, "done")
	})
}

func TestJoiningNeedsTheStoreInTheSameDatabase(t *testing.T) {
	t.Parallel()
	onJoined(t, func(t *testing.T, j *joined) {
		t.Helper()
		_, err := brokers.Open(t.Context(), j.rawURL, brokers.Config{Openers: all.Openers()})
		require.ErrorIs(t, err, brokers.ErrBadOption)
		require.ErrorContains(t, err, "JoinUnits")

		// A database of the same kind, elsewhere.
		kind := map[string]string{"postgres": "postgres", "mariadb": "mariadb"}[j.name]
		other, err := store.Open(t.Context(), testenv.Open(t, testenv.Database(t, kind)),
			store.Config{Dialect: j.st.Dialect(), Migrate: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, other.Close()) }()
		b, err := brokers.Open(t.Context(), j.rawURL,
			brokers.Config{Openers: all.Openers(), Group: "one", Join: brokers.JoinUnits(other.Begin)})
		require.NoError(t, err)
		defer func() { require.NoError(t, b.Close()) }()
		_, err = b.Subscriber.Subscribe(t.Context(), j.topic)
		require.ErrorIs(t, err, brokers.ErrBadOption)
		require.ErrorContains(t, err, "one database")
	})
}
