package parking_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestAnEditKeepsTheOriginal(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		id := k.park("a", "1", store.StatusParked, parking.Permanent, errBad)
		better := []byte("better")
		require.NoError(k, desk.Edit(ctx, id, parking.Edit{
			Payload: &better, Set: map[string]string{"supplier": "8"}, Unset: []string{"color"}, Retry: true,
		}))
		require.Equal(k, store.StatusReleased, k.status(id))
		var got store.ParkedRow
		fails := func(row store.ParkedRow) error { got = row; return errBad }
		require.Equal(k, 1, k.drain(fails))
		payload, metadata := got.Handled()
		require.Equal(k, "better", string(payload))
		require.Equal(k, map[string]string{msgmeta.Key: "a", "supplier": "8"}, metadata)

		whole, err := desk.Get(ctx, id)
		require.NoError(k, err)
		require.Equal(k, secret, string(whole.Payload))
		require.Equal(k, "red", whole.Metadata["color"])
		require.Equal(k, 2, whole.Attempts)

		// What has failed again as edited isn't tried blindly once more.
		require.ErrorIs(k, desk.Retry(ctx, id, parking.RetryOptions{}), parking.ErrNeedsEdit)
		require.NoError(k, desk.Edit(ctx, id, parking.Edit{Set: map[string]string{"supplier": "9"}}))
		require.Equal(k, store.StatusParked, k.status(id), "only edited")
		require.NoError(k, desk.Retry(ctx, id, parking.RetryOptions{}))
		require.Equal(k, 1, k.drain(func(row store.ParkedRow) error {
			payload, metadata := row.Handled()
			require.Equal(k, "better", string(payload), "what the first edit made of it")
			require.Equal(k, "9", metadata["supplier"])
			return nil
		}))
		whole, err = desk.Get(ctx, id)
		require.NoError(k, err)
		require.Equal(k, store.StatusDone, whole.Status)
		require.Equal(k, secret, string(whole.Payload))
		require.Equal(k, []string{"edit by anna", "retry by anna", "edit by anna", "retry by anna"}, k.audit(id))
		after, _ := whole.Audit[0].Details["payload_after"].(map[string]any)
		require.EqualValues(k, 6, after["bytes"])
		require.Equal(k, "a", whole.Audit[0].Subject)
		require.Nil(k, whole.Gate)

		require.ErrorIs(k, desk.Edit(ctx, id, parking.Edit{Payload: &better}), store.ErrStatus)
		require.ErrorIs(k, desk.Edit(ctx, id, parking.Edit{}), parking.ErrNoChange)
		require.ErrorIs(k, desk.Edit(ctx, id, parking.Edit{Unset: []string{msgmeta.Key}}), parking.ErrKeyStays)
	})
}

func TestAPermanentFailureNeedsAnEditOrForce(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		id := k.park("a", "1", store.StatusParked, parking.Permanent, errBad)
		err := desk.Retry(ctx, id, parking.RetryOptions{})
		require.ErrorIs(k, err, parking.ErrNeedsEdit)
		require.ErrorContains(k, err, "it has failed for good: edit it first, or force it")
		require.Equal(k, store.StatusParked, k.status(id))
		require.Empty(k, k.audit(id))
		require.NoError(k, desk.Retry(ctx, id, parking.RetryOptions{Force: true}))
		require.Equal(k, []string{"retry by anna"}, k.audit(id))

		other := k.park("b", "2", store.StatusParked, parking.Permanent, errBad)
		require.NoError(k, desk.Edit(ctx, other, parking.Edit{Set: map[string]string{"x": "y"}}))
		require.NoError(k, desk.Retry(ctx, other, parking.RetryOptions{}))
	})
}

