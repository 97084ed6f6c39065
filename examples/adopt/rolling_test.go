package adopt_test

import (
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/internal/testenv"
)

// Kinds of instance, which begin their workers' names.
const (
	old     = "old"     // before adoption
	observe = "observe" // Observe
	on      = "on"      // protected
	plain   = "plain"   // after removal: the program from before
)

// deploy is a fleet of instances of one service, changed one by one under load.
type deploy struct {
	*environment

	load     *load
	heard    *tap
	before   string
	after    string
	running  map[string]*process
	launched int
}

// What docs/adopting.md promises for each phase of a deploy, on instances of the
// program from before and after that share the consumer groups:
//
//   - nothing is lost, in any phase and from one to the next;
//   - protected instances apply a message once, and send what it sends once;
//   - a message of which an unprotected instance gets a copy can be applied again
//     by that instance, or by a protected one afterwards, because its handling was
//     not recorded; but what an observing one has handled was recorded;
//   - while only protected instances run, everything happens once.
func TestS71_ARollingDeployUnderLoadLosesNothing(t *testing.T) {
	inTheLongRun(t)
	onParts(t, []func(testing.TB) parts{memSQLite, kafkaPostgres}, func(t *testing.T, p parts) {
		t.Helper()
		d := newDeploy(t, p)

		// Messages from before, then the old fleet.
		for range 30 {
			require.NoError(t, d.load.place("before", true))
		}
		d.add(t, old)
		d.add(t, old)
		d.load.resume(t, "in")
		d.atWork(t)

		// In, one by one: first to observe, then on.
		for _, step := range []struct{ leaves, comes string }{{old, observe}, {old, observe}, {observe, on}, {observe, on}} {
			d.add(t, step.comes)
			d.atWork(t)
			d.remove(t, step.leaves)
			d.atWork(t)
		}
		d.load.pause(t)
		d.drained(t, routerStages...)
		d.lateCopies(t)

		// Steady, and one of them dies.
		d.load.resume(t, "steady")
		d.atWork(t)
		d.crash(t, on)
		d.add(t, on)
		d.atWork(t)
		d.load.pause(t)
		d.drained(t, routerStages...)

		// Out again. The last protected instance dies and leaves what it leaves.
		d.load.resume(t, "out")
		d.add(t, plain)
		d.atWork(t)
		d.remove(t, on)
		d.atWork(t)
		d.crash(t, on)
		d.add(t, plain)
		d.atWork(t)
		d.load.pause(t)
		d.drainOutbox(t)
		d.drained(t, routerStages...)
		d.check(t)
		d.remove(t, plain)
		d.remove(t, plain)
	})
}

func newDeploy(t *testing.T, p parts) *deploy {
	t.Helper()
	e := newEnvironment(t, "router", p)
	e.exec(t, "INSERT INTO customers VALUES ('ada', 0)")
	d := &deploy{
		environment: e, load: &load{e: e}, running: map[string]*process{},
		before: build(t, "router", false, p), after: build(t, "router", true, p),
	}
	// Every fourth order's events come twice as well.
	d.heard = e.tap(t, func(about string) bool {
		h := fnv.New32()
		_, _ = h.Write([]byte(about))
		return h.Sum32()%4 == 0
	}, "stock_reserved", "points_earned", "invoices_issued")
	return d
}

func (d *deploy) add(t *testing.T, kind string) {
	t.Helper()
	d.launched++
	worker := fmt.Sprintf("%s-%d", kind, d.launched)
	switch kind {
	case old, plain:
		d.running[worker] = d.start(t, d.before, worker)
	case observe:
		d.running[worker] = d.start(t, d.after, worker, "OBSERVE=1")
	case on:
		d.running[worker] = d.start(t, d.after, worker)
	}
}

// remove stops the oldest instance of a kind as deploys do.
func (d *deploy) remove(t *testing.T, kind string) {
	t.Helper()
	d.take(t, kind).stop(t)
}

// crash kills the oldest instance of a kind.
func (d *deploy) crash(t *testing.T, kind string) {
	t.Helper()
	d.take(t, kind).kill()
}

func (d *deploy) take(t *testing.T, kind string) *process {
	t.Helper()
	for n := range d.launched {
		worker := fmt.Sprintf("%s-%d", kind, n+1)
		if p := d.running[worker]; p != nil {
			delete(d.running, worker)
			return p
		}
	}
	t.Fatalf("no instance is %s", kind)
	return nil
}

// atWork waits until every instance that runs has handled a few more orders.
func (d *deploy) atWork(t *testing.T) {
	t.Helper()
	const few = 5
	began := d.handledBy(t)
	testenv.Eventually(t, patience, 200*time.Millisecond, func() (bool, string) {
		now := d.handledBy(t)
		for worker := range d.running {
			if now[worker] < began[worker]+few {
				return false, fmt.Sprintf("%s handles too little: %v at first, now %v", worker, began, now)
			}
		}
		return true, ""
	})
}

func (d *deploy) handledBy(t *testing.T) map[string]int {
	t.Helper()
	handled := map[string]int{}
	d.sums(t.Context(), t, handled, "", "SELECT worker, count(*) FROM reservations GROUP BY worker")
	return handled
}

