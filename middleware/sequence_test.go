package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const ordersStream = "shop/default/orders"

func sequenced(id, key string, epoch, n int64) *message.Message {
	msg := message.NewMessage(id, []byte(id))
	msgmeta.SetNumber(msg, msgmeta.Number{Producer: ordersStream, Key: key, Epoch: epoch, Sequence: n})
	return msg
}

// counted is a handler behind Sequence; parked's is behind Parking and Dedupe, too.
type counted struct {
	*parked

	gaps []string
}

func (c *counted) OnGap(e middleware.GapEvent) {
	c.gaps = append(c.gaps, fmt.Sprintf("%s %d-%d before %d", e.Step, e.From, e.To, e.Sequence))
}

func (b *bundle) counted(t *testing.T, cfg middleware.SequenceConfig) *counted {
	t.Helper()
	c := &counted{parked: &parked{bundle: b, t: t, fails: func(*message.Message) error { return nil }}}
	cfg.Hooks = []any{c}
	seq, err := middleware.NewSequence(b.st, cfg)
	require.NoError(t, err)
	park, err := middleware.NewParking(b.st, middleware.ParkingConfig{
		Consumer: shelf, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{time.Hour},
	})
	require.NoError(t, err)
	c.handler = park.Middleware(seq.FetchMiddleware(b.dedupe(t).Middleware(seq.Middleware(c.handle))))
	return c
}

func (c *counted) deliver(msg *message.Message) error {
	c.t.Helper()
	msg.SetContext(c.t.Context())
	_, err := c.handler(msg)
	return err
}

// come delivers numbers of the key "k", each as a message of its own.
func (c *counted) come(numbers ...int64) {
	c.t.Helper()
	for _, n := range numbers {
		require.NoError(c.t, c.deliver(sequenced(fmt.Sprint(n), "k", 1, n)))
	}
}

// settle has what is due come back until nothing more is.
func (c *counted) settle() {
	c.t.Helper()
	for len(c.comeBack()) > 0 { //nolint:revive // the work is in the condition
	}
}

// expire lets the time go by that kept messages wait.
func (c *counted) expire(d time.Duration) {
	c.t.Helper()
	minus := fmt.Sprintf(map[store.Dialect]string{
		store.Postgres: "- interval '%d microseconds'", store.MySQL: "- INTERVAL %d MICROSECOND", store.SQLite: "- %d",
	}[c.st.Dialect()], d.Microseconds())
	for _, statement := range []string{
		"UPDATE headrace_parked SET parked_at = parked_at " + minus + ", due_at = due_at " + minus,
		"UPDATE headrace_gates SET due_at = due_at " + minus,
	} {
		_, err := c.db.ExecContext(c.t.Context(), statement)
		require.NoError(c.t, err)
	}
}

func (c *counted) mark() int64 {
	c.t.Helper()
	found, err := c.st.Positions(c.t.Context(), shelf, "k", 10)
	require.NoError(c.t, err)
	require.Len(c.t, found, 1)
	return found[0].Mark
}

func TestSequenceKnowsACopyForEver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(1, 2, 3)
		_, err := c.db.ExecContext(t.Context(), "DELETE FROM headrace_inbox") // a purge
		require.NoError(t, err)
		c.come(1, 2, 3, 4)
		require.Equal(t, []string{"1", "2", "3", "4"}, c.runs)
		require.Equal(t, 4, c.quantity(t))
		require.Equal(t, store.Duplicate, c.verdict("2"))
		require.Equal(t, int64(4), c.mark())
	})
}

func TestAGapWaitsForWhatIsMissing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(1, 5, 4, 3)
		require.Equal(t, []string{"1"}, c.runs)
		require.Equal(t, store.Gap, c.verdict("4"))
		c.come(4) // a copy of what is kept
		c.settle()
		require.Equal(t, []string{"1"}, c.runs, "nothing is due")
		c.come(2)
		c.settle()
		require.Equal(t, []string{"1", "2", "3", "4", "5"}, c.runs)
		require.Equal(t, store.Applied, c.verdict("4"))
		require.Equal(t, int64(5), c.mark())
		require.Equal(t, []string{"wait 2-4 before 5", "wait 2-3 before 4", "wait 2-2 before 3"}, c.gaps)
		left, err := c.st.CountParked(t.Context())
		require.NoError(t, err)
		require.Empty(t, left)
		c.come(6)
		require.Equal(t, int64(6), c.mark())
	})
}