func TestMessagesAreDiscardedNotedAndJudged(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		ctx, desk := k.Context(), k.desk("anna")
		id := k.park("a", "1", store.StatusParked, parking.Transient, errDown)
		behind := k.park("a", "2", store.StatusWaiting, "", nil)
		require.ErrorIs(k, desk.Discard(ctx, id, " "), parking.ErrNoReason)
		require.NoError(k, desk.Note(ctx, id, "asked the\n\x1bsupplier"))
		require.NoError(k, desk.Note(ctx, id, "no answer"))
		require.NoError(k, k.desk("bert").Discard(ctx, id, "they are closed"))
		whole, err := desk.Get(ctx, id)
		require.NoError(k, err)
		require.Regexp(k, `^\S+Z anna: asked the \x1b?supplier\n\S+Z anna: no answer$`, whole.Note)
		require.Equal(k, []string{"note by anna", "note by anna", "discard by bert"}, k.audit(id))
		require.Equal(k, "a", whole.Audit[0].Subject)
		require.Equal(k, "they are closed", whole.Audit[2].Note)
		stories, err := k.Stories(ctx, "1", shop)
		require.NoError(k, err)
		require.Equal(k, store.Discarded, stories[0].Row.Verdict)
		require.Contains(k, stories[0].Row.Reason, "they are closed")
		require.Equal(k, 1, k.drain(func(row store.ParkedRow) error {
			require.Equal(k, behind, row.ID, "what was behind it goes on")
			return nil
		}))
		_, err = desk.Get(ctx, behind)
		require.ErrorIs(k, err, store.ErrNotParked)
		require.ErrorIs(k, desk.Retry(ctx, behind, parking.RetryOptions{}), store.ErrNotParked)
		require.ErrorIs(k, desk.Note(ctx, behind, "x"), store.ErrNotParked)
		require.ErrorIs(k, desk.Note(ctx, id, " "), parking.ErrNoChange)
		err = desk.Discard(ctx, id, "again")
		require.ErrorIs(k, err, store.ErrStatus)
		require.ErrorContains(k, err, "is discarded, by bert")

		// Reviews.
		review := k.park("r", "3", store.StatusReview, parking.Conflict, parking.AsConflict(errPlain))
		require.ErrorIs(k, desk.Retry(ctx, review, parking.RetryOptions{Force: true}), parking.ErrInReview)
		require.ErrorContains(k, desk.Accept(ctx, review, "perhaps"), "unknown decision")
		require.NoError(k, desk.Accept(ctx, review, parking.CallAgain))
		require.ErrorIs(k, desk.Reject(ctx, review, "no"), parking.ErrNotInReview)
		k.drain(func(row store.ParkedRow) error {
			require.Equal(k, string(parking.CallAgain), row.Decision)
			require.Equal(k, "anna", row.DecidedBy)
			return nil
		})
		require.Equal(k, []string{"accept by anna"}, k.audit(review))
		review = k.park("r", "4", store.StatusReview, parking.Conflict, parking.AsConflict(errPlain))
		require.NoError(k, desk.Reject(ctx, review, "theirs stands"))
		require.Equal(k, store.StatusDiscarded, k.status(review))
		plain := k.park("p", "5", store.StatusParked, parking.Transient, errDown)
		require.ErrorIs(k, desk.Accept(ctx, plain, parking.NoDecision), parking.ErrNotInReview)
		require.ErrorIs(k, k.desk("").Retry(ctx, plain, parking.RetryOptions{}), store.ErrNoActor)
		require.ErrorIs(k, k.desk("").Discard(ctx, plain, "x"), store.ErrNoActor)
		require.Equal(k, store.StatusParked, k.status(plain), "not without a signature")
	})
}

func TestAnOperatorDoesNotWaitForEverForAHandler(t *testing.T) {
	t.Parallel()
	onEach(t, func(k kept) {
		if k.kind == "sqlite" {
			return // it has one writer
		}
		id := k.park("a", "1", store.StatusParked, parking.Transient, errDown)
		desk := k.desk("anna")
		require.NoError(k, desk.Retry(k.Context(), id, parking.RetryOptions{}))
		claims, err := k.ClaimLines(k.Context(), shop, "worker", testTTL, 1)
		require.NoError(k, err)
		ref := store.HeldRef{Claim: claims[0], ID: id, InboxID: "1"}
		require.NoError(k, k.InTx(k.Context(), func(ctx context.Context, tx store.Tx) error {
			open, err := k.Readmit(ctx, ref)
			require.NoError(k, err)
			require.True(k, open)
			// Outside of the handler's unit.
			require.ErrorIs(k, desk.Discard(k.Context(), id, "too late"), parking.ErrInHand)
			return k.FinishParked(ctx, tx, ref, store.Applied, "", true, 2)
		}))
		require.ErrorIs(k, desk.Discard(k.Context(), id, "too late"), store.ErrStatus)
	})
}
