package middleware_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/store"
)

// joined is a message in a unit of work that its subscriber will end, as the SQL
// brokers deliver it with join=true.
func (b *bundle) joined(t *testing.T) (*message.Message, *store.Unit) {
	t.Helper()
	unit, err := b.st.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { unit.Rollback(context.Background(), nil) })
	msg := message.NewMessage("1", nil)
	msg.SetContext(unit.Context(t.Context()))
	return msg, unit
}

// A message that PoisonQueue has put aside must be acked. Its handler's failure
// would otherwise roll back the ack, the message would come again for ever, and on
// a broker that keeps order nothing would pass it.
func TestPoisonQueuePutsAsideInASubscribersTransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		poison, err := wmiddleware.PoisonQueue(b.outbox.Publisher(), "aside")
		require.NoError(t, err)
		handler := poison(b.dedupe(t).Middleware(func(msg *message.Message) ([]*message.Message, error) {
			_, err := b.add(msg)
			require.NoError(t, err)
			require.NoError(t, store.AfterCommit(msg.Context(), func() { t.Error("a hook of what was undone") }))
			_, err = store.JoinDB(b.st).ExecContext(msg.Context(), "INSERT INTO nowhere VALUES (1)")
			return nil, err
		}))
		msg, unit := b.joined(t)
		_, err = handler(msg)
		require.NoError(t, err)
		require.NoError(t, unit.Commit(t.Context()))
		require.Zero(t, b.quantity(t))
		outbox, err := b.st.CountOutbox(t.Context())
		require.NoError(t, err)
		require.Len(t, outbox, 1)
		require.Equal(t, "aside", outbox[0].Topic)
		inbox, err := b.st.CountInbox(t.Context())
		require.NoError(t, err)
		require.Empty(t, inbox, "what was put aside may be sent again")
	})
}

func TestRetriesInASubscribersTransactionBeginAnew(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		calls := 0
		retry := wmiddleware.Retry{MaxRetries: 2, InitialInterval: time.Millisecond, Logger: watermill.NopLogger{}}
		handler := retry.Middleware(b.dedupe(t).Middleware(func(msg *message.Message) ([]*message.Message, error) {
			calls++
			_, err := b.add(msg)
			require.NoError(t, err)
			if calls < 3 {
				return nil, errors.New("boom")
			}
			return nil, nil
		}))
		msg, unit := b.joined(t)
		_, err := handler(msg)
		require.NoError(t, err)
		require.NoError(t, unit.Commit(t.Context()))
		require.Equal(t, 3, calls)
		require.Equal(t, 1, b.quantity(t))
	})
}

// A handler that acks its message itself lets the subscriber commit while Dedupe
// has yet to write what the handler returns.
func TestAnEarlyAckDoesNotCommitHalfOfWhatAHandlerDoes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		for name, fails := range map[string]error{"done": nil, "failed": errors.New("boom")} {
			before := b.quantity(t)
			committed := make(chan error, 1)
			dedupe, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: "stock.add", Outbox: b.outbox})
			require.NoError(t, err)
			msg, unit := b.joined(t)
			_, err = dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) {
				_, err := b.add(msg)
				require.NoError(t, err)
				go func() { committed <- unit.Commit(context.Background()) }()
				select {
				case err := <-committed:
					t.Errorf("committed (%v) while the handler is at work", err)
				case <-time.After(50 * time.Millisecond): // a commit would be quicker
				}
				_, err = b.add(msg)
				require.NoError(t, err)
				return nil, fails
			})(msg)
			require.ErrorIs(t, err, fails, name)
			if fails == nil {
				require.NoError(t, <-committed)
				require.Equal(t, before+2, b.quantity(t))
				_, err := b.st.DB().ExecContext(t.Context(), "DELETE FROM headrace_inbox")
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, <-committed, store.ErrDoomed)
				require.Equal(t, before, b.quantity(t))
			}
		}
	})
}