// Other keys are no part of a gap, and what fails is none.
func TestAGapHoldsUpNobodyElse(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(1, 3)
		require.NoError(t, c.deliver(sequenced("other", "K", 1, 1)))
		require.NoError(t, c.deliver(message.NewMessage("plain", nil)))
		c.fails = func(msg *message.Message) error {
			if msg.UUID == "2" {
				return errFull
			}
			return nil
		}
		c.come(2)
		require.Equal(t, []string{"1", "other", "plain", "2"}, c.runs)
		require.Equal(t, int64(1), c.mark(), "what has failed isn't done")
		c.fails = func(*message.Message) error { return nil }
		c.expire(2 * time.Hour)
		c.settle()
		c.settle()
		require.Contains(t, c.runs, "3")
	})
}

func TestAGapsStepsFollowEachOther(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		asked := 0
		c := b.counted(t, middleware.SequenceConfig{
			Gaps: []middleware.GapStep{middleware.GapWait(time.Minute), middleware.GapFetch(), middleware.GapPark()},
			Fetch: func(context.Context, *message.Message, *middleware.GapError) (middleware.Snapshot, error) {
				asked++
				return middleware.Snapshot{}, errors.New("the source is away")
			},
		})
		c.come(1, 3)
		c.expire(30 * time.Second)
		c.settle()
		require.Zero(t, asked)
		c.expire(time.Minute)
		c.settle()
		require.Equal(t, 1, asked)
		row := c.row(1)
		require.Equal(t, store.StatusParked, row.Status)
		require.Equal(t, "gap", row.Class)
		require.Zero(t, row.Attempts)
		require.Contains(t, row.Reason, `number 3 of key "k" of shop/default/orders came, and 2 to 2 are missing`)
		require.Equal(t, []string{"1"}, c.runs)
		c.come(4)
		require.Equal(t, store.Gap, c.verdict("4"))

		c.release() // a person says: without what is missing
		c.settle()
		require.Equal(t, []string{"1", "3", "4"}, c.runs)
		require.Equal(t, int64(4), c.mark())
		c.come(2)
		require.Equal(t, store.Duplicate, c.verdict("2"), "it was given up")
	})
}

func TestWhatIsParkedForItsGapGoesOnWhenItIsClosed(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{Gaps: []middleware.GapStep{middleware.GapPark()}})
		c.come(1, 3)
		require.Equal(t, store.StatusParked, c.row(1).Status)
		c.come(2)
		c.settle()
		require.Equal(t, []string{"1", "2", "3"}, c.runs)
	})
}

func TestAGapIsClosedByASnapshot(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{
			Gaps: []middleware.GapStep{middleware.GapFetch()},
			Fetch: func(ctx context.Context, _ *message.Message, gap *middleware.GapError) (middleware.Snapshot, error) {
				require.Nil(t, b.st.UnitFromContext(ctx))
				return middleware.Snapshot{Sequence: gap.Sequence + 1, Value: "as of 5"}, nil
			},
		})
		var taken []any
		c.fails = func(msg *message.Message) error {
			if s, ok := middleware.SnapshotFrom(msg.Context()); ok {
				taken = append(taken, s.Value)
			}
			return nil
		}
		c.come(1, 4, 5, 2, 6)
		require.Equal(t, []string{"1", "4", "6"}, c.runs, "what is in the snapshot isn't handled any more")
		require.Equal(t, []any{"as of 5"}, taken)
	})
}

