package effects_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/remark"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// purchase is a state that a shop and its users change. Its quantity is critical, its
// note isn't.
type purchase struct {
	Version  int    `json:"version"`
	Quantity int    `json:"quantity"`
	Note     string `json:"note"`
}

// shelf is an API that takes changes on the current version only.
type shelf struct {
	now    purchase
	pushed []int // the versions on which a change was tried
	// before is called before each push, failing in its place.
	before func(now *purchase) error
	// silent: the change is made, and isn't answered.
	silent bool
}

var errMoved = errors.New("409")

const wanted = 50

func (s *shelf) reconcile() effects.Reconcile[purchase] {
	return effects.Reconcile[purchase]{
		Subject: "purchase 7", Backoff: time.Microsecond,
		Version: func(p purchase) string { return fmt.Sprintf("v%d", p.Version) },
		Load:    func(context.Context) (purchase, error) { return s.now, nil },
		Push: func(_ context.Context, base purchase) error {
			s.pushed = append(s.pushed, base.Version)
			if s.before != nil {
				if err := s.before(&s.now); err != nil {
					return err
				}
			}
			if base.Version != s.now.Version {
				return parking.AsConflict(errMoved)
			}
			s.now.Version, s.now.Quantity = s.now.Version+1, wanted
			if s.silent {
				s.silent = false
				return parking.AsConflict(errMoved) // what the same request gets the second time
			}
			return nil
		},
		Done: func(current purchase) bool { return current.Quantity == wanted },
		Critical: func(seen, current purchase) []parking.Change {
			if seen.Quantity == current.Quantity {
				return nil
			}
			return []parking.Change{{
				Field: "quantity", Was: number(seen.Quantity), Is: number(current.Quantity), Wanted: number(wanted),
			}}
		},
	}
}

func number(n int) json.RawMessage { return json.RawMessage(fmt.Sprint(n)) }

func TestAChangeIsMadeOnTheCurrentVersionIfNothingCriticalDiffers(t *testing.T) {
	t.Parallel()
	seen := purchase{Version: 1, Quantity: 10}
	for name, c := range map[string]struct {
		now     purchase
		before  func(*purchase) error
		silent  bool
		pushed  []int
		already bool
		quote   string
	}{
		"as seen": {now: seen, pushed: []int{1}},
		"a note": {
			now: purchase{Version: 4, Quantity: 10, Note: "call first"}, pushed: []int{1, 4},
			quote: "purchase 7 was changed at try 2, on version v4 instead of v1",
		},
		"again meanwhile": {
			now:    seen,
			before: racing(2),
			pushed: []int{1, 2, 3},
			quote:  "purchase 7 was changed at try 3, on version v3 instead of v1",
		},
		"as wanted": {
			now: purchase{Version: 2, Quantity: 50}, pushed: []int{1}, already: true,
			quote: "purchase 7 was as wanted already, in version v2",
		},
		"the answer was lost": {
			now: seen, silent: true, pushed: []int{1}, already: true,
			quote: "purchase 7 was as wanted already, in version v2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &shelf{now: c.now, before: c.before, silent: c.silent}
			ctx := remark.With(t.Context())
			done, err := s.reconcile().Do(ctx, seen)
			require.NoError(t, err)
			require.Equal(t, c.pushed, s.pushed)
			require.Equal(t, 50, s.now.Quantity)
			require.Equal(t, c.already, done.Already)
			require.Equal(t, len(c.pushed), done.Tries)
			require.Equal(t, c.quote, remark.In(ctx))
		})
	}
}

// racing has others change the note before each of the first n pushes.
func racing(n int) func(*purchase) error {
	return func(now *purchase) error {
		if n > 0 {
			n--
			now.Version++
		}
		return nil
	}
}

func TestACriticalChangeIsAConflict(t *testing.T) {
	t.Parallel()
	seen := purchase{Version: 1, Quantity: 10}
	s := &shelf{now: purchase{Version: 3, Quantity: 12}}
	_, err := s.reconcile().Do(t.Context(), seen)
	require.Equal(t, parking.Conflict, parking.Classify(err))
	require.ErrorIs(t, err, errMoved)
	var conflict *parking.ConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "purchase 7", conflict.Subject)
	require.Equal(t, seen, conflict.Seen)
	require.Equal(t, s.now, conflict.Current)
	require.Equal(t, []parking.Change{{Field: "quantity", Was: number(10), Is: number(12), Wanted: number(50)}}, conflict.Diff)
	require.Equal(t, []int{1}, s.pushed)
	require.Equal(t, 12, s.now.Quantity)
}

