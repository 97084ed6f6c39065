package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// parkingPoints are those at which a service dies while messages are put aside, line
// up, and come back.
var parkingPoints = []killPoint{
	{recount, step.ParkDecided, 1},
	{recount, step.ParkWritten, 1},
	{recount, step.ParkCommitted, 1},
	{recount, step.LineWritten, 2},
	{subscriber, step.ClaimTaken, 2},
	{subscriber, step.ReentrySent, 2},
	{recount, step.HandlerReturned, 3},
	{subscriber, step.ReentryFinished, 2},
	{subscriber, step.LineOpened, 1},
}

// A service dies at each point of what Parking does, alone and beside another
// instance. Every change is counted once, and those of a product in their order.
func TestCrashParkingKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			s := newLineStory(t, database)
			rounds := 1
			if full() {
				rounds = 4 // of 9 points, with 3 databases
			}
			for range rounds {
				for i, point := range parkingPoints {
					s.killAt(t, point, i%2 == 1)
				}
			}
			s.finish(t)
			require.Empty(t, s.damage(t))
			changes := 0
			for _, sent := range s.sent {
				changes += len(sent)
			}
			t.Logf("%d kills, %d changes, %d released by a person", s.kills, changes, s.released)
		})
	}
}

// The check is on trial here: nothing waits behind what was put aside.
func TestCrashFindsLinesThatAreNotHeld(t *testing.T) {
	t.Parallel()
	s := newLineStory(t, "sqlite")
	s.Unheld = true
	s.sendChange(t, "p0", 3)
	s.sendChange(t, "p0", 0)
	s.finish(t)
	damage := s.damage(t)
	require.NotEmpty(t, damage)
	t.Logf("found: %v", damage)
}

// lineStory is a service that is killed, and what was sent to it.
type lineStory struct {
	warehouse

	store    *store.Store
	db       *sqlx.DB
	history  *history
	sent     map[string][]string // by product, in order
	kills    int
	released int
	broker   *brokers.Broker
}

func newLineStory(t *testing.T, database string) *lineStory {
	t.Helper()
	s := &lineStory{history: newHistory(), sent: map[string][]string{}, warehouse: warehouse{
		Database: testenv.Database(t, database), Topic: testenv.Topic(t, "changes"),
		Broker: "mem:?poll=10ms&nack_delay=50ms&ack_deadline=2s&drain=5s&file=" +
			url.QueryEscape(filepath.Join(t.TempDir(), "queue.db")),
	}}
	parsed, err := dburl.Parse(s.Database)
	require.NoError(t, err)
	db, err := parsed.ForService().Connect(t.Context(), connectTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s.store, err = store.Open(t.Context(), db, store.Config{Dialect: store.Dialect(parsed.Dialect), Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.store.Close()) })
	s.db = store.JoinDBX(s.store)
	id := map[store.Dialect]string{
		store.Postgres: "bigint GENERATED ALWAYS AS IDENTITY", store.MySQL: "BIGINT AUTO_INCREMENT PRIMARY KEY",
		store.SQLite: "INTEGER PRIMARY KEY AUTOINCREMENT",
	}[s.store.Dialect()]
	_, err = s.db.ExecContext(t.Context(), "CREATE TABLE counted (id "+id+
		", change_id VARCHAR(40) NOT NULL, product VARCHAR(10) NOT NULL, quantity BIGINT NOT NULL)")
	require.NoError(t, err)
	s.broker, err = brokers.Open(t.Context(), s.Broker, brokers.Config{Openers: all.Openers()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.broker.Close()) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("history:\n%s", s.history.of(map[string]bool{"": true}))
		}
	})
	return s
}

// send sends a change of one of a few products; most of them fail first.
func (s *lineStory) send(t *testing.T) {
	t.Helper()
	s.sendChange(t, fmt.Sprintf("p%d", rand.IntN(3)), max(rand.IntN(7)-2, 0))
}

