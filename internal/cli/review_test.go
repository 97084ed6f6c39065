package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const reviewsListed = `DB

ID  CONSUMER  KEY  AGE  BEHIND  ABOUT  WHAT DIFFERS
1  shop.orders  po-17  AGE  0  purchase po-17·[31m  quantity: was 10, is 12, wanted 50; note: is "·[31m call first"
2  shop.orders  sku-1  AGE  0  the price has changed
`

var group = regexp.MustCompile(`  group  [0-9a-f]{8} `)

const reviewShown = `Message 1 of shop.orders: review, kept for AGE; next: a decision
  id  m-1
  key  po-17
  failed  it was changed meanwhile
  group  GROUP it was changed meanwhile
  class  conflict
  tries  0
  about  purchase po-17·[31m
  line  first, 0 behind it
  payload  6 bytes
  metadata  headrace_key = po-17

What differs
  quantity: was 10, is 12, wanted 50
  note: is "·[31m call first"
`

func openReview(t *testing.T, st *store.Store) {
	t.Helper()
	msg := message.NewMessage("m-1", []byte("secret"))
	msgmeta.SetKey(msg, "po-17")
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := parking.OpenReview(ctx, tx, st, parking.Review{
			Consumer: parkedConsumer, Message: msg, Subject: "purchase po-17\x1b[31m", Reason: "it was changed meanwhile",
			Seen: map[string]int{"quantity": 10}, Current: map[string]any{"quantity": 12, "note": "\x1b[31m call first"},
			Diff: []parking.Change{
				{Field: "quantity", Was: json.RawMessage("10"), Is: json.RawMessage("12"), Wanted: json.RawMessage("50")},
				{Field: "note", Is: json.RawMessage("\"\x7f[31m call first\"")},
			},
		})
		return err
	}))
}

func TestReviewsShowWhatDiffers(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		openReview(on.T, st)
		keep(on.T, st, "sku-1", "m-2", store.StatusReview, parking.AsConflict(errors.New("the price has changed")))
		require.Equal(c, reviewsListed, c.do(exitOK, "review", "ls"))
		require.Equal(c, reviewShown, group.ReplaceAllString(c.do(exitOK, "parked", "show", "1"), "  group  GROUP "))
		require.Contains(c, c.do(exitOK, "parked", "show", "1", "--payload", "text"),
			"\nSeen\n{\"quantity\":10}\n\nCurrent\n{\"note\":\"\\u001b[31m call first\",\"quantity\":12}\n\nPayload\nsecret\n")

		listed := result[parkedListJSON](on.T, exitOK, "review", "ls", "--consumer", parkedConsumer, "--db", on.url)
		require.Equal(c, "10", string(listed.Messages[0].Diff[0].Was))
		told := result[parkedShowJSON](on.T, exitOK, "parked", "show", "1", "--db", on.url)
		require.Len(c, told.Diff, 2)
		require.Nil(c, told.Seen, "states are content")
		told = result[parkedShowJSON](on.T, exitOK, "parked", "show", "1", "--payload", "hex", "--db", on.url)
		require.JSONEq(c, `{"quantity":10}`, string(told.Seen))
	})
}

func TestAReviewIsAcceptedWithTheProvidersAnswer(t *testing.T) {
	t.Parallel()
	onEach(t, func(on database) {
		st, _ := migrated(on.T, on.kind, on.url)
		c := newCommands(on.T, on.url)
		ctx := on.Context()
		claim := store.EffectRow{Scope: "charge", Key: "ord-1/a", Provider: "bank", RequestHash: []byte("hash"), Owner: "host-1"}
		_, _, err := st.ClaimEffect(ctx, claim, time.Minute, nil)
		require.NoError(c, err)
		claim.Epoch, claim.Status = 1, store.EffectUnknown
		ok, err := st.FinishEffect(ctx, claim)
		require.NoError(c, err)
		require.True(c, ok)
		for _, id := range []string{"m-1", "m-2"} {
			require.NoError(c, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
				_, err := parking.OpenReview(ctx, tx, st, parking.Review{
					Consumer: parkedConsumer, Message: message.NewMessage(id, nil), Reason: "nobody knows",
					Subject: store.EffectSubject("charge", "ord-1/a"),
				})
				return err
			}))
		}
		keep(on.T, st, "sku-1", "m-3", store.StatusReview, parking.AsConflict(errors.New("the price has changed")))
		file := filepath.Join(on.TempDir(), "receipt.json")
		require.NoError(c, os.WriteFile(file, []byte(`{"receipt":7}`), 0o600))

		const noCall = "its review isn't about a call whose outcome nobody knows"
		require.Contains(c, c.do(exitProblem, "review", "accept", "3", "--as-done", file), noCall)
		require.Equal(c, "1 is accepted, and handled when it is its turn\n",
			c.do(exitOK, "review", "accept", "1", "--as-done", file, "--code", "201"))
		row, err := st.Effect(ctx, "charge", "ord-1/a")
		require.NoError(c, err)
		require.Equal(c, store.EffectDone, row.Status)
		require.Equal(c, 201, row.Code)
		require.JSONEq(c, `{"receipt":7}`, string(row.Response))
		require.Equal(c, "anna", row.SettledBy)
		require.Contains(c, c.do(exitProblem, "review", "accept", "2", "--as-done", file), noCall, "it is settled by now")
		kept, err := st.ParkedByID(ctx, 2)
		require.NoError(c, err)
		require.Equal(c, store.StatusReview, kept.Status, "all or nothing")
		require.Contains(c, c.do(exitProblem, "review", "accept", "1", "--as-done", file), "message 1 is released, by anna")

		for want, args := range map[string][]string{
			"name one message":                {"1", "2", "--as-done", file},
			"another decision than \"again\"": {"1", "--as-done", file, "--decision", "again"},
			"it goes with --as-done":          {"1", "--code", "201"},
			"read the payload":                {"1", "--as-done", filepath.Join(on.TempDir(), "none")},
		} {
			require.Contains(c, c.failed(append([]string{"review", "accept"}, args...)...), want)
		}
	})
}
