package crash_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// tick is how often a state of the outside world is asked for.
const tick = 10 * time.Millisecond

// Of two relays one dies again and again, at each point of parking a message that
// the broker refuses, and of sending it once a person has mended it. Every key's
// messages come in order, but for those that a person has discarded, and none comes
// before a person has judged what is in front of it.
func TestCrashParkingInTheOutboxKeepsTheOrderOfKeys(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a test for the long run: make test")
	}
	for _, database := range testenv.Databases(t) {
		t.Run(database, func(t *testing.T) {
			t.Parallel()
			s := newRelayStory(t, relaying{}, database)
			sibling := s.start(t, "sibling", killPoint{})
			rounds := 1
			if full() {
				rounds = 4 // of 9 points, on 3 databases
			}
			for range rounds {
				for _, point := range []string{
					step.RelayBeforePark, parkCommitting, step.RelayAfterPark, step.RelayRead, step.RelayBeforePublish,
					step.RelayAfterPublish, step.RelayBeforeConfirm, doneCommitting, step.RelayAfterConfirm,
				} {
					s.killAt(t, point)
				}
			}
			s.finish(t)
			require.NoError(t, sibling.stop(t.Context()))
			require.Empty(t, s.damage())
			t.Logf("seed %d: %d kills, %d messages of %d keys, %d parked, %d of them discarded",
				s.seed, s.kills, s.published, len(s.want), s.parked, len(s.discarded))
		})
	}
}

// The check is on trial here: a relay that drops what is refused, and goes on.
func TestCrashFindsARelayThatDropsWhatIsRefused(t *testing.T) {
	t.Parallel()
	s := newRelayStory(t, relaying{Dropping: true}, "sqlite")
	s.killAt(t, step.RelayAfterPublish)
	s.finish(t)
	damage := s.damage()
	require.NotEmpty(t, damage)
	t.Logf("found: %v", damage)
}

// relayStory is what is published, by key, and what came of it.
type relayStory struct {
	relaying

	seed    uint64
	rng     *rand.Rand
	topic   string
	store   *store.Store
	outbox  *forwarder.Outbox
	history *history

	kills, published, parked int
	// want is what was published of each key, in order.
	want      map[string][]string
	discarded map[string]bool

	mu sync.Mutex
	// came is what the broker has delivered, each message once.
	came map[string][]string
	seen map[string]bool
}

// takes is the largest payload that the broker takes.
const takes = 1000

func newRelayStory(t *testing.T, r relaying, database string) *relayStory {
	t.Helper()
	r.Database = testenv.Database(t, database)
	r.Broker = fmt.Sprintf("mem:?poll=10ms&max_body=%d&file=%s", takes, url.QueryEscape(filepath.Join(t.TempDir(), "queue.db")))
	seed := rand.Uint64()
	s := &relayStory{
		relaying: r, seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), topic: testenv.Topic(t, "out"), history: newHistory(),
		want: map[string][]string{}, discarded: map[string]bool{}, came: map[string][]string{}, seen: map[string]bool{},
	}
	parsed, err := dburl.Parse(s.Database)
	require.NoError(t, err)
	db, err := parsed.ForService().Connect(t.Context(), connectTimeout)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s.store, err = store.Open(t.Context(), db, store.Config{Dialect: store.Dialect(parsed.Dialect), Migrate: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.store.Close()) })
	s.outbox, err = forwarder.NewOutbox(s.store, forwarder.OutboxConfig{})
	require.NoError(t, err)
	s.read(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("history:\n%s", s.history.of(map[string]bool{"": true}))
		}
	})
	return s
}

// read collects what the broker delivers until the test ends.
func (s *relayStory) read(t *testing.T) {
	t.Helper()
	broker, err := brokers.Open(t.Context(), s.Broker, brokers.Config{Openers: all.Openers(), Group: "reader"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	messages, err := broker.Subscriber.Subscribe(t.Context(), s.topic)
	require.NoError(t, err)
	go func() {
		for msg := range messages {
			s.mu.Lock()
			if !s.seen[msg.UUID] {
				s.seen[msg.UUID] = true
				key := msgmeta.GetKey(msg)
				s.came[key] = append(s.came[key], msg.UUID)
			}
			s.mu.Unlock()
			msg.Ack()
		}
	}()
}

// publish writes a few messages of each key, of which some are refused.
func (s *relayStory) publish(t *testing.T) {
	t.Helper()
	const keys, each, oneIn = 8, 3, 6
	for k := range keys {
		key := fmt.Sprintf("key %d", k)
		for range each {
			msg := message.NewMessage(fmt.Sprintf("%s, number %d", key, len(s.want[key])+1), []byte{1})
			if s.rng.IntN(oneIn) == 0 {
				msg.Payload = make([]byte, 2*takes)
			}
			msgmeta.SetKey(msg, key)
			require.NoError(t, s.outbox.Publish(t.Context(), s.topic, msg))
			s.want[key] = append(s.want[key], msg.UUID)
			s.published++
		}
	}
}

// operate is a person who judges what is parked, or leaves some for later.
func (s *relayStory) operate(t *testing.T, all bool) {
	t.Helper()
	var ids []int64
	err := store.JoinDBX(s.store).SelectContext(t.Context(), &ids,
		"SELECT id FROM headrace_parked WHERE status = 'parked' ORDER BY id")
	require.NoError(t, err)
	for _, id := range ids {
		decision := s.rng.IntN(4)
		if all {
			decision %= 2
		}
		var row store.ParkedRow
		require.NoError(t, s.store.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
			row, err = s.judge(ctx, tx, id, decision)
			return err
		}))
		s.history.add(event{process: "test", who: "person", step: fmt.Sprintf("decision %d", decision), change: row.MessageID})
		if decision <= mend {
			s.parked++
		}
		if decision == discard {
			s.discarded[row.MessageID] = true
		}
	}
}