// sendChange sends one that fails some times; after three it needs a person.
func (s *lineStory) sendChange(t *testing.T, product string, fails int) {
	t.Helper()
	change := stockChanged{Change: watermill.NewUUID(), Product: product}
	change.Quantity = int64(len(s.sent[product])*failsBelow + fails)
	payload, err := json.Marshal(change)
	require.NoError(t, err)
	msg := message.NewMessage(change.Change, payload)
	msgmeta.SetKey(msg, product)
	require.NoError(t, s.broker.Publisher.Publish(s.Topic, msg))
	s.sent[product] = append(s.sent[product], change.Change)
}

// killAt starts the service, beside another instance if wanted, and sends changes
// until it dies at the point.
func (s *lineStory) killAt(t *testing.T, point killPoint, beside bool) {
	t.Helper()
	p := s.start(t, fmt.Sprintf("life %d", s.kills+1), point)
	var other *process
	if beside {
		other = s.start(t, fmt.Sprintf("beside life %d", s.kills+1), killPoint{})
	}
	bounded, cancel := context.WithTimeout(t.Context(), killTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for dead, sending := false, true; !dead; {
		if pending := s.pending(t); pending == 0 || sending && pending < mostPending {
			s.send(t)
			sending = true
		} else {
			sending = false
		}
		s.judge(t)
		select {
		case <-p.exited:
			dead = true
		case <-tick.C:
		case <-bounded.Done():
			p.dump()
			t.Fatalf("the service was never at %s\n%s", point, p.log.String())
		}
	}
	require.NoError(t, p.killed())
	s.kills++
	s.history.add(event{process: p.name, who: "test", step: "KILLED at " + point.String()})
	if other != nil {
		require.NoError(t, other.stop(t.Context()))
	}
}

// mostPending is how many changes are sent ahead. What is sent without an end to a slow
// machine keeps lines from ever opening.
const mostPending = 15

// pending is how many changes aren't counted yet.
func (s *lineStory) pending(t *testing.T) int {
	t.Helper()
	var counted int
	require.NoError(t, s.db.GetContext(t.Context(), &counted, "SELECT count(*) FROM counted"))
	for _, sent := range s.sent {
		counted -= len(sent)
	}
	return -counted
}

func (s *lineStory) start(t *testing.T, name string, point killPoint) *process {
	t.Helper()
	p, err := startProcess(name, childConfig{Warehouse: s.warehouse, Kill: point}, s.history)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.kill()
		<-p.exited
	})
	return p
}

// judge does what a person has to: it releases what has failed too often.
func (s *lineStory) judge(t *testing.T) {
	t.Helper()
	var ids []int64
	require.NoError(t, s.db.SelectContext(t.Context(), &ids, "SELECT id FROM headrace_parked WHERE status = 'parked'"))
	for _, id := range ids {
		require.NoError(t, s.store.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := s.store.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
			return err
		}))
		s.released++
	}
}

// finish lets two instances run until everything is counted and no line is held.
func (s *lineStory) finish(t *testing.T) {
	t.Helper()
	processes := []*process{s.start(t, "last", killPoint{}), s.start(t, "beside the last", killPoint{})}
	testenv.Eventually(t, drainTimeout, 100*time.Millisecond, func() (bool, string) {
		s.judge(t)
		waiting, err := s.broker.Capabilities.Backlog(t.Context(), s.Topic, recount)
		require.NoError(t, err)
		var held int64
		require.NoError(t, s.db.GetContext(t.Context(), &held, "SELECT count(*) FROM headrace_gates"))
		return waiting == 0 && held == 0, fmt.Sprintf("%d changes in the broker, %d lines held; %s", waiting, held,
			processes[0].log.String())
	})
	for _, p := range processes {
		require.NoError(t, p.stop(t.Context()))
	}
}

// damage says which changes weren't counted once, and in order.
func (s *lineStory) damage(t *testing.T) (damage []string) {
	t.Helper()
	for product, sent := range s.sent {
		var got []string
		query := s.db.Rebind("SELECT change_id FROM counted WHERE product = ? ORDER BY id")
		require.NoError(t, s.db.SelectContext(t.Context(), &got, query, product))
		if !slices.Equal(sent, got) {
			damage = append(damage, fmt.Sprintf("%s: %d of %d counted, or not in order", product, len(got), len(sent)))
		}
	}
	return damage
}
