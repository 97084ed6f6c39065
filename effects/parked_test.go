package effects_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// parkedShop is a handler behind Parking, a stage and Dedupe. Each message charges by
// its own id, and the first charge isn't answered.
type parkedShop struct {
	*fixture

	handler message.HandlerFunc

	mu      sync.Mutex
	fails   []error
	handled []string
	answers []effects.Response
	// between runs between the stage and Dedupe, once.
	between func()
}

const pays = "shop.pay"

func (f *fixture) parkedShop(fails ...error) *parkedShop {
	f.Helper()
	s := &parkedShop{fixture: f, fails: fails}
	client, err := effects.New(f.st, effects.Config{Provider: effects.Provider{Name: "bank"}, Consumer: pays})
	require.NoError(f, err)
	dedupe, err := middleware.NewDedupe(f.st, middleware.DedupeConfig{Consumer: pays})
	require.NoError(f, err)
	park, err := middleware.NewParking(f.st, middleware.ParkingConfig{Consumer: pays, Immediate: middleware.Immediate{Tries: -1}})
	require.NoError(f, err)
	stage := client.Stage("charge", func(ctx context.Context, msg *message.Message) (effects.Response, error) {
		return effects.Do(ctx, "charge", msg.UUID, msg.Payload, s.call)
	})
	between := func(h message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			s.mu.Lock()
			run := s.between
			s.between = nil
			s.mu.Unlock()
			if run != nil {
				run()
			}
			return h(msg)
		}
	}
	s.handler = park.Middleware(stage(between(dedupe.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		_, called := effects.ResultOf(msg.Context(), "charge")
		require.True(f, called)
		return s.note(msg)
	}))))
	return s
}

// note is a handler that counts what it has done.
func (s *parkedShop) note(msg *message.Message) ([]*message.Message, error) {
	answer, _ := effects.ResultOf(msg.Context(), "charge")
	return nil, store.AfterCommit(msg.Context(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handled = append(s.handled, msg.UUID)
		s.answers = append(s.answers, answer)
	})
}

func (s *parkedShop) call(ctx context.Context, key string, request []byte) (effects.Response, error) {
	s.mu.Lock()
	var fail error
	if len(s.fails) > 0 {
		fail, s.fails = s.fails[0], s.fails[1:]
	}
	s.mu.Unlock()
	return s.returning(fail)(ctx, key, request)
}

func (s *parkedShop) deliver(id string) {
	s.Helper()
	require.NoError(s, s.try(id), "it is kept, and acked")
}

func (s *parkedShop) try(id string) error {
	msg := message.NewMessage(id, []byte("10 EUR"))
	msgmeta.SetKey(msg, "customer")
	msg.SetContext(s.Context())
	_, err := s.handler(msg)
	return err
}

// work gives the handler what comes back, until the test ends.
func (s *parkedShop) work() {
	s.Helper()
	sub, err := parking.NewSubscriber(s.st, nil, parking.SubscriberConfig{Consumer: pays})
	require.NoError(s, err)
	messages, err := sub.Subscribe(s.Context(), "orders")
	require.NoError(s, err)
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for msg := range messages {
			handlers.Go(func() {
				if _, err := s.handler(msg); err == nil {
					msg.Ack()
				} else {
					msg.Nack()
				}
			})
		}
	})
	s.Cleanup(func() {
		require.NoError(s, sub.Close())
		handlers.Wait()
	})
}

func (s *parkedShop) eventually(what string, condition func() bool) {
	s.Helper()
	testenv.Eventually(s, time.Minute, 10*time.Millisecond, func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return condition(), what
	})
}

// inReview returns the one message that waits for a person.
func (s *parkedShop) inReview() store.ParkedRow {
	s.Helper()
	items, err := parking.NewDesk(s.st, parking.DeskConfig{}).List(s.Context(),
		store.ParkedFilter{Status: []store.ParkedStatus{store.StatusReview}}, 0, 10)
	require.NoError(s, err)
	require.Len(s, items, 1)
	return items[0].ParkedRow
}

func TestAnUnknownEffectIsReviewed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		decision parking.Decision
		calls    []string
	}{
		"again": {parking.CallAgain, []string{"charge/order-1", "charge/order-1", "charge/order-2"}},
		"done":  {parking.CallDone, []string{"charge/order-1", "charge/order-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, effects.Provider{}, func(f *fixture) {
				s := f.parkedShop(errCall)
				s.deliver("order-1")
				s.deliver("order-2")
				require.Len(f, f.calls, 1, "what waits for its turn isn't called for")
				row := s.inReview()
				require.Equal(f, "effect:charge/order-1", row.Subject)
				desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
				require.NoError(f, desk.Accept(f.Context(), row.ID, c.decision))
				s.work()
				s.eventually("both are handled", func() bool { return len(s.handled) == 2 })
				require.Equal(f, c.calls, f.calls)
				require.Equal(f, []string{"order-1", "order-2"}, s.handled)
				require.Equal(f, "ann", f.row().SettledBy)
			})
		})
	}
}

