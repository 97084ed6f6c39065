package middleware_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

const shelf = "stock.add"

var errFull = errors.New("shelf 17 is full")

// parked is a handler behind Parking and Dedupe, and what makes it fail.
type parked struct {
	*bundle

	t       *testing.T
	handler message.HandlerFunc
	runs    []string
	fails   func(msg *message.Message) error
}

func (b *bundle) parked(t *testing.T, change func(cfg *middleware.ParkingConfig)) *parked {
	t.Helper()
	p := &parked{bundle: b, t: t, fails: func(*message.Message) error { return nil }}
	cfg := middleware.ParkingConfig{
		Consumer: shelf, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{time.Hour, time.Hour},
	}
	if change != nil {
		change(&cfg)
	}
	parking, err := middleware.NewParking(b.st, cfg)
	require.NoError(t, err)
	p.handler = parking.Middleware(b.dedupe(t).Middleware(p.handle))
	return p
}

func (p *parked) handle(msg *message.Message) ([]*message.Message, error) {
	p.runs = append(p.runs, msg.UUID)
	if _, err := p.add(msg); err != nil {
		return nil, err
	}
	return nil, p.fails(msg)
}

func (p *parked) send(id, key string) error {
	msg := message.NewMessage(id, []byte("payload of "+id))
	if key != "" {
		msgmeta.SetKey(msg, key)
	}
	msg.SetContext(p.t.Context())
	_, err := p.handler(msg)
	return err
}

func (p *parked) row(id int64) store.ParkedRow {
	p.t.Helper()
	row, err := p.st.ParkedByID(p.t.Context(), id)
	require.NoError(p.t, err)
	return row
}

// release has a person say that the first message be tried again.
func (p *parked) release() {
	p.t.Helper()
	require.NoError(p.t, p.st.InTx(p.t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := p.st.ReleaseParked(ctx, tx, 1, store.Release{By: "anna"})
		return err
	}))
}

// comeBack handles the first messages of a line again, as the Subscriber does, until
// one is put back. It returns what became of each.
func (p *parked) comeBack() (outcomes []error) {
	p.t.Helper()
	claims, err := p.st.ClaimLines(p.t.Context(), shelf, "me", time.Minute, 10)
	require.NoError(p.t, err)
	for _, c := range claims {
		rows, err := p.st.ReadLine(p.t.Context(), c, 0, 100, 1<<20)
		require.NoError(p.t, err)
		for _, row := range rows {
			payload, metadata := row.Handled()
			msg := message.NewMessage(row.MessageID, payload)
			msg.Metadata = metadata
			ref := store.HeldRef{Claim: c, ID: row.ID, InboxID: row.InboxID, Edits: row.Edits, Status: row.Status}
			ticket := parking.NewReentry(ref, row, msg.Copy())
			msg.SetContext(parking.WithTicket(p.t.Context(), ticket))
			_, err := p.handler(msg)
			outcome := ticket.Outcome()
			outcomes = append(outcomes, outcome)
			if outcome != nil {
				require.Equal(p.t, errors.Is(outcome, parking.ErrPutBack), err == nil, "%v", err)
				break
			}
		}
		_, err = p.st.EndClaim(p.t.Context(), c)
		require.NoError(p.t, err)
	}
	return outcomes
}

func (p *parked) verdict(id string) store.Verdict {
	p.t.Helper()
	verdict, _, _, err := p.st.Look(p.t.Context(), shelf, id, store.Line{})
	require.NoError(p.t, err)
	return verdict
}

func TestAFailedMessageIsKeptWithItsCauses(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, func(cfg *middleware.ParkingConfig) {
			cfg.Immediate = middleware.Immediate{Tries: 2, First: time.Microsecond}
		})
		p.fails = func(*message.Message) error { return errors.Join(errFull, errors.New("second")) }
		require.NoError(t, p.send("1", "sku"), "it is acked")
		require.Len(t, p.runs, 3)
		require.Zero(t, p.quantity(t), "what failed is rolled back")
		row := p.row(1)
		require.Equal(t, store.StatusDelayed, row.Status)
		require.Equal(t, "unknown", row.Class)
		require.Equal(t, "shelf 17 is full\nsecond", row.Reason)
		require.Equal(t, "payload of 1", string(row.Payload))
		require.Equal(t, "sku", row.Key)
		require.Len(t, row.Chain, 3)
		require.Len(t, row.History, 3)
		require.Equal(t, 3, row.Attempts)
		require.Equal(t, store.Parked, p.verdict("1"))
		gate, err := p.st.GateOf(t.Context(), store.KeyLine(shelf, "sku"))
		require.NoError(t, err)
		require.InDelta(t, time.Hour.Seconds(), gate.DueIn.Seconds(), 15*60)
	})
}

func TestACopyOfAParkedMessageIsSkipped(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		p.fails = func(*message.Message) error { return errFull }
		require.NoError(t, p.send("1", "sku"))
		require.NoError(t, p.send("1", "sku"))
		require.Len(t, p.runs, 1)
	})
}

