package parking_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func bigOrder(id, key string) parking.Review {
	msg := message.NewMessage(id, []byte(secret))
	msgmeta.SetKey(msg, key)
	return parking.Review{
		Consumer: shop, Message: msg, Subject: "order " + id, Reason: "it is above 10,000",
		Seen: map[string]int{"quantity": 10}, Current: map[string]any{"quantity": 12, "odd": nil},
		Diff: []parking.Change{{
			Field: "quantity", Was: json.RawMessage("10"), Is: json.RawMessage("12"), Wanted: json.RawMessage("{"),
		}},
	}
}

func TestAReviewIsOpenedInTheCallersTransaction(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		open := func(r parking.Review, then error) (id int64, err error) {
			return id, k.InTx(ctx, func(ctx context.Context, tx store.Tx) (err error) {
				if id, err = parking.OpenReview(ctx, tx, k.Store, r); err != nil {
					return err
				}
				return then
			})
		}
		reviews := func() []parking.Item {
			items, err := desk.Reviews(ctx, store.ParkedFilter{}, 0, 10)
			require.NoError(k, err)
			return items
		}
		_, err := open(bigOrder("1", "a"), errPlain)
		require.ErrorIs(k, err, errPlain)
		require.Empty(k, reviews(), "it goes with its transaction")

		id, err := open(bigOrder("1", "a"), nil)
		require.NoError(k, err)
		behind := k.park("a", "2", store.StatusWaiting, "", nil)
		keyless, err := open(bigOrder("3", ""), nil)
		require.NoError(k, err)
		items := reviews()
		require.Len(k, items, 2)
		require.Equal(k, id, items[0].ID)
		require.Equal(k, store.OriginReview, items[0].Origin)
		require.Equal(k, "order 1", items[0].Subject)
		require.Equal(k, "it is above 10,000", items[0].Reason)
		require.Equal(k, 1, items[0].Behind)
		require.Nil(k, items[0].Payload)
		shown, err := parking.ShownOf(items[0].ParkedRow)
		require.NoError(k, err)
		require.JSONEq(k, `{"seen":{"quantity":10},"current":{"quantity":12,"odd":null},
			"diff":[{"field":"quantity","was":10,"is":12}]}`, string(items[0].Diff), "what isn't JSON is left out")
		require.Equal(k, "12", string(shown.Diff[0].Is))
		require.Zero(k, k.drain(func(store.ParkedRow) error { return nil }), "a person has to say so")

		// Whoever opens it twice, as a message that comes twice does, opens it once.
		require.NoError(k, k.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			_, err := parking.OpenReview(ctx, tx, k.Store, bigOrder("1", "a"))
			require.ErrorIs(k, err, parking.ErrKnown)
			return nil
		}), "the transaction goes on")

		require.NoError(k, desk.Accept(ctx, id, parking.NoDecision))
		require.NoError(k, desk.Reject(ctx, keyless, "too much"))
		var handled []int64
		require.Equal(k, 2, k.drain(func(row store.ParkedRow) error {
			if handled = append(handled, row.ID); row.ID == id {
				require.Equal(k, secret, string(row.Payload))
				require.Equal(k, string(parking.Accepted), row.Decision)
				require.Contains(k, string(row.Diff), `"was":10`)
			}
			return nil
		}))
		require.Equal(k, []int64{id, behind}, handled)
		for id, verdict := range map[string]store.Verdict{"1": store.Applied, "3": store.Discarded} {
			stories, err := k.Stories(ctx, id, shop)
			require.NoError(k, err)
			require.Equal(k, verdict, stories[0].Row.Verdict)
		}
		require.Empty(k, reviews())
	})
}

func TestAReviewNeedsWhatPeopleAndItsHandlerNeed(t *testing.T) {
	t.Parallel()
	for _, spoil := range []func(*parking.Review){
		func(r *parking.Review) { r.Consumer = "" }, func(r *parking.Review) { r.Message = nil },
		func(r *parking.Review) { r.Message.UUID = "" }, func(r *parking.Review) { r.Subject = "" },
		func(r *parking.Review) { r.Reason = "" },
	} {
		wrong := bigOrder("9", "a")
		spoil(&wrong)
		_, err := parking.OpenReview(t.Context(), nil, nil, wrong)
		require.ErrorContains(t, err, "a review needs")
	}
}

func TestWhatAConflictShowsIsAlwaysJSON(t *testing.T) {
	t.Parallel()
	subject, diff := parking.ReviewOf(&parking.ConflictError{Subject: "order", Seen: func() {}})
	require.Equal(t, "order", subject)
	require.Nil(t, diff, "there is nothing to show")
	_, diff = parking.ReviewOf(errors.Join(errPlain, &parking.ConflictError{Current: 7, Diff: []parking.Change{{Field: "\xff"}}}))
	require.JSONEq(t, `{"current":7,"diff":[{"field":"\ufffd"}]}`, string(diff))
	_, err := parking.ShownOf(store.ParkedRow{ID: 7, Diff: []byte("{")})
	require.ErrorContains(t, err, "what differs in message 7 can't be read")
}

// What would be too much to be written is shown in part.
func TestAReviewShowsNoMoreThanCanBeKept(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 2<<20)
	text := func(s string) json.RawMessage { return json.RawMessage(strconv.Quote(s)) }
	small := parking.Change{Field: "quantity", Was: text("1"), Is: text("2")}
	for name, c := range map[string]struct {
		conflict parking.ConflictError
		want     parking.Shown
	}{
		"all of it": {
			parking.ConflictError{Seen: "a", Current: "b", Diff: []parking.Change{small}},
			parking.Shown{Seen: text("a"), Current: text("b"), Diff: []parking.Change{small}},
		},
		"what was seen is large": {
			parking.ConflictError{Seen: large, Current: "b", Diff: []parking.Change{small}},
			parking.Shown{Current: text("b"), Diff: []parking.Change{small}},
		},
		"a field is large": {
			parking.ConflictError{Current: "b", Diff: []parking.Change{small, {Field: "note", Is: text(large)}}},
			parking.Shown{Current: text("b"), Diff: []parking.Change{{Field: "quantity"}, {Field: "note"}}},
		},
		"what is there is large": {
			parking.ConflictError{Current: large, Diff: []parking.Change{small}},
			parking.Shown{Diff: []parking.Change{{Field: "quantity"}}},
		},
	} {
		_, diff := parking.ReviewOf(&c.conflict)
		shown, err := parking.ShownOf(store.ParkedRow{Diff: diff})
		require.NoError(t, err, name)
		require.Equal(t, c.want, shown, name)
	}
}