// No call is made for a message that waits behind another. It isn't handled without one
// either when its line opens just then.
func TestNoMessageIsHandledWithoutItsCall(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.parkedShop(errCall)
		s.deliver("order-1")
		row := s.inReview()
		s.between = func() {
			desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
			require.NoError(f, desk.Reject(f.Context(), row.ID, "never mind"))
		}
		require.ErrorContains(f, s.try("order-2"), "its stage has made no call")
		require.Empty(f, s.handled)
		s.deliver("order-2")
		require.Equal(f, []string{"order-2"}, s.handled)
		require.Equal(f, []string{"charge/order-1", "charge/order-2"}, f.calls)
	})
}

// A person has found out what the provider has answered.
func TestAnUnknownEffectIsDoneAsAPersonKnows(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.parkedShop(errCall)
		s.deliver("order-1")
		row := s.inReview()
		answer := parking.CallResponse{Code: 201, Body: []byte("receipt 7")}
		desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
		tooLong := parking.CallResponse{Body: make([]byte, store.MaxEffectContent+1)}
		require.ErrorIs(f, desk.AcceptDone(f.Context(), row.ID, tooLong), store.ErrContent)
		require.ErrorIs(f, parking.NewDesk(f.st, parking.DeskConfig{}).AcceptDone(f.Context(), row.ID, answer), store.ErrNoActor)
		require.ErrorIs(f, desk.AcceptDone(f.Context(), 99, answer), store.ErrNotParked)
		require.Equal(f, store.EffectUnknown, f.row().Status)
		require.NoError(f, desk.AcceptDone(f.Context(), row.ID, answer))
		s.work()
		s.eventually("it is handled", func() bool { return len(s.handled) == 1 })
		require.Equal(f, []effects.Response{{Code: 201, Body: []byte("receipt 7"), Repeated: true}}, s.answers)
		require.Len(f, f.calls, 1)
		require.Equal(f, "ann", f.row().SettledBy)

		// Somebody else has settled the next one, and it is not for this desk to say.
		s.mu.Lock()
		s.fails = []error{errCall}
		s.mu.Unlock()
		s.eventually("its line is free", func() bool { // else it may be busy
			_, err := f.st.GateOf(f.Context(), store.KeyLine(pays, "customer"))
			return errors.Is(err, store.ErrNotHeld)
		})
		s.deliver("order-2")
		require.NoError(f, effects.Settle(f.Context(), f.st, "bert", "charge", "order-2", effects.GiveUp("closed")))
		row = s.inReview()
		require.ErrorIs(f, desk.AcceptDone(f.Context(), row.ID, answer), parking.ErrNoCall)
		require.Equal(f, row.ID, s.inReview().ID)
	})
}

// An answer isn't written in the clear where the request was sealed.
func TestASealedEffectIsNotAnsweredInTheClear(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		sealing, err := store.Open(f.Context(), f.db, store.Config{Dialect: f.st.Dialect(), Codec: backwards{}})
		require.NoError(f, err)
		defer sealing.Close() //nolint:errcheck // frees memory only
		plain := f.st
		f.st = sealing
		s := f.parkedShop(errCall)
		s.deliver("order-1")
		row, answer := s.inReview(), parking.CallResponse{Code: 201, Body: []byte("receipt 7")}
		desk := parking.NewDesk(plain, parking.DeskConfig{Actor: "ann"})
		require.ErrorContains(f, desk.AcceptDone(f.Context(), row.ID, answer), `was sealed by codec "backwards"`)
		require.Equal(f, row.ID, s.inReview().ID)
		require.NoError(f, parking.NewDesk(sealing, parking.DeskConfig{Actor: "ann"}).AcceptDone(f.Context(), row.ID, answer))
		require.Equal(f, "receipt 7", string(f.row().Response))
		f.st = plain
	})
}

// A review that nobody has delivered goes the way of a message: through the call.
func TestAReviewThatWasOpenedIsCalledForOnceItIsAccepted(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.parkedShop()
		s.work()
		msg := message.NewMessage("order-1", []byte("10 EUR"))
		msgmeta.SetKey(msg, "customer")
		require.NoError(f, f.st.InTx(f.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := parking.OpenReview(ctx, tx, f.st, parking.Review{
				Consumer: pays, Message: msg, Subject: "order 1", Reason: "it is large",
			})
			return err
		}))
		s.deliver("order-1")
		s.deliver("order-2")
		require.Empty(f, f.calls, "it holds its key")
		desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
		require.NoError(f, desk.Accept(f.Context(), s.inReview().ID, parking.Accepted))
		s.eventually("both are handled", func() bool { return len(s.handled) == 2 })
		require.Equal(f, []string{"charge/order-1", "charge/order-2"}, f.calls)
		require.Equal(f, []string{"order-1", "order-2"}, s.handled)
	})
}

