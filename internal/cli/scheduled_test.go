package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func schedule(t *testing.T, st *store.Store, rows ...store.ScheduledRow) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		return st.InsertScheduled(ctx, tx, rows)
	}))
}

func TestScheduledListsWhatWaitsAndCancelsIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		t, kind, url := on.T, on.kind, on.url
		st, _ := migrated(t, kind, url)
		var term terminal
		require.Equal(t, exitOK, term.run(t, "scheduled", "ls", "--db", url), term.err.String())
		require.Contains(t, term.out.String(), "nothing waits")

		message := func(service, id, key string, in time.Duration) store.ScheduledRow {
			return store.ScheduledRow{DueIn: in, OutboxRow: store.OutboxRow{
				Service: service, MessageID: id, Key: key, Destination: "default", Topic: "mail", Payload: []byte("secret"),
			}}
		}
		schedule(t, st, message("shop", "later", "k", 3*time.Hour), message("shop", "soon\x1b[31m", "k", time.Hour),
			message("", "overdue", "", 0))
		require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			slot := message("shop", "slot", "supplier 7", 2*time.Hour)
			slot.Slot, slot.Subject = "a slot", "supplier 7"
			_, err := st.TouchSlot(ctx, tx, slot)
			return err
		}))

		all := result[scheduledJSON](t, exitOK, "scheduled", "ls", "--db", url)
		var ids []string
		for _, m := range all.Messages {
			ids = append(ids, m.MessageID)
		}
		require.Equal(t, []string{"overdue", "soon\x1b[31m", "slot", "later"}, ids)
		require.Equal(t, "supplier 7", all.Messages[2].Subject)
		require.InDelta(t, 7200, all.Messages[2].DueIn, 60)
		require.Zero(t, all.Next)
		require.Equal(t, exitOK, term.run(t, "scheduled", "ls", "--db", url))
		require.NotContains(t, term.out.String(), "secret")
		require.NotContains(t, term.out.String(), "\x1b")
		require.Contains(t, term.out.String(), "(none)")

		status := result[statusJSON](t, exitOK, "status", "--db", url).Scheduled
		require.EqualValues(t, 4, status.Waiting)
		require.LessOrEqual(t, status.NextInSeconds, 0.)
		require.Equal(t, exitOK, term.run(t, "status", "--db", url))
		require.Contains(t, term.out.String(), "SCHEDULED  4 messages for later")
		downToFirst(t, url)
		answer := terminal{input: "no\n"}
		require.Equal(t, exitFailed, answer.run(t, "migrate", "down", "--db", url))
		require.Contains(t, answer.err.String(), "0 unsent messages in the outbox, 4 messages for later, and the memory")
		require.Equal(t, exitOK, term.run(t, "migrate", "up", "--db", url), term.err.String())

		first := result[scheduledJSON](t, exitOK, "scheduled", "ls", "--limit", "2", "--db", url)
		require.Len(t, first.Messages, 2)
		rest := result[scheduledJSON](t, exitOK, "scheduled", "ls", "--after", fmt.Sprint(first.Next), "--db", url)
		require.Equal(t, all.Messages[2].ID, rest.Messages[0].ID)
		require.Len(t, rest.Messages, 2)

		cancel := []string{"scheduled", "cancel", "--service", "shop", "--db", url}
		require.Equal(t, exitProblem, term.run(t, append(cancel, "later", "slot", "never")...))
		require.Equal(t, []string{
			"cancelled later", "cancelled slot",
			"never doesn't wait to be sent by service shop: it was sent or cancelled, or is another service's",
		}, strings.Split(strings.TrimSpace(term.out.String()), "\n"))
		require.Equal(t, exitProblem, term.run(t, append(cancel, "later")...))
		require.Equal(t, exitOK, term.run(t, "scheduled", "cancel", "overdue", "--db", url))
		require.Len(t, result[scheduledJSON](t, exitOK, "scheduled", "ls", "--db", url).Messages, 1)

		require.Equal(t, exitFailed, term.run(t, "scheduled", "ls", "--limit", "0", "--db", url))
		require.Equal(t, exitFailed, term.run(t, "scheduled", "cancel", "--db", url))
	})
}
