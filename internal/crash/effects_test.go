package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
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
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// charged is the moment in which the bank has charged, and hasn't answered yet.
const charged = "charged"

// A service dies at each point of a call to the outside world. Whatever the bank
// can do, every change is charged and paid once, and one that may have been charged
// is never called for again unless the bank makes one of both or says that nothing
// has happened, or a person does.
func TestCrashEffectsHappenOnce(t *testing.T) {
	t.Parallel()
	for _, database := range testenv.Databases(t) {
		for _, kind := range []providerKind{withKeys, withLookUp, withNone} {
			t.Run(database+"/"+string(kind), func(t *testing.T) {
				t.Parallel()
				s := newPayStory(t, database, kind, newBank(t, kind == withKeys))
				rounds := 1
				if full() {
					rounds = 3 // of 4 points, with 3 databases and 3 kinds of bank
				}
				for range rounds {
					for _, point := range []string{step.EffectIntent, step.EffectCalled, charged, step.EffectRecorded} {
						s.killAt(t, point)
					}
				}
				s.finish(t)
				require.Empty(t, s.damage(t))
				t.Logf("%d kills, %d changes, %d calls, %d settled by a person", s.kills, len(s.sent), s.calls(), len(s.settled))
				switch kind {
				case withKeys:
					require.Greater(t, s.calls(), len(s.sent), "no call was repeated")
				case withLookUp, withNone, naive:
					require.Equal(t, len(s.sent), s.calls(), "a blind second call")
				}
				if kind == withNone {
					require.Subset(t, s.settled, s.doubtful, "a doubt that no person was asked about")
				}
			})
		}
	}
}

// The check is on trial here: a call in the handler's transaction, and a bank that
// is believed to know keys and doesn't.
func TestCrashFindsUnprotectedCharges(t *testing.T) {
	t.Parallel()
	for _, kind := range []providerKind{naive, withKeys} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newPayStory(t, "sqlite", kind, newBank(t, false))
			s.killAt(t, charged)
			s.finish(t)
			damage := s.damage(t)
			require.NotEmpty(t, damage)
			t.Logf("found: %v", damage)
		})
	}
}

// payStory is a service that is killed, its bank, and what was sent to it.
type payStory struct {
	payments

	bank    *bank
	store   *store.Store
	db      *sqlx.DB
	history *history
	sent    []stockChanged
	kills   int
	// doubtful were killed between their intent and its outcome, settled are those
	// that the test, as a person, was asked about.
	doubtful, settled []string
}

func newPayStory(t *testing.T, database string, kind providerKind, b *bank) *payStory {
	t.Helper()
	s := &payStory{bank: b, history: newHistory(), payments: payments{
		Database: testenv.Database(t, database), Bank: b.url, Topic: testenv.Topic(t, "changes"), Provider: kind,
		Broker: "mem:?poll=10ms&nack_delay=50ms&ack_deadline=500ms&drain=5s&file=" +
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
	_, err = s.db.ExecContext(t.Context(),
		"CREATE TABLE payments (change_id VARCHAR(40) NOT NULL, receipt VARCHAR(100) NOT NULL)")
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("history:\n%s", s.history.of(map[string]bool{"": true}))
		}
	})
	return s
}

// open opens the broker as long as something is sent.
func (s *payStory) open(t *testing.T) *brokers.Broker {
	t.Helper()
	broker, err := brokers.Open(t.Context(), s.Broker, brokers.Config{Openers: all.Openers()})
	require.NoError(t, err)
	return broker
}

func (s *payStory) send(t *testing.T) {
	t.Helper()
	broker := s.open(t)
	change := stockChanged{Change: watermill.NewUUID(), Quantity: int64(len(s.sent))}
	payload, err := json.Marshal(change)
	require.NoError(t, err)
	require.NoError(t, broker.Publisher.Publish(s.Topic, message.NewMessage(change.Change, payload)))
	s.sent = append(s.sent, change)
	require.NoError(t, broker.Close())
}

