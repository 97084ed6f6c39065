package store_test

import (
	"context"
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
	if testing.Short() {
		return // it takes Postgres and MariaDB
	}
	for kind, c := range map[string]struct {
		dialect store.Dialect
		config  wsql.SubscriberConfig
	}{
		"postgres": {store.Postgres, wsql.SubscriberConfig{
			SchemaAdapter: wsql.DefaultPostgreSQLSchema{}, OffsetsAdapter: wsql.DefaultPostgreSQLOffsetsAdapter{},
		}},
		"mariadb": {store.MySQL, wsql.SubscriberConfig{
			SchemaAdapter: wsql.DefaultMySQLSchema{}, OffsetsAdapter: wsql.DefaultMySQLOffsetsAdapter{},
		}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, with(testenv.Database(t, kind), map[string]string{"mariadb": "parseTime=true"}[kind]))
			st, err := store.Open(t.Context(), db, store.Config{Dialect: c.dialect, Migrate: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			_, err = db.ExecContext(t.Context(), "CREATE TABLE effects (attempt INT NOT NULL)")
			require.NoError(t, err)

			c.config.InitializeSchema, c.config.ConsumerGroup = true, "g"
			c.config.PollInterval, c.config.ResendInterval = 10*time.Millisecond, time.Millisecond
			subscriber, err := wsql.NewSubscriber(wsql.BeginnerFromStdSQL(db), c.config, nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, subscriber.Close()) })
			messages, err := subscriber.Subscribe(t.Context(), "orders")
			require.NoError(t, err)
			publisher, err := wsql.NewPublisher(wsql.BeginnerFromStdSQL(db),
				wsql.PublisherConfig{SchemaAdapter: c.config.SchemaAdapter}, nil)
			require.NoError(t, err)
			require.NoError(t, publisher.Publish("orders", message.NewMessage("m", []byte("{}"))))

			for attempt := 1; attempt <= 3; attempt++ {
				var msg *message.Message
				select {
				case msg = <-messages:
				case <-time.After(20 * time.Second):
					t.Fatal("no message came")
				}
				tx, ok := wsql.TxFromContext(msg.Context())
				require.True(t, ok)
				std, ok := tx.(*wsql.StdSQLTx)
				require.True(t, ok)
				err := st.InTx(st.Join(msg.Context(), std.Tx), func(ctx context.Context, tx store.Tx) error {
					_, inserted, err := st.InsertInbox(ctx, store.InboxRow{Consumer: "c", MessageID: msg.UUID, Verdict: store.Applied})
					require.NoError(t, err)
					require.True(t, inserted, "attempt %d is no duplicate of the one that failed", attempt)
					_, err = tx.ExecContext(ctx, "INSERT INTO effects VALUES (?)", attempt)
					require.NoError(t, err)
					switch attempt {
					case 1:
						return errors.New("boom")
					case 2: // which aborts the transaction on Postgres
						_, err = tx.ExecContext(ctx, "INSERT INTO nowhere VALUES (1)")
						return err
					}
					return nil
				})
				if attempt < 3 {
					require.Error(t, err)
					require.True(t, msg.Nack())
					continue
				}
				require.NoError(t, err)
				require.True(t, msg.Ack())
			}
			require.NoError(t, subscriber.Close())
			var sum int
			require.NoError(t, db.QueryRowContext(t.Context(), "SELECT sum(attempt) FROM effects").Scan(&sum))
			require.Equal(t, 3, sum, "one attempt's effects, with its ack")
		})
	}
}