func TestAGapIsSkippedOrPassedOver(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{Gaps: []middleware.GapStep{middleware.GapAlert()}, Window: 3})
		c.come(1, 3, 3, 2, 2, 4)
		require.Equal(t, []string{"1", "3", "2", "4"}, c.runs)
		require.Equal(t, int64(4), c.mark())
		c.come(9) // too far ahead to be remembered
		require.Equal(t, store.Parked, c.verdict("9"))
		require.Equal(t, []string{"alert 2-2 before 3", "park 5-8 before 9"}, c.gaps)
	})
	t.Run("GivenUp", func(t *testing.T) {
		eachDatabase(t, func(t *testing.T, b *bundle) {
			c := b.counted(t, middleware.SequenceConfig{
				Gaps: []middleware.GapStep{middleware.GapAlert()}, Window: 3, GiveUp: true,
			})
			c.come(1, 9, 6, 7, 8)
			require.Equal(t, []string{"1", "9", "7", "8"}, c.runs, "6 was given up")
			require.Equal(t, int64(9), c.mark())
		})
	})
	t.Run("Skipped", func(t *testing.T) {
		eachDatabase(t, func(t *testing.T, b *bundle) {
			c := b.counted(t, middleware.SequenceConfig{Gaps: []middleware.GapStep{middleware.GapSkip()}})
			c.come(1, 4, 2, 5)
			require.Equal(t, []string{"1", "4", "5"}, c.runs)
			require.Equal(t, []string{"skip 2-3 before 4"}, c.gaps)
		})
	})
}

func TestAConsumerJoinsInMidstream(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(41, 42, 40, 42, 43)
		require.Equal(t, []string{"41", "42", "40", "43"}, c.runs, "what is before is Dedupe's")
	})
	t.Run("FromOne", func(t *testing.T) {
		eachDatabase(t, func(t *testing.T, b *bundle) {
			c := b.counted(t, middleware.SequenceConfig{Baseline: middleware.FromOne})
			c.come(2)
			require.Empty(t, c.runs)
			c.come(1)
			c.settle()
			require.Equal(t, []string{"1", "2"}, c.runs)
		})
	})
}

// The producer's database was restored: numbers come again, for other messages.
func TestANewEpochCountsAnew(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(1, 2, 3)
		require.NoError(t, c.deliver(sequenced("3 again", "k", 7, 3)))
		require.NoError(t, c.deliver(sequenced("late copy of 2", "k", 1, 2)))
		require.NoError(t, c.deliver(sequenced("4", "k", 7, 4)))
		require.Equal(t, []string{"1", "2", "3", "3 again", "4"}, c.runs)
		require.NoError(t, c.deliver(sequenced("6", "k", 9, 6)))
		require.Equal(t, store.Gap, c.verdict("6"), "an epoch after a failover goes on where the last one was")
		require.NoError(t, c.deliver(sequenced("5", "k", 9, 5)))
		c.settle()
		require.Equal(t, []string{"1", "2", "3", "3 again", "4", "5", "6"}, c.runs)
	})
}

func TestWhatIsDiscardedIsNoGap(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{})
		c.come(1, 3)
		skip := sequenced("2.skip", "k", 1, 2)
		msgmeta.SetSkip(skip)
		require.NoError(t, c.deliver(skip))
		require.Equal(t, store.Discarded, c.verdict("2.skip"))
		c.settle()
		require.Equal(t, []string{"1", "3"}, c.runs)

		late := sequenced("4", "k", 1, 4)
		msgmeta.SetExpires(late, time.Now().Add(-time.Hour))
		require.NoError(t, c.deliver(late))
		require.Equal(t, store.Expired, c.verdict("4"))
		c.come(5)
		require.Equal(t, []string{"1", "3", "5"}, c.runs)
	})
}

// What was missing comes between the judgement and the moment when the message is kept.
func TestAGapThatClosesMeanwhileIsNotWaitedFor(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{Gaps: []middleware.GapStep{middleware.GapPark()}})
		c.come(1)
		inner := c.handler
		var once sync.Once
		seq, err := middleware.NewSequence(b.st, middleware.SequenceConfig{Gaps: []middleware.GapStep{middleware.GapPark()}})
		require.NoError(t, err)
		park, err := middleware.NewParking(b.st, middleware.ParkingConfig{Consumer: shelf})
		require.NoError(t, err)
		guarded := b.dedupe(t).Middleware(seq.Middleware(c.handle))
		c.handler = park.Middleware(func(msg *message.Message) ([]*message.Message, error) {
			produced, err := guarded(msg)
			if errors.Is(err, middleware.ErrGap) {
				once.Do(func() {
					two := sequenced("2", "k", 1, 2)
					two.SetContext(t.Context())
					_, err := inner(two)
					require.NoError(t, err)
				})
			}
			return produced, err
		})
		c.come(3)
		c.settle()
		require.Equal(t, []string{"1", "2", "3"}, c.runs)
	})
}