// A person's decisions; any other is to leave it for later.
const (
	discard = iota
	mend
	tryAgain // as it is: the broker refuses it again
)

func (s *relayStory) judge(ctx context.Context, tx store.Tx, id int64, decision int) (row store.ParkedRow, err error) {
	switch decision {
	case discard:
		return s.store.DiscardParked(ctx, tx, id, "ann", "", nil)
	case mend:
		if _, err = s.store.EditParked(ctx, tx, id, store.Edit{Payload: &[]byte{2}}); err != nil {
			return row, err
		}
		return s.store.ReleaseParked(ctx, tx, id, store.Release{By: "ann"})
	case tryAgain:
		return s.store.ReleaseParked(ctx, tx, id, store.Release{By: "ann"})
	}
	return row, nil
}

func (s *relayStory) start(t *testing.T, name string, point killPoint) *process {
	t.Helper()
	p, err := startProcess(name, childConfig{Relaying: s.relaying, Kill: point}, s.history)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			p.dump()
		}
		p.kill()
		<-p.exited
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, p.log.String())
		}
	})
	return p
}

// killAt publishes, and judges what is parked, until a relay dies at the point.
func (s *relayStory) killAt(t *testing.T, point string) {
	t.Helper()
	s.kills++
	p := s.start(t, fmt.Sprintf("life %d", s.kills), killPoint{Who: relay, Step: point, N: 1 + s.rng.IntN(3)})
	bounded, cancel := context.WithTimeout(t.Context(), killTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * tick)
	defer ticker.Stop()
	for {
		if s.unsent(t) < mostUnsent {
			s.publish(t)
		}
		s.operate(t, false)
		select {
		case <-p.exited:
			require.NoError(t, p.killed())
			s.history.add(event{process: p.name, who: "test", step: "KILLED at " + point})
			return
		case <-ticker.C:
		case <-bounded.Done():
			p.dump()
			t.Fatalf("the relay was never at %s\n%s", point, p.log.String())
		}
	}
}

// mostUnsent is how much is written ahead: what is written without an end is never sent
// by a slow machine.
const mostUnsent = 100

func (s *relayStory) unsent(t *testing.T) (unsent int64) {
	t.Helper()
	counts, err := s.store.CountOutbox(t.Context())
	require.NoError(t, err)
	for _, count := range counts {
		unsent += count.Unsent
	}
	return unsent
}

// finish lets a relay run until everything is judged and sent.
func (s *relayStory) finish(t *testing.T) {
	t.Helper()
	last := s.start(t, "last", killPoint{})
	testenv.Eventually(t, drainTimeout, 5*tick, func() (bool, string) {
		s.operate(t, true)
		counts, err := s.store.CountOutbox(t.Context())
		require.NoError(t, err)
		return len(counts) == 0, fmt.Sprintf("in the outbox: %+v", counts)
	})
	var left []string
	err := store.JoinDBX(s.store).SelectContext(t.Context(), &left,
		"SELECT message_id FROM headrace_parked WHERE status NOT IN ('done', 'discarded')")
	require.NoError(t, err)
	require.Empty(t, left, "parked messages that nobody knows the end of")
	if !s.Dropping {
		testenv.Eventually(t, drainTimeout, tick, func() (bool, string) {
			damage := s.damage()
			return len(damage) == 0, fmt.Sprint(damage)
		})
	}
	require.NoError(t, last.stop(t.Context()))
}

// damage says of which keys something is missing, discarded but there, or in
// another order.
func (s *relayStory) damage() (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, want := range s.want {
		want = slices.DeleteFunc(slices.Clone(want), func(id string) bool { return s.discarded[id] })
		if got := s.came[key]; !slices.Equal(got, want) {
			found = append(found, fmt.Sprintf("of %s came %v instead of %v", key, got, want))
		}
	}
	return found
}
