package scenario

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/service"
	"github.com/headrace-go/headrace/examples/purchasing/smtp"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// fiveOClock is the slot of the suppliers' mails. Its days don't come while the test
// runs: it moves the time of what is scheduled instead.
const fiveOClock = "0 17 1 1 *"

// delays05 outlast what a service that died has claimed.
var delays05 = []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second}

// recommended is how many recommendations there are, of two suppliers.
const recommended = 12

func supplierOf(id int) string { return []string{"north", "south"}[id%2] }

// office is the purchasing service with its mail server and its users.
type office struct {
	*world

	server *testenv.MailServer
	topics service.Topics
	desk   *buying.Desk
	// users are the transactions of users. They share a store with nobody.
	users *store.Store
}

// newOffice opens the users' side: where the orders go is the caller's to say.
func newOffice(w *world, slot func(ctx context.Context, o *office, supplier string) (time.Time, error)) *office {
	w.t.Helper()
	o := &office{
		world: w, users: w.another(nil),
		topics: service.Topics{Slots: w.topic("slots"), Mails: w.topic("mails"), Bookings: w.topic("bookings")},
		// It takes no mail at the first try, as servers with greylisting do.
		server: testenv.StartMailServer(w.t, func(_ testenv.Mail, try int) error {
			if try == 1 {
				return testenv.ErrMailLater
			}
			return nil
		}),
	}
	outbox, err := forwarder.NewOutbox(o.users, forwarder.OutboxConfig{Service: service.Name})
	require.NoError(w.t, err)
	o.desk = buying.New(buying.Config{
		DB: store.JoinDBX(o.users), From: "orders@example.com", Publisher: outbox.Publisher(), Bookings: o.topics.Bookings,
		Slot: func(ctx context.Context, supplier string) (time.Time, error) { return slot(ctx, o, supplier) },
	})
	require.NoError(w.t, o.desk.CreateTables(w.t.Context()))
	var all []buying.Recommendation
	for id := 1; id <= recommended; id++ {
		all = append(all, buying.Recommendation{
			ID: int64(id), Supplier: supplierOf(id), Product: "valve", Quantity: 1, SeenVersion: 1, SeenQuantity: 1,
		})
	}
	suppliers := []buying.Supplier{
		{Name: "north", Address: "north@example.com"}, {Name: "south", Address: "south@example.com"},
	}
	require.NoError(w.t, o.do(func(ctx context.Context) error { return o.desk.Fill(ctx, suppliers, all) }))
	return o
}

// inSlots asks for a slot's one message, as the service's own API does.
func inSlots(ctx context.Context, o *office, supplier string) (time.Time, error) {
	outbox, err := forwarder.NewOutbox(o.users, forwarder.OutboxConfig{Service: service.Name})
	if err != nil {
		return time.Time{}, err
	}
	asked, err := outbox.PublishInSlot(ctx, forwarder.Slot{Cron: fiveOClock, Subject: supplier}, o.topics.Slots)
	return asked.At, err
}

// do runs what a user does.
func (o *office) do(f func(ctx context.Context) error) error {
	return o.users.InTx(o.t.Context(), func(ctx context.Context, _ store.Tx) error { return f(ctx) })
}

// ordered is the key of the order that a context's transaction writes.
type ordered struct{}

func (o *office) order(id, quantity int) error {
	return o.do(func(ctx context.Context) error {
		ctx = context.WithValue(ctx, ordered{}, fmt.Sprintf("%d: %d", id, quantity))
		_, err := o.desk.Order(ctx, int64(id), int64(quantity))
		return err
	})
}

func (o *office) withdraw(id int) error {
	return o.do(func(ctx context.Context) error { return o.desk.Withdraw(ctx, int64(id)) })
}

// strikeFive has the slots come that somebody has asked for.
func (o *office) strikeFive() {
	o.t.Helper()
	now := map[store.Dialect]string{
		store.Postgres: "now()", store.MySQL: "UTC_TIMESTAMP(6)", store.SQLite: "unixepoch('now') * 1000000",
	}[o.st.Dialect()]
	require.NoError(o.t, o.st.InTx(o.t.Context(), func(ctx context.Context, tx store.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE headrace_scheduled SET due_at = "+now+
			" WHERE state = 'waiting' AND due_at > "+now)
		return err
	}))
}

// mailed waits until all that is ordered was mailed.
func (o *office) mailed() {
	o.t.Helper()
	testenv.Eventually(o.t, patience, tick, func() (bool, string) {
		open := o.count("SELECT count(*) FROM recommendations WHERE state = 'ordered' AND mail = ''")
		unsent := o.count("SELECT count(*) FROM mails WHERE state <> 'sent'")
		return open == 0 && unsent == 0, fmt.Sprintf("%d orders are in no mail, %d mails are not sent", open, unsent)
	})
	o.sent()
	o.settled(o.topics.Slots, service.Name)
	o.settled(o.topics.Mails, service.Name)
}

