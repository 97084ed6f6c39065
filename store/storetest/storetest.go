// Package storetest is the suite that every database and driver passes on which
// Headrace's store runs. Run it from a test of your own for a combination that
// Headrace doesn't test itself:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Harness{Dialect: store.Postgres, Fresh: fresh})
//	}
package storetest

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// Harness says how to get a database.
type Harness struct {
	// Dialect of the database. Required.
	Dialect store.Dialect
	// Fresh creates an empty database, which goes away with the test, and returns
	// how to open it: each call gives a pool of its own that the test's end
	// closes. Required.
	Fresh func(t testing.TB) (open func(t testing.TB) *sql.DB)
	// Store opens the store for such a pool. Default store.Open. Where it gives the
	// store other connections than the pool's, set OwnPool: what the suite would
	// see by the pool is then left out.
	Store   func(ctx context.Context, db *sql.DB, cfg store.Config) (*store.Store, error)
	OwnPool bool
}

// patience bounds every wait of the suite that should be short.
const patience = time.Minute

// Run runs the suite. Its tests run side by side.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Store == nil {
		h.Store = store.Open
	}
	groups := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Units", testUnits},
		{"Hooks", testHooks},
		{"Savepoints", testSavepoints},
		{"Cancellation", testCancellation},
		{"Contention", testContention},
		{"Timeouts", testTimeouts},
		{"Inbox", testInbox},
		{"Story", testStory},
		{"Consumers", testConsumers},
		{"Lines", testLines},
		{"Claims", testClaims},
		{"Operators", testOperators},
		{"Copies", testCopies},
		{"Versions", testVersions},
		{"Sequences", testSequences},
		{"Positions", testPositions},
		{"Purge", testPurge},
		{"Forget", testForget},
		{"Leases", testLeases},
		{"Outbox", testOutbox},
		{"OutboxForeign", testOutboxForeign},
		{"OutboxParking", testOutboxParking},
		{"Relay", testRelay},
		{"Migrations", testMigrations},
		{"Schema", testSchema},
		{"Observation", testObservation},
		{"Joined", testJoined},
		{"JoinDB", testJoinDB},
		{"Nested", testNested},
		{"Accidents", testAccidents},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			g.run(t, h)
		})
	}
}

type test struct {
	name string
	run  func(*testing.T, *bundle)
}

// each runs tests on fresh databases, side by side.
func each(t *testing.T, h Harness, tests []test) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			open := h.Fresh(t)
			tt.run(t, &bundle{h: h, open: open, db: open(t)})
		})
	}
}

// bundle is a fresh database.
type bundle struct {
	h    Harness
	open func(testing.TB) *sql.DB
	db   *sql.DB
}

// store opens a store on the bundle's pool and makes the table things.
func (b *bundle) store(t *testing.T, cfg store.Config) *store.Store {
	t.Helper()
	st := b.storeOn(t, b.db, cfg)
	b.exec(t, "CREATE TABLE things (id INT NOT NULL PRIMARY KEY, n INT NOT NULL)")
	return st
}

func (b *bundle) storeOn(t *testing.T, db *sql.DB, cfg store.Config) *store.Store {
	t.Helper()
	cfg.Dialect, cfg.Migrate = b.h.Dialect, true
	st, err := b.h.Store(t.Context(), db, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	return st
}

// inUse returns how many of the store's connections are in use, if it can tell.
func (b *bundle) inUse() int {
	if b.h.OwnPool {
		return 0
	}
	return b.db.Stats().InUse
}

// poolOfOne leaves the store one connection, if it can.
func (b *bundle) poolOfOne() bool {
	b.db.SetMaxOpenConns(1)
	return !b.h.OwnPool
}

// exec runs a statement outside of any unit.
func (b *bundle) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	_, err := b.db.ExecContext(t.Context(), b.bind(query), args...)
	require.NoError(t, err, query)
}

// int reads a number outside of any unit.
func (b *bundle) int(t *testing.T, query string, args ...any) int {
	t.Helper()
	var n sql.NullInt64
	require.NoError(t, b.db.QueryRowContext(t.Context(), b.bind(query), args...).Scan(&n), query)
	return int(n.Int64)
}

// bind writes "?" as the database does.
func (b *bundle) bind(query string) string {
	if b.h.Dialect != store.Postgres {
		return query
	}
	return sqlx.Rebind(sqlx.DOLLAR, query)
}

func (b *bundle) things(t *testing.T) int {
	t.Helper()
	return b.int(t, "SELECT count(*) FROM things")
}

// insert is what a handler does.
func insert(ctx context.Context, tx store.Tx, id int) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO things (id, n) VALUES (?, ?)", id, 1)
	return err
}

// prefix is one that no other test's statements carry.
func prefix() string {
	return fmt.Sprintf("p%x_", rand.Uint64())
}

// await waits for a signal.
func await(t testing.TB, what string, signal <-chan struct{}) {
	t.Helper()
	select {
	case <-signal:
	case <-time.After(patience):
		t.Errorf("nothing came within %s: %s", patience, what)
	}
}

// eventually asks until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("did not happen within %s: %s", patience, what)
		}
	}
}

// waitsForLock waits until a statement with this text waits for a lock. SQLite
// can't be asked.
func (b *bundle) waitsForLock(t *testing.T, text string) {
	t.Helper()
	query := map[store.Dialect]string{
		store.Postgres: "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE ?",
		// Not innodb_trx: it shows nothing new while anyone reads it more often than
		// ten times a second. What is still running here waits.
		store.MySQL: "SELECT count(*) FROM information_schema.processlist WHERE info LIKE ? AND id <> connection_id()",
	}[b.h.Dialect]
	if query == "" {
		return
	}
	eventually(t, "a statement with "+text+" waits for a lock", func() bool {
		return b.int(t, query, "%"+text+"%") > 0
	})
}

// inbox is a row as Dedupe writes it.
func inbox(consumer, id string) store.InboxRow {
	return store.InboxRow{Consumer: consumer, MessageID: id, Verdict: store.Applied}
}

// The drivers' errors, by shape.

type stateError struct{ state string }

func (e stateError) Error() string    { return "state " + e.state }
func (e stateError) SQLState() string { return e.state }

// MySQLError has the name and field of go-sql-driver's.
type MySQLError struct{ Number uint16 }

func (e *MySQLError) Error() string { return fmt.Sprintf("error %d", e.Number) }

type codeError struct{ code int }

func (e codeError) Error() string { return fmt.Sprintf("code %d", e.code) }
func (e codeError) Code() int     { return e.code }

// lost is an error as the database would give it to a deadlock's victim.
func (b *bundle) lost() error {
	switch b.h.Dialect {
	case store.MySQL:
		return &MySQLError{Number: 1213}
	case store.SQLite:
		return codeError{5}
	case store.Postgres:
	}
	return stateError{"40P01"}
}
