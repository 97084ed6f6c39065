package cli

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestAKeyIsShownPausedAndSetFree(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		free := "sku-1· of shop.orders: not held; what comes for it is handled at once\n"
		key := func(want int, command string, flags ...string) string {
			c.Helper()
			return c.do(want, append([]string{"key", command, parkedConsumer, "sku-1\x1b"}, flags...)...)
		}
		require.Equal(c, free, key(exitOK, "show"))
		require.Equal(c, `left as it is: line is not held: "sku-1\x1b" of "shop.orders"; what comes for it is handled at once`+
			"\n"+free, key(exitProblem, "release"))
		require.Contains(c, key(exitProblem, "resume"), "left as it is: line is not held")
		require.Contains(c, c.failed("key", "pause", "shop.odrers", "sku-1"), `unknown consumer "shop.odrers"`)

		keep(on.T, st, "sku-1\x1b", "m-1", store.StatusParked, errUnknown)
		keep(on.T, st, "sku-1\x1b", "m-2", store.StatusWaiting, nil)
		held := "  first is 1, parked (400 Bad Request: ·[31munknown supplier); next: a person; 1 behind it\n"
		require.Equal(c, "sku-1· of shop.orders: held for AGE\n"+held, key(exitOK, "show"))
		require.Contains(c, key(exitProblem, "resume"), `left as it is: the key isn't paused: "sku-1\x1b" of "shop.orders"`)
		require.Contains(c, c.failed("key", "pause", "shop.odrers", "sku-1"), "known are shop.orders")
		require.Equal(c, "sku-1· of shop.orders: held for AGE, paused\n"+held+"  TIME pause by anna (look at it)\n",
			key(exitOK, "pause", "--note", "look at it"))
		require.Contains(c, key(exitProblem, "release"), "left as it is: message 1: it has failed for good: edit it first")
		released := key(exitOK, "release", "--force", "--as", "bert")
		require.Contains(c, released, "released 1 message of sku-1·\n")
		require.Contains(c, released, "\nsku-1· is not paused any more\n")
		require.Contains(c, released, "\nsku-1· of shop.orders: held for AGE\n  first is 1, released")
		require.Contains(c, key(exitProblem, "release"), "none of its messages waits for a person or for another try")
		require.Equal(c, []int64{1, 2}, work(on.T, st, func(store.ParkedRow) error { return nil }))
		require.Equal(c, free+"  TIME pause by anna (look at it)\n  TIME resume by bert\n", key(exitOK, "show"))

		paused := result[keyJSON](on.T, exitOK, "key", "pause", parkedConsumer, "sku-2", "--db", on.url)
		require.True(c, paused.Held && paused.Gate.Paused)
		require.Nil(c, paused.Head)
		require.Contains(c, c.do(exitOK, "key", "resume", parkedConsumer, "sku-2"),
			"sku-2 of shop.orders: not held; what comes for it is handled at once\n  TIME pause by ")
		misspelt := terminal{}
		require.Equal(c, exitOK, misspelt.run(on.T, "key", "show", "shop.ordres", "sku-1", "--db", on.url))
		require.Contains(c, misspelt.err.String(), `unknown consumer "shop.ordres": known are shop.orders`)
		require.Contains(c, c.failed("key"), "key needs one of show, pause, resume or release")
		require.Contains(c, c.failed("key", "show", parkedConsumer, ""), "the consumer's name and the key are needed")
	})
}

func TestReviewsAreAcceptedAndRejected(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		conflict := parking.AsConflict(errors.New("the price has changed"))
		keep(on.T, st, "sku-1", "m-1", store.StatusReview, conflict)
		keep(on.T, st, "sku-2", "m-2", store.StatusReview, conflict)
		keep(on.T, st, "sku-3", "m-3", store.StatusParked, errRefused)
		require.Equal(c, "3 left as it is: message 3: it is not in review\n1 is accepted, and handled when it is its turn\n",
			c.do(exitProblem, "review", "accept", "3", "1", "--decision", "again"))
		require.Equal(c, "2 is rejected\n", c.do(exitOK, "review", "reject", "2", "--reason", "ours was wrong"))
		require.Contains(c, c.do(exitProblem, "review", "reject", "1", "--reason", "x"), "message 1: it is not in review")
		work(on.T, st, func(row store.ParkedRow) error {
			require.Equal(c, "again", row.Decision)
			return nil
		})
		require.Equal(c, "DB\n\nno such message waits\n", c.do(exitOK, "review", "ls"))
		require.Contains(c, c.failed("review", "accept"), "which messages?")
		require.Contains(c, c.failed("review", "accept", "1", "--decision", "x"), "--decision is accept, again or done")
		require.Contains(c, c.failed("review", "reject", "1"), "needs a reason")
	})
}

