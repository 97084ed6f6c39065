package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const parkedConsumer = "shop.orders"

// keep parks a message as middleware.Parking does.
func keep(t *testing.T, st *store.Store, key, id string, status store.ParkedStatus, cause error) (kept int64) {
	t.Helper()
	class := parking.Classify(cause)
	row := store.ParkedRow{
		Origin: store.OriginConsumer, Consumer: parkedConsumer, Line: store.KeyLine(parkedConsumer, key).Line, Key: key,
		InboxID: id, MessageID: id, Topic: "orders", Payload: []byte("secret\x1b[31m\nline"),
		Metadata: map[string]string{"color": "red\x1b[31m"}, Status: status, DueIn: time.Hour, Class: string(class),
		Attempts: 1, Chain: parking.Chain(cause),
		History: []store.AttemptRecord{{At: time.Now(), Attempt: 1, Instance: "host-1", Class: string(class), TookMs: 1500}},
	}
	if cause != nil {
		row.Reason, row.History[0].Error = cause.Error(), cause.Error()
	}
	row.ErrorType, row.ErrorGroup, row.ErrorTitle = parking.Group(parkedConsumer, class, cause)
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
		if status != store.StatusWaiting {
			kept, _, _, err = st.Park(ctx, tx, row, nil)
			return err
		}
		_, _, err = st.Admit(ctx, store.InboxRow{Consumer: parkedConsumer, MessageID: id, Verdict: store.Applied},
			store.KeyLine(parkedConsumer, key))
		if err == nil {
			kept, _, err = st.LineUp(ctx, tx, row)
		}
		return err
	}))
	return kept
}

// work handles what is due, as a service does, until nothing is.
func work(t *testing.T, st *store.Store, handle func(row store.ParkedRow) error) (handled []int64) {
	t.Helper()
	claims, err := st.ClaimLines(t.Context(), parkedConsumer, "host-1", time.Minute, 100)
	require.NoError(t, err)
	for _, claim := range claims {
		rows, err := st.ReadLine(t.Context(), claim, 0, 100, 1<<20)
		require.NoError(t, err)
		failed := false
		for _, row := range rows {
			if failed = !workOne(t, st, claim, row, handle); failed {
				break
			}
			handled = append(handled, row.ID)
		}
		if !failed {
			_, err = st.EndClaim(t.Context(), claim)
			require.NoError(t, err)
		}
	}
	return handled
}

func workOne(
	t *testing.T, st *store.Store, claim store.Claim, row store.ParkedRow, handle func(row store.ParkedRow) error,
) (done bool) {
	t.Helper()
	ref := store.HeldRef{Claim: claim, ID: row.ID, InboxID: row.InboxID, Edits: row.Edits}
	if err := handle(row); err != nil {
		require.NoError(t, st.FailParked(t.Context(), ref, store.Failure{
			Status: store.StatusParked, Class: string(parking.Classify(err)), Reason: err.Error(), Chain: parking.Chain(err),
		}))
		return false
	}
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		if _, err := st.Readmit(ctx, ref); err != nil {
			return err
		}
		return st.FinishParked(ctx, tx, ref, store.Applied, "", row.Status != store.StatusWaiting, row.Attempts+1)
	}))
	return true
}

var (
	errRefused = parking.AsTransient(fmt.Errorf("handle: %w", errors.New("dial tcp 10.0.0.1:5432: connection refused")))
	errUnknown = parking.AsPermanent(errors.New("400 Bad Request:\n\x1b[31munknown supplier"))
)

// commands runs commands on a database and reads what they write.
type commands struct {
	*testing.T

	term terminal
	url  string
}

func newCommands(t *testing.T, url string) *commands {
	t.Helper()
	return &commands{T: t, url: url, term: terminal{env: map[string]string{"HEADRACE_DB": url, "HEADRACE_ACTOR": "anna"}}}
}

func (c *commands) do(want int, args ...string) string {
	c.Helper()
	require.Equal(c, want, c.term.run(c.T, args...), "%v: %s%s", args, &c.term.out, &c.term.err)
	require.NotContains(c, c.term.out.String()+c.term.err.String(), "\x1b", "nothing steers the terminal")
	return steady(c.term.out.String(), c.url)
}