// damage: a supplier gets one mail for a slot, and in it is what stood at that
// moment.
func (o *office) damage() (found []string) {
	perSlot, lines := map[string]int{}, map[int]int{}
	for _, m := range o.server.Taken() {
		read, err := mail.ReadMessage(strings.NewReader(m.Content))
		require.NoError(o.t, err)
		perSlot[m.To+" for "+read.Header.Get("Date")]++
		_, body, _ := strings.Cut(m.Content, "\r\n\r\n")
		for line := range strings.Lines(body) {
			var id, quantity int
			if _, err := fmt.Sscanf(line, "%d: %d", &id, &quantity); err != nil {
				continue
			}
			lines[id]++
			if n := o.count("SELECT quantity FROM recommendations WHERE id = ?", id); n != quantity {
				found = append(found, fmt.Sprintf("order %d was mailed with %d instead of %d", id, quantity, n))
			}
		}
	}
	for _, slot := range slices.Sorted(maps.Keys(perSlot)) {
		if n := perSlot[slot]; n > 1 {
			found = append(found, fmt.Sprintf("%d mails went to %s", n, slot))
		}
	}
	for id := 1; id <= recommended; id++ {
		want := o.count("SELECT count(*) FROM recommendations WHERE id = ? AND state = 'ordered'", id)
		if lines[id] != want {
			found = append(found, fmt.Sprintf("order %d is in %d mails instead of %d", id, lines[id], want))
		}
	}
	return found
}

// aDay is what users do: before the slot, while it comes, and after.
func (o *office) aDay() {
	o.t.Helper()
	for id := 1; id <= 8; id++ {
		require.NoError(o.t, o.order(id, id))
	}
	require.NoError(o.t, o.order(1, 100))
	require.NoError(o.t, o.order(1, 101))
	require.NoError(o.t, o.withdraw(3))
	require.NoError(o.t, o.withdraw(4))
	require.NoError(o.t, o.order(4, 44))

	var users sync.WaitGroup
	mayBeLate := func(err error) {
		if err != nil && !errors.Is(err, buying.ErrMailed) {
			o.t.Error(err)
		}
	}
	users.Go(func() { mayBeLate(o.withdraw(5)) })
	users.Go(func() { mayBeLate(o.order(6, 66)) })
	for _, id := range []int{9, 10, 11} {
		users.Go(func() { mayBeLate(o.order(id, id)) })
	}
	o.strikeFive()
	users.Wait()
}

// Without the protection each action schedules a mail of its own, to be sent at the
// same time.
func TestS05_DeferredEMail_OneForASlotWithWhatStillStands(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		w := open(t, p)
		if !protected {
			return aMailForEachAction(w)
		}
		o := newOffice(w, inSlots)
		o.serveOffice()
		o.aDay()
		o.mailsTaken(2)
		require.ErrorIs(t, o.withdraw(1), buying.ErrMailed)
		require.NoError(t, o.order(12, 12), "in the slot after")
		o.lastSlot()
		o.mailed()
		return o.damage()
	})
}

// lastSlot has slots come until nobody waits for one.
func (o *office) lastSlot() {
	o.t.Helper()
	testenv.Eventually(o.t, patience, tick, func() (bool, string) {
		o.strikeFive()
		n := o.count("SELECT count(*) FROM headrace_scheduled WHERE state = 'waiting'")
		return n == 0, fmt.Sprintf("%d messages are not due", n)
	})
}

func (o *office) mailsTaken(n int) {
	o.t.Helper()
	testenv.Eventually(o.t, patience, tick, func() (bool, string) {
		taken := len(o.server.Taken())
		return taken >= n, fmt.Sprintf("%d mails were taken", taken)
	})
}

// serveOffice runs the service until the test ends.
func (o *office) serveOffice() {
	o.t.Helper()
	o.bus = o.openBroker(brokers.Config{Group: service.Name})
	s, err := service.New(o.t.Context(), service.Config{
		DB: o.db, Broker: o.bus, Topics: o.topics, Cron: fiveOClock,
		Server: smtp.Server{Addr: o.server.Addr}, Logger: o.logger,
		Forwarder: forwarder.Config{PollInterval: tick, MaxPollInterval: 2 * tick},
		Parking:   middleware.ParkingConfig{Delays: delays05},
	})
	require.NoError(o.t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(o.t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	o.t.Cleanup(func() {
		stop()
		require.NoError(o.t, <-done)
		require.NoError(o.t, s.Close())
	})
	receive(o.t, s.Running(), "the service's start")
}

// aMailForEachAction is the same service without slots: the action is in the
// message.
func aMailForEachAction(w *world) []string {
	o := newOffice(w, func(ctx context.Context, o *office, supplier string) (time.Time, error) {
		outbox, err := forwarder.NewOutbox(o.users, forwarder.OutboxConfig{})
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, outbox.PublishAfter(ctx, time.Hour, o.topics.Mails, actionOf(ctx, supplier))
	})
	o.serve(subscription{
		service: service.Name, topic: o.topics.Mails, middlewares: one(o.dedupe(service.Name)),
		handle: func(msg *message.Message) ([]*message.Message, error) {
			server := smtp.Server{Addr: o.server.Addr}
			return nil, server.Send(msg.Context(), "orders@example.com", msg.Metadata.Get("to"), msg.Payload)
		},
	})
	o.forward(forwarder.Config{PollInterval: tick, MaxPollInterval: 2 * tick})
	o.aDay()
	o.lastSlot()
	o.sent()
	o.settled(o.topics.Mails, service.Name)
	const actions = 11 // and those that were done while the slot came, some of them too late
	o.mailsTaken(actions)
	return o.damage()
}

// actionOf is the mail of the one order that the context's transaction writes.
func actionOf(ctx context.Context, supplier string) *message.Message {
	to := supplier + "@example.com"
	msg := message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil,
		"Date: Fri, 01 Jan 2027 17:00:00 +0000\r\nTo: %s\r\nMessage-ID: <%s@example.com>\r\n\r\n%s of valve\r\n",
		to, watermill.NewUUID(), ctx.Value(ordered{})))
	msg.Metadata.Set("to", to)
	msgmeta.SetKey(msg, supplier)
	return msg
}