func TestRetryWaitsForWhatBecomesOfMessages(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		keep(on.T, st, "sku-1", "m-1", store.StatusParked, errRefused)
		keep(on.T, st, "sku-2", "m-2", store.StatusParked, errRefused)
		var term terminal
		ended := make(chan int, 1)
		go func() {
			ended <- term.run(on.T, "parked", "retry", "--all", "--wait", "--as", "anna", "--json", "--db", on.url)
		}()
		var handled int
		for handled < 2 {
			require.NoError(on, on.Context().Err())
			work(on.T, st, func(row store.ParkedRow) error {
				handled++
				if row.ID == 2 {
					return errRefused
				}
				return nil
			})
		}
		require.Equal(on, exitProblem, <-ended, "%s", &term.err)
		var got retriedJSON
		require.NoError(on, json.Unmarshal(term.out.Bytes(), &got))
		require.Equal(on, &outcomeJSON{Done: 1, FailedAgain: 1}, got.Outcome)
		require.Equal(on, 2, got.Released)
	})
}

// namesOf are the names of an object's fields.
func namesOf(t *testing.T, value any) []string {
	t.Helper()
	object, ok := value.(map[string]any)
	require.True(t, ok, "%T", value)
	return slices.Sorted(maps.Keys(object))
}

func TestFieldNamesOfTheDeskAreFixed(t *testing.T) {
	t.Parallel()
	url := testenv.SQLite(t)
	st, _ := migrated(t, "sqlite", url)
	keep(t, st, "k", "m", store.StatusDelayed, errRefused)
	var term terminal
	decoded := func(args ...string) (v map[string]any) {
		t.Helper()
		term.run(t, append(args, "--json", "--as", "anna", "--db", url)...)
		require.NoError(t, json.Unmarshal(term.out.Bytes(), &v), "%s", &term.err)
		return v
	}
	read := func(args ...string) (v map[string]any) {
		t.Helper()
		term.run(t, append(args, "--json", "--db", url)...)
		require.NoError(t, json.Unmarshal(term.out.Bytes(), &v), "%s", &term.err)
		return v
	}
	message := []string{
		"ahead", "attempts", "behind", "class", "consumer", "decided_by", "decision", "destination", "due_in_seconds", "edits",
		"error_type", "group", "id", "key", "message_id", "origin", "parked_at", "reason", "status", "subject", "title", "topic",
		"tries",
	}
	list := read("parked", "ls")
	require.Equal(t, []string{"database", "messages", "next"}, namesOf(t, list))
	require.Equal(t, message, namesOf(t, list["messages"].([]any)[0]))
	groups := read("parked", "ls", "--by-error")
	require.Equal(t, []string{"database", "groups"}, namesOf(t, groups))
	require.Equal(t, []string{
		"class", "consumer", "count", "error_type", "example", "group", "newest", "oldest", "title",
	}, namesOf(t, groups["groups"].([]any)[0]))
	decoded("parked", "edit", "1", "--set", "a=b")
	shown := read("parked", "show", "1", "--payload", "hex")
	names := append([]string{"audit", "content", "database", "edited", "errors", "gate", "history", "notes"}, message...)
	slices.Sort(names)
	require.Equal(t, names, namesOf(t, shown))
	require.Equal(t, []string{"bytes", "metadata", "payload"}, namesOf(t, shown["content"]))
	gate := []string{"claimed_by", "due_in_seconds", "held_seconds", "paused", "waiting"}
	require.Equal(t, gate, namesOf(t, shown["gate"]))
	require.Equal(t, []string{"action", "actor", "at", "details"}, namesOf(t, shown["audit"].([]any)[0]))
	key := read("key", "show", parkedConsumer, "k")
	require.Equal(t, []string{"audit", "consumer", "database", "gate", "head", "held", "key"}, namesOf(t, key))
	require.Equal(t, []string{"actor", "database", "not_running", "refused", "refused_count", "released", "total"},
		namesOf(t, decoded("parked", "retry", "1")))
	refused := decoded("parked", "discard", "9", "--reason", "x")
	require.Equal(t, []string{"action", "actor", "database", "done", "not_running", "refused"}, namesOf(t, refused))
	require.Equal(t, []string{"id", "why"}, namesOf(t, refused["refused"].([]any)[0]))
}