func (c *commands) failed(args ...string) string {
	c.Helper()
	require.Empty(c, c.do(exitFailed, args...))
	return c.term.err.String()
}

const parkedListed = `DB

ID  CONSUMER  KEY  STATUS  CLASS  TRIES  AGE  NEXT  BEHIND  REASON
1  shop.orders  sku-1  parked  permanent  1  AGE  a person  2  400 Bad Request: ·[31munknown supplier
4  shop.orders  sku-2  delayed  transient  1  AGE  tried in AGE  0  handle: dial tcp 10.0.0.1:5432: connection refused
5  shop.orders  sku-3·  review  conflict  1  AGE  a decision  0  conflict
`

//nolint:dupword // ages of two columns
const parkedGrouped = `DB

GROUP  CONSUMER  CLASS  COUNT  OLDEST  NEWEST  EXAMPLE  ERROR
GROUP  shop.orders  transient  2  AGE  AGE  4  dial tcp #.#.#.#:#: connection refused
GROUP  shop.orders  conflict  1  AGE  AGE  5  conflict
GROUP  shop.orders  permanent  1  AGE  AGE  1  # Bad Request: ·[#munknown supplier
`

func TestParkedMessagesAreListed(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		require.Equal(c, "DB\n\nno such message waits\n", c.do(exitOK, "parked", "ls"))
		first := keep(on.T, st, "sku-1", "m-1", store.StatusParked, errUnknown)
		keep(on.T, st, "sku-1", "m-2", store.StatusWaiting, nil)
		keep(on.T, st, "sku-1", "m-3", store.StatusWaiting, nil)
		keep(on.T, st, "sku-2", "m-4", store.StatusDelayed, errRefused)
		keep(on.T, st, "sku-3\x1b", "m-5", store.StatusReview, parking.AsConflict(errors.New("conflict")))
		require.EqualValues(c, 1, first)
		require.Equal(c, parkedListed, c.do(exitOK, "parked", "ls"))
		keep(on.T, st, "sku-4", "m-6", store.StatusParked, errRefused)

		grouped := c.do(exitOK, "parked", "ls", "--by-error")
		require.Equal(c, strings.Count(parkedGrouped, "\n"), strings.Count(grouped, "\n"))
		group := strings.Fields(strings.Split(grouped, "\n")[3])[0]
		require.Len(c, group, 8)
		for line := range strings.SplitSeq(parkedGrouped, "\n") { // groups of one size are sorted by their hash
			_, rest, _ := strings.Cut(line, "  ")
			require.Contains(c, grouped, rest+"\n")
		}
		groups := result[groupsJSON](on.T, exitOK, "parked", "ls", "--by-error", "--db", on.url)
		require.EqualValues(c, 2, groups.Groups[0].Count)
		require.Equal(c, group, groups.Groups[0].Group[:8])

		all := result[parkedListJSON](on.T, exitOK, "parked", "ls", "--group", group, "--db", on.url)
		require.Len(c, all.Messages, 2)
		require.Equal(c, "m-4", all.Messages[0].MessageID)
		require.InDelta(c, 3600, *all.Messages[0].DueIn, 60)
		page := result[parkedListJSON](on.T, exitOK, "parked", "ls", "--limit", "1", "--db", on.url)
		require.Equal(c, first, page.Next)
		require.Equal(c, 2, page.Messages[0].Behind)
		page = result[parkedListJSON](on.T, exitOK, "parked", "ls", "--after", "1", "--limit", "9", "--db", on.url)
		require.EqualValues(c, 4, page.Messages[0].ID)
		for want, flags := range map[string][]string{
			"m-2": {"--status", "waiting,done", "--key", "sku-1"}, "m-4": {"--class", "transient"},
			"m-5": {"--origin", "consumer", "--status", "review"},
			"m-6": {"--message", "m-6", "--consumer", parkedConsumer, "--since", "2026-01-01"},
		} {
			page = result[parkedListJSON](on.T, exitOK, append([]string{"parked", "ls", "--db", on.url}, flags...)...)
			require.Equal(c, want, page.Messages[0].MessageID, "%v", flags)
		}
		reviews := result[parkedListJSON](on.T, exitOK, "review", "ls", "--db", on.url)
		require.Len(c, reviews.Messages, 1)
		require.Equal(c, "m-5", reviews.Messages[0].MessageID)

		for want, args := range map[string][]string{
			"parked needs one of ls": {"parked"}, "--limit must be at least 1": {"parked", "ls", "--limit", "0"},
			"8 to 64 hexadecimal digits": {"parked", "ls", "--group", "abc"},
			`unknown status "odd"`:       {"parked", "ls", "--status", "odd"},
			"--since \"·\" is no time":   {"parked", "ls", "--since", "\x1b"}, "review needs one of": {"review"},
		} {
			require.Contains(c, c.failed(args...), want)
		}
	})
}