// lateCopies sends old orders once more to a fleet that is all protected. Those
// that only old instances have handled are unknown to it, and are applied once
// more; those that an observing or protected one has handled are skipped.
func (d *deploy) lateCopies(t *testing.T) {
	t.Helper()
	r := d.results(t)
	const enough = 40
	var unknown, known []sent
	for _, o := range d.load.orders {
		switch rows, events := r.rows[o.id], r.events[o.id]; {
		case rows.of(observe)+rows.of(on) == 0 && len(unknown) < enough:
			unknown = append(unknown, o)
		// What an observing one has begun and not finished isn't known.
		case events.of(observe) > 0 && len(known) < enough/2, rows.of(on) > 0 && len(known) < enough:
			known = append(known, o)
		}
	}
	require.NotEmpty(t, unknown)
	require.NotEmpty(t, known)
	for range 2 {
		for _, o := range append(unknown, known...) {
			require.NoError(t, d.load.send(o.msg))
		}
	}
	d.drained(t, routerStages...)
	now := d.results(t)
	for _, o := range unknown {
		require.Equal(t, r.rows[o.id].sum()+1, now.rows[o.id].sum(), "order %s, handled by old instances only", o.id)
	}
	for _, o := range known {
		require.Equal(t, r.rows[o.id], now.rows[o.id], "order %s, which Headrace knows", o.id)
	}
}

// drainOutbox is the last step of a removal: what the protected instances left
// in the outbox is sent.
func (d *deploy) drainOutbox(t *testing.T) {
	t.Helper()
	hr, err := headrace.New(t.Context(), d.database, headrace.Config{Service: "warehouse", Publisher: d.opened.Publisher})
	require.NoError(t, err)
	require.NoError(t, hr.Drain(t.Context()))
	require.NoError(t, hr.Close())
}

// byWorker counts what workers did with one order.
type byWorker map[string]int

// of counts those of a kind of instance.
func (b byWorker) of(kind string) (n int) {
	for worker, count := range b {
		if strings.HasPrefix(worker, kind+"-") {
			n += count
		}
	}
	return n
}

func (b byWorker) sum() (n int) {
	for _, count := range b {
		n += count
	}
	return n
}

// results is what the tables and the topics hold of each order.
type results struct {
	rows, events map[string]byWorker
	// ledger counts credits and invoices, by name and order, and the messages.
	ledger map[string]int
}

func (d *deploy) results(t *testing.T) results {
	t.Helper()
	r := results{rows: map[string]byWorker{}, events: map[string]byWorker{}, ledger: map[string]int{}}
	rows, err := d.database.QueryContext(t.Context(),
		"SELECT order_id, worker, count(*) FROM reservations GROUP BY order_id, worker")
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id, worker string
		var n int
		require.NoError(t, rows.Scan(&id, &worker, &n))
		count(r.rows, id, worker, n)
	}
	require.NoError(t, rows.Err())
	d.sums(t.Context(), t, r.ledger, "credit/", "SELECT order_id, count(*) FROM credits GROUP BY order_id")
	d.sums(t.Context(), t, r.ledger, "invoice/", "SELECT order_id, count(*) FROM invoices GROUP BY order_id")
	d.sums(t.Context(), t, r.ledger, "taken/", "SELECT product, sum(quantity) FROM reservations GROUP BY product")
	d.sums(t.Context(), t, r.ledger, "stock/", "SELECT product, stock FROM products")
	d.heard.count(r.ledger)
	d.heard.mu.Lock()
	defer d.heard.mu.Unlock()
	for _, m := range d.heard.seen["stock_reserved"] {
		count(r.events, m.about, m.worker, 1)
	}
	return r
}

func count(orders map[string]byWorker, id, worker string, n int) {
	if orders[id] == nil {
		orders[id] = byWorker{}
	}
	orders[id][worker] += n
}

// check compares what was sent with what there is.
func (d *deploy) check(t *testing.T) {
	t.Helper()
	r := d.results(t)
	require.Equal(t, fullStock-r.ledger["taken/mill"], r.ledger["stock/mill"])
	steady, doubled := 0, 0
	for _, o := range d.load.orders {
		rows, events := r.rows[o.id], r.events[o.id]
		after := []string{"credit/", "invoice/", "message points_earned/", "message invoices_issued/"}

		// Nothing is lost.
		require.Positive(t, rows.sum(), "order %s was lost", o.id)
		require.Positive(t, events.sum(), "what order %s sent was lost", o.id)
		for _, name := range after {
			require.Positive(t, r.ledger[name+o.id], "%s of order %s was lost", name, o.id)
		}
		// Protected instances have done it once, with all that belongs to it.
		require.LessOrEqual(t, rows.of(on), 1, "protected instances applied order %s twice: %v", o.id, rows)
		require.Equal(t, rows.of(on), events.of(on), "order %s: rows %v, messages %v", o.id, rows, events)
		// Where only protected instances were, nobody has done it twice.
		if o.phase == "steady" {
			steady++
			require.Equal(t, 1, rows.sum(), "order %s: %v", o.id, rows)
			for _, name := range after {
				require.Equal(t, 1, r.ledger[name+o.id], "%s of order %s", name, o.id)
			}
		}
		if rows.sum() > 1 {
			doubled++
		}
	}
	require.Positive(t, steady)
	require.Positive(t, doubled, "unprotected instances must have doubled something, or the load has proven nothing")
	t.Logf("%d orders: %d while all were protected, none of them doubled; of the others %d doubled",
		len(d.load.orders), steady, doubled)
}