func TestSequenceWithoutDedupe(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		told := &told{}
		seq, err := middleware.NewSequence(b.st, middleware.SequenceConfig{Consumer: shelf, Hooks: []any{told}})
		require.NoError(t, err)
		h := seq.Middleware(b.add)
		deliver := func(msg *message.Message) error {
			msg.SetContext(t.Context())
			_, err := h(msg)
			return err
		}
		require.NoError(t, deliver(sequenced("1", "k", 1, 1)))
		require.NoError(t, deliver(sequenced("another id", "k", 1, 1)))
		require.Equal(t, 1, b.quantity(t))
		require.ErrorIs(t, deliver(sequenced("3", "k", 1, 3)), middleware.ErrGap)
		require.NoError(t, deliver(sequenced("2", "k", 1, 2)))
		require.NoError(t, deliver(sequenced("3", "k", 1, 3)))
		require.Equal(t, 3, b.quantity(t))
		require.Equal(t, parking.Permanent, parking.Classify(deliver(message.NewMessage("plain", nil))))
		broken := sequenced("4", "k", 1, 4)
		broken.Metadata[msgmeta.Sequence] = "four"
		require.ErrorIs(t, deliver(broken), middleware.ErrNoSequence)
		names, err := b.st.Consumers(t.Context())
		require.NoError(t, err)
		require.Equal(t, []string{shelf}, names)
	})
}

func TestSequenceObserves(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		c := b.counted(t, middleware.SequenceConfig{Observe: true})
		c.come(1, 3)
		_, err := c.db.ExecContext(t.Context(), "DELETE FROM headrace_inbox")
		require.NoError(t, err)
		c.come(3, 2)
		require.Equal(t, []string{"1", "3", "3", "2"}, c.runs)
		require.Equal(t, int64(3), c.mark())
		var gaps, copies int
		for verdict, n := range map[string]*int{"gap": &gaps, "duplicate": &copies} {
			require.NoError(t, c.db.QueryRowContext(t.Context(),
				"SELECT count(*) FROM headrace_verdict_log WHERE observed AND verdict = '"+verdict+"'").Scan(n))
		}
		require.Equal(t, []int{1, 1}, []int{gaps, copies})
	})
}

// A message is taken by many at once, in any order.
func TestSequenceUnderManyAtOnce(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		seq, err := middleware.NewSequence(b.st, middleware.SequenceConfig{
			Baseline: middleware.FromOne, Gaps: []middleware.GapStep{middleware.GapAlert()},
		})
		require.NoError(t, err)
		h := b.dedupe(t).Middleware(seq.Middleware(b.add))
		const numbers, copies = 20, 3
		var wg sync.WaitGroup
		for copied := range copies {
			for n := range numbers {
				wg.Go(func() {
					// Each copy has an id of its own: only its number tells it from the others.
					msg := sequenced(fmt.Sprintf("%d-%d", n, copied), "k", 1, int64(n+1))
					msg.SetContext(t.Context())
					require.Eventually(t, func() bool {
						_, err := h(msg)
						return err == nil
					}, time.Minute, time.Millisecond)
				})
			}
		}
		wg.Wait()
		require.Equal(t, numbers, b.quantity(t))
		found, err := b.st.Positions(t.Context(), "", "k", 10)
		require.NoError(t, err)
		require.Empty(t, found)
	})
}

func TestSequenceRefusesItsConfiguration(t *testing.T) {
	t.Parallel()
	b := setup(t, "sqlite")
	_, err := middleware.NewSequence(nil, middleware.SequenceConfig{})
	require.Error(t, err)
	for want, cfg := range map[string]middleware.SequenceConfig{
		"a step that is none":     {Gaps: []middleware.GapStep{{}}},
		"GapWait needs a time":    {Gaps: []middleware.GapStep{middleware.GapWait(0)}},
		"set SequenceConfig.Fetc": {Gaps: []middleware.GapStep{middleware.GapFetch()}},
		"nothing comes after":     {Gaps: []middleware.GapStep{middleware.GapSkip(), middleware.GapPark()}},
		"Window must be between":  {Window: store.MaxAhead + 1},
		"FirstSeen or FromOne":    {Baseline: 7},
	} {
		_, err := middleware.NewSequence(b.st, cfg)
		require.ErrorContains(t, err, want)
	}
}