// A handler that makes two calls: what was said of one says nothing of the other.
func TestADecisionIsOfItsOwnCall(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		_, err := f.do(errCall)
		require.ErrorIs(f, err, effects.ErrUnknown)
		for _, decision := range []parking.Decision{parking.CallAgain, parking.CallDone} {
			row := store.ParkedRow{
				ID: 7, Attempts: 1, Decision: string(decision), DecidedBy: "ann", Subject: "effect:mail/order-1",
			}
			ctx := parking.WithTicket(f.Context(), parking.NewReentry(store.HeldRef{ID: 7}, row, message.NewMessage("m", nil)))
			_, err = f.client.Do(ctx, "charge", "order-1", []byte("10 EUR"), f.returning(nil))
			require.ErrorIs(f, err, effects.ErrUnknown)
			require.Len(f, f.calls, 1)
		}
	})
}

// A person's word is about the call that they were asked about, not about the next one.
func TestADecisionCountsOnce(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.parkedShop(errCall, errCall)
		s.deliver("order-1")
		desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
		first := s.inReview()
		require.NoError(f, desk.Accept(f.Context(), first.ID, parking.CallAgain))
		s.work()
		s.eventually("it is in review again", func() bool {
			row, err := f.st.ParkedByID(f.Context(), first.ID)
			require.NoError(f, err)
			return row.Status == store.StatusReview
		})
		require.Len(f, f.calls, 2)
		require.NoError(f, desk.Accept(f.Context(), first.ID, parking.CallDone))
		s.eventually("it is handled", func() bool { return len(s.handled) == 1 })
		require.Len(f, f.calls, 2)
	})
}

func TestAKeptMessageIsCalledForWhenItsTurnHasCome(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		s := f.parkedShop(effects.NotDone(errCall))
		s.deliver("order-1")
		require.Empty(f, s.handled)
		s.work()
		s.eventually("it is handled", func() bool { return len(s.handled) == 1 })
		require.Len(f, f.calls, 2)
	})
}

// The process dies before it has put the message back: what the person said is still
// there, and was said of the call before.
func TestADecisionIsNotUsedAgainAfterACrash(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		_, err := f.do(errCall)
		require.ErrorIs(f, err, effects.ErrUnknown)
		row := store.ParkedRow{
			ID: 7, Attempts: 1, Decision: string(parking.CallAgain), DecidedBy: "ann", Subject: "effect:charge/order-1",
		}
		ctx := parking.WithTicket(f.Context(), parking.NewReentry(store.HeldRef{ID: 7}, row, message.NewMessage("m", nil)))
		for range 2 {
			_, err = f.client.Do(ctx, "charge", "order-1", []byte("10 EUR"), f.returning(errCall))
			require.ErrorIs(f, err, effects.ErrUnknown)
			require.Len(f, f.calls, 2)
		}
	})
}

// A line is read ahead: what was said of a message since then counts before its call,
// which can't be taken back.
func TestWhatWasDecidedSinceAMessageWasReadIsNotCalledFor(t *testing.T) {
	t.Parallel()
	payload := []byte("20 EUR")
	for name, c := range map[string]struct {
		say  func(f *fixture, desk *parking.Desk, id int64) error
		then error
	}{
		"discarded": {func(f *fixture, desk *parking.Desk, id int64) error {
			return desk.Discard(f.Context(), id, "wrong")
		}, nil},
		"edited": {func(f *fixture, desk *parking.Desk, id int64) error {
			return desk.Edit(f.Context(), id, parking.Edit{Payload: &payload})
		}, store.ErrParkedChanged},
		"paused": {func(f *fixture, desk *parking.Desk, _ int64) error {
			_, err := desk.PauseKey(f.Context(), pays, "customer")
			return err
		}, store.ErrLinePaused},
		"taken over": {func(f *fixture, _ *parking.Desk, _ int64) error {
			_, err := f.db.ExecContext(f.Context(), "UPDATE headrace_gates SET claim_epoch = claim_epoch + 1")
			return err
		}, store.ErrClaimLost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, effects.Provider{}, func(f *fixture) {
				s := f.parkedShop(effects.NotDone(errCall))
				s.deliver("order-1")
				require.Len(f, f.calls, 1)
				desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "anna"})
				require.NoError(f, desk.Retry(f.Context(), 1, parking.RetryOptions{}))
				claims, err := f.st.ClaimLines(f.Context(), pays, "me", time.Minute, 1)
				require.NoError(f, err)
				rows, err := f.st.ReadLine(f.Context(), claims[0], 0, 10, 1<<20)
				require.NoError(f, err)
				require.NoError(f, c.say(f, desk, rows[0].ID))
				msg := message.NewMessage(rows[0].MessageID, rows[0].Payload)
				ref := store.HeldRef{Claim: claims[0], ID: rows[0].ID, InboxID: rows[0].InboxID, Status: rows[0].Status}
				ticket := parking.NewReentry(ref, rows[0], msg.Copy())
				msg.SetContext(parking.WithTicket(f.Context(), ticket))
				_, err = s.handler(msg)
				require.ErrorIs(f, err, c.then)
				require.ErrorIs(f, ticket.Outcome(), c.then)
				require.Len(f, f.calls, 1)
				require.Empty(f, s.handled)
			})
		})
	}
}
