package store_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// watermill-sql's own subscriber keeps its transaction open after a nack and
// delivers the message again within it.
func TestANackOfWatermillSQLsOwnSubscriberLosesNothingInItsTransaction(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		return // it takes Postgres and MariaDB
	}
	for kind, c := range map[string]struct {
		dialect store.Dialect
		params  string
		config  wsql.SubscriberConfig
	}{
		"postgres": {store.Postgres, "", wsql.SubscriberConfig{
			SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
		}},
		"mariadb": {store.MySQL, "parseTime=true", wsql.SubscriberConfig{
			SchemaAdapter: wsql.DefaultMySQLSchema{}, OffsetsAdapter: wsql.DefaultMySQLOffsetsAdapter{},
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, with(testenv.Database(t, kind), c.params))
			st, err := store.Open(t.Context(), db, store.Config{Dialect: c.dialect, Migrate: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			_, err = db.ExecContext(t.Context(), "CREATE TABLE effects (attempt INT NOT NULL)")
			require.NoError(t, err)

			subscriber, messages := subscribed(t, db, c.config)
			for attempt := 1; attempt <= 3; attempt++ {
				var msg *message.Message
				select {
				case msg = <-messages:
				case <-time.After(20 * time.Second):
					t.Fatal("no message came")
				}
				if err := deliver(t, st, msg, attempt); attempt < 3 {
					require.Error(t, err)
					require.True(t, msg.Nack())
				} else {
					require.NoError(t, err)
					require.True(t, msg.Ack())
				}
			}
			require.NoError(t, subscriber.Close())
			var sum int
			require.NoError(t, db.QueryRowContext(t.Context(), "SELECT sum(attempt) FROM effects").Scan(&sum))
			require.Equal(t, 3, sum, "one attempt's effects, with its ack")
		})
	}
}

// subscribed publishes one message to a stock subscriber.
func subscribed(t *testing.T, db *sql.DB, config wsql.SubscriberConfig) (*wsql.Subscriber, <-chan *message.Message) {
	t.Helper()
	config.InitializeSchema, config.ConsumerGroup = true, "g"
	config.PollInterval, config.ResendInterval = 10*time.Millisecond, time.Millisecond
	subscriber, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(db), config, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, subscriber.Close()) })
	messages, err := subscriber.Subscribe(t.Context(), "orders")
	require.NoError(t, err)
	publisher, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(db),
		wsql.PublisherConfig{SchemaAdapter: config.SchemaAdapter}, nil)
	require.NoError(t, err)
	require.NoError(t, publisher.Publish("orders", message.NewMessage("m", []byte("{}"))))
	return subscriber, messages
}

// deliver is a handler behind Dedupe, which fails on its first two attempts.
func deliver(t *testing.T, st *store.Store, msg *message.Message, attempt int) error {
	t.Helper()
	tx, ok := wsql.TxFromContext(msg.Context())
	require.True(t, ok)
	std, ok := tx.(*wsql.StdSQLTx)
	require.True(t, ok)
	row := store.InboxRow{Consumer: "c", MessageID: msg.UUID, Verdict: store.Applied}
	return st.InTx(st.Join(msg.Context(), std.Tx), func(ctx context.Context, tx store.Tx) error {
		_, inserted, err := st.InsertInbox(ctx, row)
		require.NoError(t, err)
		require.True(t, inserted, "attempt %d is no duplicate of the one that failed", attempt)
		_, err = tx.ExecContext(ctx, "INSERT INTO effects VALUES (?)", attempt)
		require.NoError(t, err)
		switch attempt {
		case 1:
			return errors.New("boom")
		case 2: // which aborts the transaction on Postgres
			_, err = tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
		}
		return err
	})
}