// Later messages of its key wait, also at other instances, and come in order when a
// person has let the first one go. Other keys flow.
func TestLaterMessagesOfAKeyLineUpAndComeInOrder(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		parkAtOnce := func(cfg *middleware.ParkingConfig) { cfg.Delays = []time.Duration{} }
		p, other := b.parked(t, parkAtOnce), b.parked(t, parkAtOnce)
		p.fails = func(*message.Message) error { return errFull }
		require.NoError(t, p.send("1", "sku"))
		require.Equal(t, store.StatusParked, p.row(1).Status)
		for _, id := range []string{"2", "3", "4"} {
			require.NoError(t, other.send(id, "sku"))
			require.Equal(t, store.Accepted, p.verdict(id))
		}
		require.NoError(t, other.send("5", "another"))
		require.NoError(t, other.send("6", ""))
		require.Equal(t, []string{"5", "6"}, other.runs)
		require.Equal(t, []string{"1"}, p.runs)
		require.Empty(t, p.comeBack(), "it waits for a person")

		p.release()
		require.Equal(t, []error{nil, nil, nil, nil}, other.comeBack())
		require.Equal(t, []string{"5", "6", "1", "2", "3", "4"}, other.runs)
		require.Equal(t, 6, p.quantity(t))
		require.Equal(t, store.Applied, p.verdict("1"))
		require.Equal(t, store.Applied, p.verdict("4"))
		_, err := p.st.GateOf(t.Context(), store.KeyLine(shelf, "sku"))
		require.ErrorIs(t, err, store.ErrNotHeld)
		require.NoError(t, other.send("7", "sku"))
		require.Equal(t, 7, p.quantity(t), "the line is free again")
	})
}

func TestAKeptMessageThatFailsAgainUsesItsDelaysAndThenWaitsForAPerson(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, func(cfg *middleware.ParkingConfig) { cfg.Delays = []time.Duration{0, 0} })
		p.fails = func(*message.Message) error { return errFull }
		require.NoError(t, p.send("1", "sku"))
		require.Equal(t, store.StatusDelayed, p.row(1).Status)
		require.Equal(t, []error{parking.ErrPutBack}, p.comeBack())
		require.Equal(t, store.StatusDelayed, p.row(1).Status)
		require.Equal(t, []error{parking.ErrPutBack}, p.comeBack())
		require.Equal(t, store.StatusParked, p.row(1).Status)
		require.Equal(t, 3, p.row(1).Attempts)
		require.Len(t, p.row(1).History, 3)
		require.Empty(t, p.comeBack())
		p.release()
		require.Equal(t, []error{parking.ErrPutBack}, p.comeBack())
		require.Equal(t, store.StatusDelayed, p.row(1).Status, "a person's word gives it all its tries again")
		require.Zero(t, p.quantity(t))
		p.fails = func(*message.Message) error { return nil }
		require.Equal(t, []error{nil}, p.comeBack())
		require.Equal(t, 1, p.quantity(t))
		require.NoError(t, p.send("1", "sku"))
		require.Equal(t, 1, p.quantity(t), "its copy is skipped")
	})
}

func TestClassesDecideWhatBecomesOfAMessage(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		conflict := &parking.ConflictError{
			Subject: "sku-17", Seen: 1, Current: 2, Diff: []parking.Change{{Field: "price", Was: json.RawMessage("1")}},
		}
		for i, c := range []struct {
			err     error
			status  store.ParkedStatus
			verdict store.Verdict
			runs    int
		}{
			{parking.AsPermanent(errFull), store.StatusParked, store.Parked, 1},
			{parking.AsTransient(errFull), store.StatusDelayed, store.Parked, 2},
			{conflict, store.StatusReview, store.Conflict, 1},
			{parking.After(errFull, 5*time.Hour), store.StatusDelayed, store.Parked, 2},
		} {
			p := b.parked(t, func(cfg *middleware.ParkingConfig) {
				cfg.Immediate = middleware.Immediate{Tries: 1, First: time.Microsecond}
			})
			p.fails = func(*message.Message) error { return c.err }
			id := string(rune('a' + i))
			require.NoError(t, p.send(id, id))
			require.Len(t, p.runs, c.runs, "%v", c.err)
			row := p.row(int64(i + 1))
			require.Equal(t, c.status, row.Status, "%v", c.err)
			require.Equal(t, c.verdict, p.verdict(id))
			if c.status == store.StatusReview {
				require.Equal(t, "sku-17", row.Subject)
				require.JSONEq(t, `{"seen":1,"current":2,"diff":[{"field":"price","was":1}]}`, string(row.Diff))
			}
		}
		gate, err := b.st.GateOf(t.Context(), store.KeyLine(shelf, "d"))
		require.NoError(t, err)
		require.Greater(t, gate.DueIn, 4*time.Hour, "what Retry-After asks for")
	})
}

