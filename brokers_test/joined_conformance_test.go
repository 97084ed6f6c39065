package brokers_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// ownSubscriber is a subscriber of a broker that was opened for it alone.
type ownSubscriber struct {
	message.Subscriber

	broker *brokers.Broker
}

func (s ownSubscriber) Close() error { return firstError(s.Subscriber.Close(), s.broker.Close()) }

// withJoin has handlers work in the transaction that records their ack, with the
// store in the broker's own database.
func withJoin(t *testing.T, database, rawURL string, h *conformance.Harness) {
	t.Helper()

	db := testenv.Open(t, database)
	dialect, err := store.DetectDialect(t.Context(), db)
	require.NoError(t, err)
	st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect, Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })

	h.Foreign = foreignSQL(db, dialect)
	h.Capabilities.JoinsTx = true // of what Join opens
	rawURL = withOptions(t, rawURL, map[string]string{"join": "true", "ack_deadline": "3s"})
	h.Join = func(ctx context.Context, group string) (conformance.Joined, error) {
		b, err := brokers.Open(ctx, rawURL,
			brokers.Config{Openers: all.Openers(), Group: group, Join: brokers.JoinUnits(st.Begin)})
		if err != nil {
			return conformance.Joined{}, err
		}
		sub, err := b.SubscriberFor(group)
		if err != nil {
			return conformance.Joined{}, firstError(err, b.Close())
		}

		return conformance.Joined{Subscriber: ownSubscriber{sub, b}, Store: st}, nil
	}
}

// foreignSQL publishes as a trigger or script would, with no more than the table
// demands.
func foreignSQL(db *sql.DB, dialect store.Dialect) func(context.Context, string, []byte) error {
	return func(ctx context.Context, topic string, payload []byte) error {
		table := "headrace_msgs_t_" + topic // as topics of plain letters are stored
		statement := "INSERT INTO " + table + " (uuid, payload, metadata) VALUES (?, ?, '{}')"
		if dialect == store.Postgres {
			statement = "INSERT INTO " + table +
				" (uuid, payload, metadata, transaction_id) VALUES ($1, $2, '{}', pg_current_xact_id())"
		}
		_, err := db.ExecContext(ctx, statement, watermill.NewUUID(), payload)

		return err
	}
}
