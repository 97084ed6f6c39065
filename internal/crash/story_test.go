package crash_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// story is one run on one combination: who sends, what was sent, and how it ends.
type story struct {
	service

	seed    uint64
	rng     *rand.Rand // of the plan
	store   *store.Store
	db      *sqlx.DB
	history *history

	mu      sync.Mutex
	content *rand.Rand
	repeats bool           // send some changes twice
	sent    []stockChanged // each change once, in the order of first sending
	copies  int
	kills   []string
}

func newStory(t *testing.T, c combination) *story {
	t.Helper()
	seed := rand.Uint64()
	if fixed := os.Getenv("HEADRACE_CRASH_SEED"); fixed != "" {
		var err error
		seed, err = strconv.ParseUint(fixed, 10, 64)
		require.NoError(t, err, "HEADRACE_CRASH_SEED")
	}
	database := c.database(t)
	s := &story{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), content: rand.New(rand.NewPCG(seed, 2)), repeats: true,
		history: newHistory(),
		service: service{
			Database: database, Broker: withOptions(t, c.broker(t, database), c.options), Join: c.join,
			Topics:     topics{testenv.Topic(t, "changes"), testenv.Topic(t, "followups")},
			Protection: protected, FailOneIn: 16,
		},
	}
	s.store, s.db = openTables(t, database)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat the plan: HEADRACE_CRASH_SEED=%d", seed)
		}
	})
	return s
}

func (s *story) open(ctx context.Context) (*brokers.Broker, error) {
	cfg := brokers.Config{Openers: all.Openers()}
	if s.Join {
		cfg.Join = brokers.JoinUnits(s.store.Begin)
	}
	return brokers.Open(ctx, s.Broker, cfg)
}

// send publishes n changes. It opens the broker for that alone, so that a
// consumer which starts between two sendings finds itself alone on a queue file.
func (s *story) send(ctx context.Context, n int) error {
	s.mu.Lock() // the order of sending is that of s.sent
	defer s.mu.Unlock()
	broker, err := s.open(ctx)
	if err != nil {
		return err
	}
	for range n {
		change := stockChanged{
			Change: watermill.NewUUID(), Product: productName(s.content.IntN(productCount)), Quantity: 1 + s.content.Int64N(9),
		}
		s.sent = append(s.sent, change)
		if err := s.publish(broker, change); err != nil {
			return err
		}
		if s.repeats && s.content.IntN(4) == 0 {
			const recent = 10
			again := s.sent[len(s.sent)-1-s.content.IntN(min(recent, len(s.sent)))]
			s.copies++
			if err := s.publish(broker, again); err != nil {
				return err
			}
		}
	}
	return broker.Close()
}

func (s *story) publish(broker *brokers.Broker, change stockChanged) error {
	payload, err := json.Marshal(change)
	if err != nil {
		return err
	}
	msg := message.NewMessage(change.Change, payload)
	msgmeta.SetKey(msg, change.Product)
	s.history.add(event{process: "test", who: "test", step: "sent", product: change.Product, change: change.Change})
	return broker.Publisher.Publish(s.Topics.Changes, msg)
}

// drain waits until no message waits anywhere. It asks in the order of a
// message's way, so that none slips from what was asked to what wasn't yet.
func (s *story) drain(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	broker, err := s.open(ctx)
	require.NoError(t, err)
	backlog := broker.Capabilities.Backlog
	require.NotNil(t, backlog)
	defer func() {
		require.NoError(t, broker.Close())
		if t.Failed() {
			s.explain(t)
		}
	}()
	testenv.Eventually(t, drainTimeout, 100*time.Millisecond, func() (bool, string) {
		changes, err := backlog(ctx, s.Topics.Changes, apply)
		require.NoError(t, err)
		outbox, err := s.store.CountOutbox(ctx)
		require.NoError(t, err)
		followUps, err := backlog(ctx, s.Topics.FollowUps, recommend)
		require.NoError(t, err)
		return changes == 0 && len(outbox) == 0 && followUps == 0,
			fmt.Sprintf("%d changes and %d follow-ups in the broker, outbox: %+v", changes, followUps, outbox)
	})
}

// explain logs what went on, for a run that doesn't drain.
func (s *story) explain(t *testing.T) {
	t.Helper()
	findings, err := check(t.Context(), s.db, s.sent)
	if err != nil {
		t.Logf("the tables can't be read: %v", err)
		return
	}
	t.Logf("kills:\n%s\nso far:\n%s\nhistory of the products concerned:\n%s",
		excerptAll(s.kills), excerpt(findings.wrong()), s.history.of(findings.products))
}

// requireRight fails when anything was lost or done twice, or, where the broker
// promises order, done out of order.
func (s *story) requireRight(t *testing.T) {
	t.Helper()
	findings, err := check(t.Context(), s.db, s.sent)
	require.NoError(t, err)
	broker, err := s.open(t.Context())
	require.NoError(t, err)
	ordered := broker.Capabilities.KeyOrder
	require.NoError(t, broker.Close())

	wrong := findings.wrong()
	if ordered {
		wrong = append(wrong, findings.disorder...)
	} else {
		t.Logf("out of order, which this broker doesn't promise: %d of %d", len(findings.disorder), 2*len(s.sent))
	}
	if len(wrong) > 0 {
		t.Fatalf("seed %d: %d wrong:\n%s\nkills:\n%s\nhistory of the products concerned:\n%s", s.seed,
			len(wrong), excerpt(wrong), excerptAll(s.kills), s.history.of(findings.products))
	}
}
