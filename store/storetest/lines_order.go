package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// rush is arrivals, handlers that fail, owners of claims, zombies among them, and
// operators, all at once on a few lines.
type rush struct {
	st    *store.Store
	keys  []string
	again atomic.Int64 // transactions that were run again
	lost  atomic.Int64 // claims that were taken before the commit

	mu      sync.Mutex
	handled map[string][]string // by key and producer
	count   int
}

const (
	rushProducers = 3
	rushMessages  = 40
)

func (r *rush) OnTx(stats store.TxStats) {
	if stats.Attempts > 1 {
		r.again.Add(int64(stats.Attempts - 1))
	}
}

// message is the n-th of a producer, which sends them one after another.
type rushMessage struct {
	key      string
	producer int
	n        int
}

func (m rushMessage) id() string { return fmt.Sprintf("%s/%d/%03d", m.key, m.producer, m.n) }

// handler is what the user's code does: it fails now and then.
func (r *rush) handler(ctx context.Context, id string) error {
	if rand.IntN(4) == 0 {
		return errBoom
	}
	return store.AfterCommit(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		producer := id[:len(id)-4]
		r.handled[producer] = append(r.handled[producer], id)
		r.count++
	})
}

// patiently does it again while SQLite is locked for longer than it may be waited for, as
// services do: here nobody pauses.
func (r *rush) patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		locked := errors.Is(err, store.ErrLockTimeout) || r.st.IsContention(err)
		if !locked || ctx.Err() != nil {
			return err
		}
	}
}

func (r *rush) arrive(ctx context.Context, m rushMessage) error {
	line := store.KeyLine("c", m.key)
	err := r.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		got, _, err := r.st.Admit(ctx, inbox("c", m.id()), line)
		switch {
		case err != nil || got == store.Known:
			return err
		case got == store.Held:
			_, _, err := r.st.LineUp(ctx, tx, parkedMessage("c", m.key, m.id()))
			return err
		}
		return r.handler(ctx, m.id())
	})
	if !errors.Is(err, errBoom) {
		return err
	}
	return r.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
		_, _, _, err := r.st.Park(ctx, tx, failed("c", m.key, m.id()), nil)
		return err
	})
}

// own works lines until everything is handled.
func (r *rush) own(ctx context.Context, owner string, ttl time.Duration) error {
	for ctx.Err() == nil {
		var claims []store.Claim
		if err := r.patiently(ctx, func() (err error) {
			claims, err = r.st.ClaimLines(ctx, "c", owner, ttl, 2)
			return err
		}); err != nil {
			return err
		}
		for _, c := range claims {
			if err := r.work(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rush) work(ctx context.Context, c store.Claim) error {
	var rows []store.ParkedRow
	err := r.patiently(ctx, func() (err error) {
		rows, err = r.st.ReadLine(ctx, c, 0, 20, 1<<20)
		return err
	})
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.Status == store.StatusParked {
			break
		}
		err := handle(ctx, r.st, ref(c, row), row, func(ctx context.Context, _ store.Tx) error {
			return r.handler(ctx, row.InboxID)
		})
		if errors.Is(err, errBoom) {
			status := store.StatusDelayed
			if rand.IntN(3) == 0 {
				status = store.StatusParked
			}
			err = r.st.FailParked(ctx, ref(c, row), store.Failure{Status: status, Reason: "boom"})
			if err == nil {
				return nil // which has given the claim back
			}
		}
		switch {
		case errors.Is(err, store.ErrClaimLost):
			r.lost.Add(1)
			return nil
		case errors.Is(err, store.ErrLinePaused), errors.Is(err, store.ErrParkedChanged):
			return r.endClaim(ctx, c)
		case err != nil:
			return err
		}
	}
	return r.endClaim(ctx, c)
}

func (r *rush) endClaim(ctx context.Context, c store.Claim) error {
	return r.patiently(ctx, func() error {
		_, err := r.st.EndClaim(ctx, c)
		return err
	})
}

// operate releases what waits for a person, edits messages, and pauses lines for a
// moment.
func (r *rush) operate(ctx context.Context, b *bundle) error {
	for ctx.Err() == nil {
		var id int64
		err := r.patiently(ctx, func() (err error) {
			id, err = b.oneParked(ctx)
			return err
		})
		if err != nil {
			return err
		}
		key := store.KeyLine("c", r.keys[rand.IntN(len(r.keys))])
		err = r.st.InTx(ctx, func(ctx context.Context, tx store.Tx) (err error) {
			switch rand.IntN(4) {
			case 0:
				_, err = r.st.PauseLine(ctx, tx, key)
			case 1:
				_, err = r.st.ResumeLine(ctx, tx, key)
			case 2:
				_, err = r.st.EditParked(ctx, tx, id, store.Edit{Metadata: map[string]string{"edited": "x"}})
			default:
				_, err = r.st.ReleaseParked(ctx, tx, id, store.Release{By: "anna"})
			}
			return err
		})
		if err != nil && !errors.Is(err, store.ErrNotParked) && !errors.Is(err, store.ErrStatus) &&
			!errors.Is(err, store.ErrNotHeld) {
			return err
		}
	}
	return nil
}

// oneParked is the last message that waits for a person, or 0.
func (b *bundle) oneParked(ctx context.Context) (id int64, err error) {
	err = b.db.QueryRowContext(ctx, "SELECT coalesce(max(id), 0) FROM headrace_parked WHERE status = 'parked'").Scan(&id)
	return id, err
}

// end lets what is left go on without the operator.
func (r *rush) end(t *testing.T) {
	for _, key := range r.keys {
		err := r.st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := r.st.ResumeLine(ctx, tx, store.KeyLine("c", key))
			return err
		})
		if !errors.Is(err, store.ErrNotHeld) {
			require.NoError(t, err)
		}
	}
}