func TestReconcileIsBoundedAndGuessesNothing(t *testing.T) {
	t.Parallel()
	seen := purchase{Version: 1, Quantity: 10}
	noAnswer := errors.New("no answer")

	s := &shelf{now: seen, before: racing(100)}
	_, err := s.reconcile().Do(t.Context(), seen)
	require.ErrorIs(t, err, effects.ErrMoving)
	require.Equal(t, parking.Transient, parking.Classify(err))
	require.Len(t, s.pushed, 3)

	for name, failure := range map[string]error{
		"ambiguous": noAnswer, "unknown effect": &effects.UnknownError{Scope: "purchase", Key: "7@v1"},
		"refused": parking.AsPermanent(noAnswer),
	} {
		s = &shelf{now: seen, before: func(*purchase) error { return failure }}
		r := s.reconcile()
		r.Load = func(context.Context) (purchase, error) { panic("nobody asked") }
		_, err = r.Do(t.Context(), seen)
		require.Equal(t, failure, err, name)
		require.Len(t, s.pushed, 1, name)
	}

	s = &shelf{now: purchase{Version: 2, Quantity: 10}}
	r := s.reconcile()
	r.Load = func(context.Context) (purchase, error) { return purchase{}, parking.AsTransient(noAnswer) }
	_, err = r.Do(t.Context(), seen)
	require.ErrorIs(t, err, noAnswer)
	require.Equal(t, parking.Transient, parking.Classify(err))

	s = &shelf{now: seen, before: racing(100)}
	r, ctx := s.reconcile(), t.Context()
	r.Backoff = time.Hour
	ctx, cancel := context.WithCancel(ctx)
	r.Critical = func(purchase, purchase) []parking.Change { cancel(); return nil }
	_, err = r.Do(ctx, seen)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, s.pushed, 1)

	_, err = effects.Reconcile[purchase]{}.Do(t.Context(), seen)
	require.ErrorContains(t, err, "Subject")
	_, err = effects.Reconcile[purchase]{Subject: "purchase 7"}.Do(t.Context(), seen)
	require.ErrorContains(t, err, "Done and Critical")
	r.Tries = -1
	_, err = r.Do(t.Context(), seen)
	require.ErrorContains(t, err, "negative")
}

// A person who accepts a review has seen what is current: that stands, until
// something critical changes once more.
func TestAReviewOfAConflictIsAcceptedOnWhatWasShown(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		seen := purchase{Version: 1, Quantity: 10}
		s := &shelf{now: purchase{Version: 3, Quantity: 12}}
		p, takenBack := f.parkedShop(), 0
		client, err := effects.New(f.st, effects.Config{Provider: effects.Provider{Name: "shop"}, Consumer: pays})
		require.NoError(f, err)
		dedupe, err := middleware.NewDedupe(f.st, middleware.DedupeConfig{Consumer: pays})
		require.NoError(f, err)
		park, err := middleware.NewParking(f.st, middleware.ParkingConfig{
			Consumer: pays, OnConflict: func(context.Context, store.Tx, *message.Message, error) error {
				p.mu.Lock()
				defer p.mu.Unlock()
				takenBack++
				return nil
			},
		})
		require.NoError(f, err)
		stage := client.Stage("change", func(ctx context.Context, _ *message.Message) (effects.Response, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			_, err := s.reconcile().Do(ctx, seen)
			return effects.Response{}, err
		})
		p.handler = park.Middleware(stage(dedupe.Middleware(p.note)))
		p.deliver("change-1")
		first := p.inReview()
		require.Equal(f, "purchase 7", first.Subject)
		require.Equal(f, 1, takenBack)

		others := func(now purchase) {
			p.mu.Lock()
			defer p.mu.Unlock()
			s.now = now
		}
		others(purchase{Version: 4, Quantity: 20}) // once more, before it is judged
		desk := parking.NewDesk(f.st, parking.DeskConfig{Actor: "ann"})
		require.NoError(f, desk.Accept(f.Context(), first.ID, parking.Accepted))
		p.work()
		var second store.ParkedRow
		p.eventually("it is reviewed again", func() bool {
			if takenBack < 2 {
				return false
			}
			items, err := desk.List(f.Context(), store.ParkedFilter{Status: []store.ParkedStatus{store.StatusReview}}, 0, 10)
			require.NoError(f, err)
			if len(items) == 0 {
				return false // not committed yet
			}
			whole, err := desk.Get(f.Context(), items[0].ID)
			require.NoError(f, err)
			second = whole.ParkedRow
			return true
		})
		require.Equal(f, first.ID, second.ID)
		require.Contains(f, string(second.Diff), `"is":20`)
		require.Contains(f, string(second.Diff), `"was":12`, "what was shown")

		others(purchase{Version: 5, Quantity: 20, Note: "call first"})
		require.NoError(f, desk.Accept(f.Context(), second.ID, parking.Accepted))
		p.eventually("it is handled", func() bool { return len(p.handled) == 1 })
		require.Equal(f, 50, s.now.Quantity) // its handler is done
		var verdict, reason string
		inbox := f.db.QueryRowContext(f.Context(), "SELECT verdict, reason FROM headrace_inbox")
		require.NoError(f, inbox.Scan(&verdict, &reason))
		require.Equal(f, string(store.Applied), verdict)
		require.Equal(f, "purchase 7 was changed at try 2, on version v5 instead of v4", reason)
	})
}