const parkedShown = `Message 1 of shop.orders: parked, kept for AGE; next: a person
  id  m-1
  key  sku-1
  topic  orders
  failed  400 Bad Request: ·[31munknown supplier
  group  GROUP # Bad Request: ·[#munknown supplier
  class  permanent
  tries  1
  line  first, 1 behind it
  payload  16 bytes
  metadata  color = red·[31m

Errors, from the outside to the cause
  *errors.errorString: 400 Bad Request: ·[31munknown supplier

Tries that have failed
  TIME try 1 on host-1, after AGE (permanent): 400 Bad Request: ·[31munknown supplier
`

func TestAParkedMessageIsShown(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		keep(on.T, st, "sku-1", "m-1", store.StatusParked, errUnknown)
		keep(on.T, st, "sku-1", "m-2", store.StatusWaiting, nil)
		shown := c.do(exitOK, "parked", "show", "1")
		_, group, _ := strings.Cut(shown, "  group  ")
		require.Equal(c, parkedShown, strings.Replace(shown, group[:8], "GROUP", 1))
		require.NotContains(c, shown, "secret")

		require.Contains(c, c.do(exitOK, "parked", "show", "1", "--payload", "text"), "\nPayload\nsecret·[31m\nline\n")
		require.Contains(c, c.do(exitOK, "parked", "show", "1", "--payload", "hex"), "|secret.[31m.line|")
		require.Equal(c, exitOK, c.term.run(on.T, "parked", "show", "1", "--payload", "raw"))
		require.Equal(c, "secret\x1b[31m\nline", c.term.out.String(), "the bytes, for a file")

		told := result[parkedShowJSON](on.T, exitOK, "parked", "show", "1", "--db", on.url)
		require.Nil(c, told.Content.Payload)
		require.Equal(c, 16, told.Content.Bytes)
		require.Equal(c, "red\x1b[31m", told.Content.Metadata["color"])
		require.Len(c, told.Errors, 1)
		require.EqualValues(c, 2, told.Gate.Waiting)
		require.Nil(c, told.Gate.DueIn, "a person has to say so")
		told = result[parkedShowJSON](on.T, exitOK, "parked", "show", "1", "--payload", "text", "--db", on.url)
		require.Equal(c, "secret\x1b[31m\nline", string(*told.Content.Payload))

		huge := parking.AsPermanent(fmt.Errorf("handle: %w", &parking.PanicError{
			Value: strings.Repeat("\xff\x1b[2J ", 2<<20), Stack: []byte("main.go:1\n\x1b]0;evil\x07\n"),
		}))
		id := fmt.Sprint(keep(on.T, st, "sku-2", "m-3", store.StatusParked, huge))
		shown = c.do(exitOK, "parked", "show", id)
		require.Less(c, len(shown), 5000, "10 MB of error text")
		require.Contains(c, shown, "\n  main.go:1\n  ·]0;evil·\n")
		require.Less(c, len(c.do(exitOK, "parked", "ls")), 2000)
		require.Less(c, len(c.do(exitOK, "parked", "ls", "--by-error")), 2000)

		require.Contains(c, c.failed("parked", "show", "99"),
			"99; it was never parked, was handled in its turn, or is final and forgotten")
		require.Contains(c, c.failed("parked", "show", "\x1bx"), `"·x" is no message's number`)
		require.Contains(c, c.failed("parked", "show", "1", "--payload", "json"), "--payload is text, hex or raw")
	})
}