func (r *rush) done() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count >= rushProducers*rushMessages*len(r.keys)
}

func lineRush(t *testing.T, b *bundle) {
	r := &rush{keys: []string{"a", "b"}, handled: map[string][]string{}}
	r.st = b.store(t, store.Config{Hooks: []any{r}, WarnTxLonger: -1})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var owners, producers, operators sync.WaitGroup
	report := func(err error) {
		if err != nil && ctx.Err() == nil {
			t.Error(err)
			stop()
		}
	}
	owners.Go(func() { report(r.own(ctx, "one", time.Minute)) })
	owners.Go(func() { report(r.own(ctx, "two", time.Minute)) })
	owners.Go(func() { report(r.own(ctx, "zombie", time.Millisecond)) })
	operating, retire := context.WithCancel(ctx)
	operators.Go(func() {
		if err := r.operate(operating, b); operating.Err() == nil {
			report(err)
		}
	})
	for _, key := range r.keys {
		for p := range rushProducers {
			producers.Go(func() {
				for n := range rushMessages {
					err := r.patiently(ctx, func() error { return r.arrive(ctx, rushMessage{key, p, n}) })
					if err != nil {
						report(err)
						return
					}
				}
			})
		}
	}
	producers.Wait()
	retire()
	operators.Wait()
	r.end(t)
	eventually(t, "everything is handled", func() bool {
		id, err := b.oneParked(t.Context())
		if err == nil && id > 0 {
			_ = release(t.Context(), r.st, id, store.Release{By: "anna"})
		}
		return r.done()
	})
	eventually(t, "the lines open", func() bool { return b.int(t, "SELECT count(*) FROM headrace_gates") == 0 })
	stop()
	owners.Wait()
	for producer, got := range r.handled {
		require.Len(t, got, rushMessages, producer)
		for n, id := range got {
			require.Equal(t, fmt.Sprintf("%s/%03d", producer, n), id, "each once, in order")
		}
	}
	require.Len(t, r.handled, rushProducers*len(r.keys))
	require.Zero(t, b.int(t, "SELECT count(*) FROM headrace_parked WHERE line IS NOT NULL"))
	t.Logf("%d transactions were run again, %d claims were lost", r.again.Load(), r.lost.Load())
}
