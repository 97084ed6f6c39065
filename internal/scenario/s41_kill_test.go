package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// Three users of the purchasing service order what the shop must take first. Of two
// purchases somebody else has changed the quantity; a person has one changed all the
// same, and leaves the other. The service is killed behind the call, within and behind
// the transaction that takes the user's action back for review, and behind the call
// and the transaction of the change that was accepted.
func TestS41_Conflict_BehindAServiceThatIsKilled(t *testing.T) {
	pairs := append(on(t, []string{mem}, []string{sqlite}), on(t, []string{kafka}, []string{postgres})...)
	pairs = append(pairs, on(t, []string{sqs}, []string{mariadb})...)
	onAndOff(t, pairs, func(t *testing.T, p pair, protected bool) []string {
		address := brokerURL(t, p.broker)
		if p.broker == mem {
			address = memFile(t)
		}
		w := open(t, p, withBroker(withOptions(address, diedQuickly(p.broker))))
		d := newDeal(newOffice(w, inSlots))
		b := buyer{
			Database: w.dbURL, Broker: w.brokerURL, Topics: d.topics, SMTP: d.server.Addr, Log: d.server.Log, Shop: d.address,
			Protected: protected, Handler: "book",
		}
		diesAt := func(id int64, steps ...string) {
			b.Key = strconv.FormatInt(id, 10)
			for _, b.Step = range steps {
				b.live(t)
			}
			b.Step = ""
		}
		d.book(changesAlone)
		diesAt(changesAlone, step.EffectCalled)
		if !protected {
			d.book(isAccepted, isRejected)
			kill := b.live(t)
			d.ordered(changesAlone, isAccepted, isRejected)
			kill()
			return d.damage()
		}
		diesAt(changesAlone, step.TxBeforeCommit)
		d.book(isAccepted)
		diesAt(isAccepted, step.ParkWritten, step.ParkCommitted)
		kill := b.live(t)
		desk, review := d.reviewed(isAccepted)
		kill()
		require.NoError(t, desk.Accept(t.Context(), review, parking.Accepted))
		diesAt(isAccepted, step.EffectCalled, step.TxAfterCommit)
		d.book(isRejected)
		kill = b.live(t)
		desk, review = d.reviewed(isRejected)
		require.NoError(t, desk.Reject(t.Context(), review, "enough"))
		d.ordered(changesAlone, isAccepted)
		d.strikeFive()
		d.mailed()
		kill()
		return d.damage()
	})
}

// The recommendations of a deal, and what befalls each: both suppliers have one that
// is ordered.
const (
	changesAlone = 1
	isAccepted   = 2
	isRejected   = 3

	bookedQuantity = 50
	othersQuantity = 12
)

// deal is an office with a shop.
type deal struct {
	*office

	shop    *shop.Shop
	address string
}

func newDeal(o *office) deal {
	o.t.Helper()
	purchases := map[string]shop.Purchase{}
	for id := 1; id <= recommended; id++ {
		purchases[strconv.Itoa(id)] = shop.Purchase{Quantity: 1}
	}
	d := deal{office: o, shop: shop.New(purchases)}
	for _, id := range []int{isAccepted, isRejected} {
		d.shop.Change(strconv.Itoa(id), func(p *shop.Purchase) { p.Quantity = othersQuantity })
	}
	server := httptest.NewServer(d.shop)
	o.t.Cleanup(server.Close)
	d.address = server.URL
	return d
}

func (d deal) book(ids ...int64) {
	d.t.Helper()
	for _, id := range ids {
		require.NoError(d.t, d.do(func(ctx context.Context) error { return d.desk.Book(ctx, id, bookedQuantity) }))
	}
}

// reviewed waits until a person is to decide, and returns their desk and the review.
func (d deal) reviewed(id int64) (desk *parking.Desk, review int64) {
	d.t.Helper()
	desk = parking.NewDesk(d.users, parking.DeskConfig{Actor: "anna"})
	var reviews []parking.Item
	testenv.Eventually(d.t, patience, tick, func() (bool, string) {
		var err error
		reviews, err = desk.List(d.t.Context(), store.ParkedFilter{Status: []store.ParkedStatus{store.StatusReview}}, 0, 2)
		require.NoError(d.t, err)
		return len(reviews) > 0, "there is no review"
	})
	require.Len(d.t, reviews, 1)
	require.Equal(d.t, strconv.FormatInt(id, 10), reviews[0].Key)
	r, err := d.desk.Recommendation(d.t.Context(), id)
	require.NoError(d.t, err)
	require.Equal(d.t, buying.Review, r.State, "the user's action is taken back with the review")
	return desk, reviews[0].ID
}

func (d deal) ordered(ids ...int64) {
	d.t.Helper()
	testenv.Eventually(d.t, patience, tick, func() (bool, string) {
		for _, id := range ids {
			if r, err := d.desk.Recommendation(d.t.Context(), id); err != nil || r.State != buying.Ordered {
				return false, fmt.Sprintf("recommendation %d is %s, %v", id, r.State, err)
			}
		}
		return true, ""
	})
}

// damage: the shop was changed once for each, and not where a person said no, and
// suppliers have heard of what was changed.
func (d deal) damage() (found []string) {
	d.t.Helper()
	var mailed strings.Builder
	for _, m := range d.server.Taken() {
		_, body, _ := strings.Cut(m.Content, "\r\n\r\n")
		mailed.WriteString(body)
	}
	for id, want := range map[int]struct{ changes, quantity int }{
		changesAlone: {1, bookedQuantity}, isAccepted: {1, bookedQuantity}, isRejected: {0, othersQuantity},
	} {
		p, changes := d.shop.Purchase(strconv.Itoa(id))
		heard := strings.Count(mailed.String(), fmt.Sprintf("%d: %d of", id, bookedQuantity))
		if changes != want.changes || p.Quantity != int64(want.quantity) || heard != want.changes {
			found = append(found, fmt.Sprintf("purchase %d was changed %d times, is %d, and its supplier heard of it %d times",
				id, changes, p.Quantity, heard))
		}
	}
	return found
}

// overwrite has the shop take what a user wants whatever it has by now, in the
// transaction that notes it.
func overwrite(msg *message.Message, client shop.Client, desk *buying.Desk) error {
	booked, err := buying.ReadBooked(msg)
	if err != nil {
		return err
	}
	id := strconv.FormatInt(booked.Recommendation, 10)
	now, err := client.Get(msg.Context(), id)
	if err != nil {
		return err
	}
	body, err := json.Marshal(shop.Purchase{Quantity: booked.Quantity})
	if err != nil {
		return err
	}
	if _, err := client.Put(id, now.Version)(msg.Context(), "", body); err != nil {
		return err
	}
	step.Reach(msg.Context(), step.EffectCalled)
	return desk.Taken(msg, now.Version+1)
}
