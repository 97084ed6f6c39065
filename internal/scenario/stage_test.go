package scenario

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// stage lets two actors, each with a store and one database connection of its
// own, run in every order: each is stopped at steps of its unit of work and goes
// on when it is its turn. An actor that waits for a lock, seen in the database's
// own views, has taken its turn; it comes back when the lock is free.
type stage struct {
	t        *testing.T
	database string
	stores   [2]*store.Store
	sessions [2]string
	admin    *sql.DB
	waits    int
}

// actor is one player during one play.
type actor struct {
	reached  chan string
	goOn     chan struct{}
	done     chan error
	started  bool
	parked   bool
	finished bool
}

func newStage(t *testing.T, w *world) *stage {
	t.Helper()
	s := &stage{t: t, database: w.database, admin: testenv.Open(t, w.dbURL)}
	for i := range s.stores {
		s.stores[i] = w.another(func(cfg *store.Config) { cfg.LockTimeout = patience })
		db := s.stores[i].DB()
		db.SetMaxOpenConns(1)
		if query, ok := map[string]string{
			postgres: "SELECT pg_backend_pid()", mariadb: "SELECT CONNECTION_ID()",
		}[w.database]; ok {
			require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&s.sessions[i]))
		}
	}
	return s
}

// orders are the ways in which two actors' turns can follow each other. SQLite
// has one writer, so there only where the first one stands when the second comes
// makes a difference.
func (s *stage) orders(turns int) (all []string) {
	if s.database == sqlite {
		for k := range turns {
			first := strings.Repeat("0", k+1) + strings.Repeat("1", turns) + strings.Repeat("0", turns-k-1)
			all = append(all, first, strings.NewReplacer("0", "1", "1", "0").Replace(first))
		}
		return all
	}
	var extend func(order string, zeros, ones int)
	extend = func(order string, zeros, ones int) {
		if zeros == 0 && ones == 0 {
			all = append(all, order)
		}
		if zeros > 0 {
			extend(order+"0", zeros-1, ones)
		}
		if ones > 0 {
			extend(order+"1", zeros, ones-1)
		}
	}
	extend("", turns, turns)
	return all
}

// play gives the actors their turns, then lets both finish.
func (s *stage) play(order string, script func(actor int) func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var actors [2]*actor
	for i := range actors {
		actors[i] = &actor{reached: make(chan string), goOn: make(chan struct{}), done: make(chan error, 1)}
	}
	for _, turn := range order {
		i := int(turn - '0')
		s.turn(ctx, actors, i, script)
	}
	for !actors[0].finished || !actors[1].finished {
		s.turn(ctx, actors, 0, script)
		s.turn(ctx, actors, 1, script)
		require.NoError(s.t, ctx.Err(), order)
	}
}

func (s *stage) turn(ctx context.Context, actors [2]*actor, i int, script func(int) func(context.Context) error) {
	s.t.Helper()
	a := actors[i]
	switch {
	case a.finished:
		return
	case !a.started:
		a.started = true
		run := script(i)
		go func() { a.done <- run(step.With(ctx, a.stopAtSteps)) }()
	case a.parked:
		a.parked = false
		a.goOn <- struct{}{}
	}
	s.settle(ctx, actors, i)
}

// stopAtSteps is called by the actor's own goroutine.
func (a *actor) stopAtSteps(ctx context.Context, name string) {
	switch name {
	case step.TxBegun, step.DedupeInserted, step.TxBeforeCommit:
	default:
		return
	}
	select {
	case a.reached <- name:
	case <-ctx.Done():
		return
	}
	select {
	case <-a.goOn:
	case <-ctx.Done():
	}
}

// settle returns when the actor stands at a step, is done, or waits for a lock.
func (s *stage) settle(ctx context.Context, actors [2]*actor, i int) {
	s.t.Helper()
	a, other := actors[i], actors[1-i]
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-a.reached:
			a.parked = true
			return
		case <-other.reached:
			// It waited for a lock and has got it, between two attempts of this one.
			other.parked = true
		case err := <-a.done:
			require.NoError(s.t, err)
			a.finished = true
			return
		case <-look.C:
			if s.waitsForLock(ctx, actors, i) {
				s.waits++
				return
			}
		case <-ctx.Done():
			s.t.Fatalf("actor %d neither went on nor waited for a lock", i)
		}
	}
}

func (s *stage) waitsForLock(ctx context.Context, actors [2]*actor, i int) bool {
	s.t.Helper()
	switch s.database {
	case postgres:
		var waiting bool
		require.NoError(s.t, s.admin.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_stat_activity "+
			"WHERE pid = $1::text::int AND wait_event_type = 'Lock')", s.sessions[i]).Scan(&waiting))
		return waiting
	case mariadb:
		// Unlike information_schema.innodb_trx this is not a cached copy.
		var kind, name, status string
		require.NoError(s.t, s.admin.QueryRowContext(ctx, "SHOW ENGINE INNODB STATUS").Scan(&kind, &name, &status))
		for trx := range strings.SplitSeq(status, "---TRANSACTION") {
			if strings.Contains(trx, fmt.Sprintf("thread id %s,", s.sessions[i])) {
				return strings.Contains(trx, "LOCK WAIT")
			}
		}
		return false
	}
	// SQLite has no such view, but one writer: who stands at a step is it.
	return actors[1-i].parked
}