// killAt starts the service, and sends changes until it dies at the point.
func (s *payStory) killAt(t *testing.T, point string) {
	t.Helper()
	// The first message that comes may be one whose claim a dead process still has,
	// which reaches no point: the new one does.
	p := s.start(t, killPoint{Who: pay, Step: point, N: 1})
	if point == charged {
		s.bank.atNextCharge(p.kill)
	}
	for range 2 {
		s.send(t)
	}
	bounded, cancel := context.WithTimeout(t.Context(), killTimeout)
	defer cancel()
	select {
	case <-p.exited:
	case <-bounded.Done():
		p.dump()
		t.Fatalf("the service was never at %s\n%s", point, p.log.String())
	}
	require.NoError(t, p.killed())
	s.kills++
	s.history.add(event{process: p.name, who: "test", step: "KILLED at " + point})
	s.noteDoubts(t)
}

func (s *payStory) start(t *testing.T, point killPoint) *process {
	t.Helper()
	p, err := startProcess(fmt.Sprintf("life %d", s.kills+1), childConfig{Payments: s.payments, Kill: point}, s.history)
	require.NoError(t, err)
	t.Cleanup(func() {
		p.kill()
		<-p.exited
	})
	return p
}

// noteDoubts notes which calls the dead process has left open.
func (s *payStory) noteDoubts(t *testing.T) {
	t.Helper()
	var open []string
	query := "SELECT message_id FROM headrace_effects WHERE status = 'calling'"
	require.NoError(t, s.db.SelectContext(t.Context(), &open, query))
	for _, id := range open {
		if !slices.Contains(s.doubtful, id) {
			s.doubtful = append(s.doubtful, id)
		}
	}
}

// finish lets the service run until everything is paid, and does what a person has
// to where it asks for one.
func (s *payStory) finish(t *testing.T) {
	t.Helper()
	last := s.start(t, killPoint{})
	broker := s.open(t)
	testenv.Eventually(t, drainTimeout, 200*time.Millisecond, func() (bool, string) {
		s.settle(t)
		waiting, err := broker.Capabilities.Backlog(t.Context(), s.Topic, pay)
		require.NoError(t, err)
		return waiting == 0, fmt.Sprintf("%d changes in the broker; %s", waiting, last.log.String())
	})
	require.NoError(t, broker.Close())
	require.NoError(t, last.stop(t.Context()))
}

// settle asks the bank about each effect that is unknown, when no call of it can be
// under way any more.
func (s *payStory) settle(t *testing.T) {
	t.Helper()
	var unknown []string
	query := "SELECT message_id FROM headrace_effects WHERE status = 'unknown'"
	require.NoError(t, s.db.SelectContext(t.Context(), &unknown, query))
	for _, id := range unknown {
		row, err := s.store.Effect(t.Context(), scope, id)
		require.NoError(t, err)
		if row.SinceLast < 2*callBounds {
			continue
		}
		decision := effects.CallAgain("the bank knows nothing of it")
		if _, charges := s.bank.of(id); charges > 0 {
			decision = effects.Happened(effects.Response{Body: []byte("seen in the bank's list")}, "")
		}
		require.NoError(t, effects.Settle(t.Context(), s.store, "ann", scope, id, decision))
		s.settled = append(s.settled, id)
	}
}

func (s *payStory) calls() (n int) {
	for _, change := range s.sent {
		calls, _ := s.bank.of(change.Change)
		n += calls
	}
	return n
}

// damage says what was not charged once and paid once.
func (s *payStory) damage(t *testing.T) (damage []string) {
	t.Helper()
	for _, change := range s.sent {
		_, charges := s.bank.of(change.Change)
		var paid int
		query := s.db.Rebind("SELECT count(*) FROM payments WHERE change_id = ?")
		require.NoError(t, s.db.GetContext(t.Context(), &paid, query, change.Change))
		if charges != 1 || paid != 1 {
			damage = append(damage, fmt.Sprintf("%s was charged %d times and paid %d times", change.Change, charges, paid))
		}
	}
	return damage
}
