package scenario

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// stage lets actors, each with a store and one database connection of its own, run in
// every order: each is stopped at steps of its unit of work and goes on when it is its
// turn. An actor that waits for a lock, seen in the database's own views, has taken its
// turn; it comes back when the lock is free.
type stage struct {
	t        *testing.T
	database string
	stores   []*store.Store
	sessions []string
	admin    *sql.DB
	// steps are where actors stop.
	steps []string
	waits int
}

func newStage(t *testing.T, w *world) *stage {
	t.Helper()
	return newStageFor(t, w, 2, step.TxBegun, step.DedupeInserted, step.TxBeforeCommit)
}

func newStageFor(t *testing.T, w *world, actors int, steps ...string) *stage {
	t.Helper()
	s := &stage{t: t, database: w.database, admin: testenv.Open(t, w.dbURL), steps: steps}
	for range actors {
		st := w.another(func(cfg *store.Config) { cfg.LockTimeout = patience })
		db := st.DB()
		db.SetMaxOpenConns(1)
		session := ""
		if query, ok := map[string]string{
			postgres: "SELECT pg_backend_pid()", mariadb: "SELECT CONNECTION_ID()",
		}[w.database]; ok {
			require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&session))
		}
		s.stores, s.sessions = append(s.stores, st), append(s.sessions, session)
	}
	return s
}

// orders are the ways in which the actors' turns can follow each other. SQLite has one
// writer, so there only who comes first, and where that one stands when the others come,
// makes a difference.
func (s *stage) orders(turns int) (all []string) {
	if s.database == sqlite {
		return s.serial(turns)
	}
	left := make([]int, len(s.stores))
	for i := range left {
		left[i] = turns
	}
	var extend func(order string)
	extend = func(order string) {
		if len(order) == turns*len(left) {
			all = append(all, order)
		}
		for i := range left {
			if left[i] > 0 {
				left[i]--
				extend(order + strconv.Itoa(i))
				left[i]++
			}
		}
	}
	extend("")
	return all
}

func (s *stage) serial(turns int) (all []string) {
	actors := make([]string, len(s.stores))
	for i := range actors {
		actors[i] = strconv.Itoa(i)
	}
	for _, order := range permutations(actors) {
		for k := range turns {
			var text strings.Builder
			text.WriteString(strings.Repeat(order[0], k+1))
			for _, later := range order[1:] {
				text.WriteString(strings.Repeat(later, turns))
			}
			all = append(all, text.String()+strings.Repeat(order[0], turns-k-1))
		}
	}
	return all
}

func permutations(all []string) (orders [][]string) {
	if len(all) == 0 {
		return [][]string{nil}
	}
	for i, first := range all {
		for _, rest := range permutations(slices.Delete(slices.Clone(all), i, i+1)) {
			orders = append(orders, append([]string{first}, rest...))
		}
	}
	return orders
}

// actor is one player during one play.
type actor struct {
	goOn                      chan struct{}
	started, parked, finished bool
}

// event is an actor's: it has reached a step, or is done.
type event struct {
	actor int
	done  bool
	err   error
}

// play gives the actors their turns, then lets all finish.
func (s *stage) play(order string, script func(actor int) func(context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	p := &play{stage: s, events: make(chan event), script: script}
	for range s.stores {
		p.actors = append(p.actors, &actor{goOn: make(chan struct{})})
	}
	for _, turn := range order {
		p.turn(ctx, int(turn-'0'))
	}
	for slices.ContainsFunc(p.actors, func(a *actor) bool { return !a.finished }) {
		for i := range p.actors {
			p.turn(ctx, i)
		}
		require.NoError(s.t, ctx.Err(), order)
	}
}

type play struct {
	*stage

	actors []*actor
	events chan event
	script func(actor int) func(context.Context) error
}

func (p *play) turn(ctx context.Context, i int) {
	p.t.Helper()
	a := p.actors[i]
	switch {
	case a.finished:
		return
	case !a.started:
		a.started = true
		run := p.script(i)
		go func() {
			err := run(step.With(ctx, func(ctx context.Context, name string) { p.stop(ctx, i, name) }))
			p.tell(ctx, event{actor: i, done: true, err: err})
		}()
	case a.parked:
		a.parked = false
		a.goOn <- struct{}{}
	}
	p.settle(ctx, i)
}

// stop is called by the actor's own goroutine.
func (p *play) stop(ctx context.Context, i int, name string) {
	if !slices.Contains(p.steps, name) {
		return
	}
	p.tell(ctx, event{actor: i})
	select {
	case <-p.actors[i].goOn:
	case <-ctx.Done():
	}
}

func (p *play) tell(ctx context.Context, e event) {
	select {
	case p.events <- e:
	case <-ctx.Done():
	}
}

// settle returns when the actor stands at a step, is done, or waits for a lock.
func (p *play) settle(ctx context.Context, i int) {
	p.t.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case e := <-p.events: // another's, if that waited for a lock and has got it
			require.NoError(p.t, e.err)
			p.actors[e.actor].parked, p.actors[e.actor].finished = !e.done, e.done
			if e.actor == i {
				return
			}
		case <-look.C:
			if p.waitsForLock(ctx, i) {
				p.waits++
				return
			}
		case <-ctx.Done():
			p.t.Fatalf("actor %d neither went on nor waited for a lock", i)
		}
	}
}

func (p *play) waitsForLock(ctx context.Context, i int) bool {
	p.t.Helper()
	switch p.database {
	case postgres:
		var waiting bool
		require.NoError(p.t, p.admin.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pg_stat_activity "+
			"WHERE pid = $1::text::int AND wait_event_type = 'Lock')", p.sessions[i]).Scan(&waiting))
		return waiting
	case mariadb:
		// Unlike information_schema.innodb_trx this is not a cached copy.
		var kind, name, status string
		require.NoError(p.t, p.admin.QueryRowContext(ctx, "SHOW ENGINE INNODB STATUS").Scan(&kind, &name, &status))
		for trx := range strings.SplitSeq(status, "---TRANSACTION") {
			if strings.Contains(trx, fmt.Sprintf("thread id %s,", p.sessions[i])) {
				return strings.Contains(trx, "LOCK WAIT")
			}
		}
		return false
	}
	// SQLite has no such view, but one writer: who stands at a step is it.
	return slices.ContainsFunc(p.actors, func(a *actor) bool { return a.parked })
}