func TestParkedMessagesAreRetriedEditedAndDiscarded(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		keep(on.T, st, "sku-1", "m-1", store.StatusParked, errUnknown)
		keep(on.T, st, "sku-2", "m-2", store.StatusParked, errRefused)
		keep(on.T, st, "sku-3", "m-3", store.StatusDelayed, errRefused)
		keep(on.T, st, "sku-4", "m-4", store.StatusParked, errRefused)
		fine := func(store.ParkedRow) error { return nil }

		require.Equal(c, "released 1 of 3 messages: 2 left as they are\n"+
			"99 left as it is: no such parked message: 99; it was never parked, was handled in its turn, "+
			"or is final and forgotten\n"+
			"1 left as it is: message 1: it has failed for good: edit it first, or force it\n",
			c.do(exitProblem, "parked", "retry", "1", "2", "99"))
		require.Contains(c, c.do(exitProblem, "parked", "retry", "2", "--as", "bert"),
			"2 left as it is: the parked message has another status: message 2 is released, by anna\n")
		require.Equal(c, []int64{2}, work(on.T, st, fine))
		require.Contains(c, c.do(exitProblem, "parked", "retry", "2"), "message 2 is done, by anna")
		require.Equal(c, "released 2 of 2 messages\n", c.do(exitOK, "parked", "retry", "--class", "transient", "--rate", "1000"))
		require.Equal(c, "no message waits that is so\n", c.do(exitOK, "parked", "retry", "--key", "sku-9"))
		work(on.T, st, func(row store.ParkedRow) error {
			if row.ID == 3 {
				return errRefused
			}
			return nil
		})

		file := filepath.Join(on.TempDir(), "order.json")
		require.NoError(c, os.WriteFile(file, []byte("better"), 0o600))
		require.Equal(c, "1 is edited; `headrace parked retry 1` has it tried\n",
			c.do(exitOK, "parked", "edit", "1", "--payload", file, "--set", "supplier=8=9", "--unset", "color"))
		c.term.input = "best"
		require.Equal(c, "1 is edited, and tried again when it is its turn\n",
			c.do(exitOK, "parked", "edit", "1", "--payload", "-", "--retry", "--note", "as agreed\x1b"))
		shown := c.do(exitOK, "parked", "show", "1", "--payload", "text")
		require.Contains(c, shown, "released, kept for AGE; next: its turn, by anna\n")
		require.Contains(c, shown, "  payload  16 bytes\n  metadata  color = red·[31m\n"+
			"  edited to 4 bytes\n  with  supplier = 8=9\n")
		require.Contains(c, shown, "TIME edit by anna (as agreed·)\n  TIME retry by anna (as agreed·)\n\nPayload\nbest\n")
		require.Contains(c, c.do(exitOK, "parked", "show", "1", "--payload", "text", "--original"), "\nPayload\nsecret·")

		require.Equal(c, "3 has one more note\n", c.do(exitOK, "parked", "note", "3", "asked", "the supplier\x1b"))
		require.Contains(c, c.do(exitOK, "parked", "show", "3"), "anna: asked the supplier·\n")
		require.Contains(c, c.failed("parked", "discard", "3"), "a discarded message needs a reason")
		require.Equal(c, "3 is discarded\n99 left as it is: no such parked message: 99; it was never parked, "+
			"was handled in its turn, or is final and forgotten\n",
			c.do(exitProblem, "parked", "discard", "3", "99", "--reason", "they are closed"))
		told := result[deskJSON](on.T, exitProblem, "parked", "discard", "3", "--reason", "x", "--as", "bert", "--db", on.url)
		require.Equal(c, "bert", told.Actor)
		require.Contains(c, told.Refused[0].Why, "message 3 is discarded, by anna")
		require.Contains(c, c.do(exitOK, "inbox", "why", "m-3"), "discarded by anna; they are closed")

		require.Contains(c, c.failed("parked", "retry"), "which messages?")
		require.Contains(c, c.failed("parked", "retry", "1", "--all"), "which messages?")
		require.Contains(c, c.failed("parked", "edit", "1"), "there is nothing to change")
		require.Contains(c, c.failed("parked", "edit", "1", "--set", "x"), `--set "x" is not NAME=VALUE`)
		require.Contains(c, c.failed("parked", "edit", "1", "--set", "headrace_key=x"), "key can't be edited")
		require.Contains(c, c.failed("parked", "edit", "1", "--payload", filepath.Join(on.TempDir(), "none")), "read the payload")
	})
}