func TestAPanicIsParkedWithItsStack(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		p.fails = func(*message.Message) error { panic("boom") }
		require.NoError(t, p.send("1", "sku"))
		row := p.row(1)
		require.Equal(t, "panic: boom", row.Reason)
		require.Contains(t, row.Chain[0].Stack, "parking_test.go")
	})
}

// The end of a message's context is the end of its process or subscription.
func TestShutdownIsNoFailure(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		p.fails = func(*message.Message) error { cancel(); return ctx.Err() }
		msg := message.NewMessage("1", nil)
		msg.SetContext(ctx)
		_, err := p.handler(msg)
		require.ErrorIs(t, err, context.Canceled)
		_, err = b.st.ParkedByID(t.Context(), 1)
		require.ErrorIs(t, err, store.ErrNotParked)
		require.Empty(t, p.verdict("1"))
	})
}

func TestAFullLineTakesNoMoreWhereItIsToBlock(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, func(cfg *middleware.ParkingConfig) { cfg.LineMax, cfg.WhenFull = 2, middleware.Block })
		p.fails = func(*message.Message) error { return errFull }
		require.NoError(t, p.send("1", "sku"))
		require.NoError(t, p.send("2", "sku"))
		require.ErrorIs(t, p.send("3", "sku"), parking.ErrLineFull)
		require.Empty(t, p.verdict("3"), "the broker still has it")
	})
}

func TestBadInputIsKeptToo(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		huge := strings.Repeat("\xff\x00é", 1<<20)
		p.fails = func(*message.Message) error { return errors.New(huge) }
		require.NoError(t, p.send("1", "sku"))
		require.Equal(t, store.StatusDelayed, p.row(1).Status)
		require.Less(t, len(p.row(1).Reason), 4096)

		p.fails = func(*message.Message) error { return nil }
		require.NoError(t, p.send("", "other"))
		row := p.row(2)
		require.Equal(t, store.StatusParked, row.Status)
		require.Contains(t, row.Reason, "no id")
		require.Empty(t, row.MessageID)

		malformed := message.NewMessage("3", []byte{0xff})
		msgmeta.SetMalformed(malformed, "headers are no JSON")
		malformed.SetContext(t.Context())
		_, err := p.handler(malformed)
		require.NoError(t, err)
		require.Contains(t, p.row(3).Reason, "headers are no JSON")
		require.Equal(t, "permanent", p.row(3).Class)
		require.Len(t, p.runs, 1)
	})
}

// A producer's second payload under an id that is taken is another message: it is
// kept, and holds nobody up.
func TestAProducersSecondPayloadIsParked(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		dedupe, err := middleware.NewDedupe(b.st, middleware.DedupeConfig{Consumer: shelf, Fingerprint: true})
		require.NoError(t, err)
		parkingMiddleware, err := middleware.NewParking(b.st, middleware.ParkingConfig{Consumer: shelf})
		require.NoError(t, err)
		p.handler = parkingMiddleware.Middleware(dedupe.Middleware(p.handle))
		for range 2 {
			for _, payload := range []string{"one", "two"} {
				msg := message.NewMessage("1", []byte(payload))
				msgmeta.SetKey(msg, "sku")
				msg.SetContext(t.Context())
				_, err := p.handler(msg)
				require.NoError(t, err)
			}
		}
		require.Len(t, p.runs, 1)
		require.Equal(t, "two", string(p.row(1).Payload))
		_, err = b.st.ParkedByID(t.Context(), 2)
		require.ErrorIs(t, err, store.ErrNotParked, "once is enough")
		require.NoError(t, p.send("2", "sku"))
		require.Equal(t, 2, p.quantity(t), "its key flows")
		p.release()
		require.Equal(t, []error{nil}, p.comeBack())
		require.Equal(t, 3, p.quantity(t))
	})
}

// In a transaction of the subscriber's, what is kept and the ack are one commit.
func TestParkingJoinsTheBrokersTransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		p.fails = func(*message.Message) error { return errFull }
		msg, unit := b.joined(t)
		_, err := p.handler(msg)
		require.NoError(t, err)
		require.NoError(t, unit.Commit(t.Context()))
		require.Zero(t, b.quantity(t))
		require.Equal(t, "shelf 17 is full", p.row(1).Reason)
	})
}

func TestWithoutDedupeLinesAreKeptToo(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		p := b.parked(t, nil)
		alone, err := middleware.NewParking(b.st, middleware.ParkingConfig{
			Consumer: shelf, WithoutDedupe: true, Immediate: middleware.Immediate{Tries: -1}, Delays: []time.Duration{},
		})
		require.NoError(t, err)
		p.handler = alone.Middleware(p.handle)
		p.fails = func(*message.Message) error { return errFull }
		require.NoError(t, p.send("1", "sku"))
		require.NoError(t, p.send("2", "sku"))
		require.NoError(t, p.send("1", "sku"))
		p.fails = func(*message.Message) error { return nil }
		require.NoError(t, p.send("3", "other"))
		require.Equal(t, []string{"1", "3"}, p.runs)
		require.Equal(t, store.Accepted, p.verdict("2"))
	})
}
