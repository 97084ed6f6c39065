package crash_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// renaming is what a child does that renames a consumer.
type renaming struct{ From, To string }

// renamer is who reaches the steps of such a child.
const renamer = "renamer"

// rename does what `headrace consumer rename` does, in small batches.
func (cfg childConfig) rename(ctx context.Context, logger watermill.LoggerAdapter, watch watcher) (err error) {
	database, err := dburl.Parse(cfg.Database)
	if err != nil {
		return err
	}
	db, err := database.ForService().Connect(ctx, connectTimeout)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(database.Dialect), Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	watch.up()
	ctx = context.WithValue(ctx, partKey{}, renamer)
	_, err = st.RenameConsumer(ctx, cfg.Rename.From, cfg.Rename.To, store.ConsumerChange{Actor: "anna", BatchSize: renameBatch})
	return err
}

const (
	renameBatch = 10
	// handledBefore is how many messages the consumer has handled, parkedBefore how
	// many of a key are kept for it.
	handledBefore = 15
	parkedBefore  = 3
)

// A consumer's memory is moved in many commits. Wherever that is cut off, each
// message is known under one of the two names, with what is parked of it; and when it
// is run again nothing was swallowed, and nothing is repeated.
func TestCrashWhileAConsumerIsRenamed(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := testenv.Database(t, kind)
			st, db := openTables(t, url)
			points, stride := []string{step.TxAfterCommit, step.TxBeforeCommit}, 1
			switch {
			case testing.Short():
				points, stride = points[:1], 7
			case !full() && kind != "sqlite":
				points, stride = points[:1], 2
			}
			kills := 0
			for _, point := range points {
				for n := 1; ; n += stride {
					r := renaming{fmt.Sprintf("%s.%d", point, n), fmt.Sprintf("new.%s.%d", point, n)}
					rememberBeforeRename(t, st, r.From)
					if !renameUntilKilled(t, url, r, killPoint{renamer, point, n}) {
						require.Greater(t, n, 20, "it was killed at each of its commits")
						break
					}
					kills++
					requireOneName(t, db, r)
					// Nobody waits for a dead process's leases here.
					_, err := db.ExecContext(t.Context(), "DELETE FROM headrace_leases")
					require.NoError(t, err)
					_, err = st.RenameConsumer(t.Context(), r.From, r.To, store.ConsumerChange{Actor: "bert"})
					if !errors.Is(err, store.ErrUnknownConsumer) { // it was killed when all was done
						require.NoError(t, err)
					}
					requireRenamed(t, st, db, r)
				}
			}
			t.Logf("%d kills", kills)
		})
	}
}

func rememberBeforeRename(t *testing.T, st *store.Store, consumer string) {
	t.Helper()
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
		for i := range handledBefore {
			row := store.InboxRow{Consumer: consumer, MessageID: "handled-" + strconv.Itoa(i), Verdict: store.Applied}
			if _, _, err := st.InsertInbox(ctx, row); err != nil {
				return err
			}
		}
		for i := range parkedBefore {
			id := "parked-" + strconv.Itoa(i)
			_, _, _, err := st.Park(ctx, tx, store.ParkedRow{
				Origin: store.OriginConsumer, Consumer: consumer, Line: store.KeyLine(consumer, "k").Line, Key: "k",
				InboxID: id, MessageID: id, Status: store.StatusDelayed,
			}, nil)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// renameUntilKilled reports whether the point was reached.
func renameUntilKilled(t *testing.T, database string, r renaming, at killPoint) bool {
	t.Helper()
	p, err := startProcess("rename", childConfig{service: service{Database: database}, Kill: at, Rename: &r}, newHistory())
	require.NoError(t, err)
	select {
	case <-p.exited:
	case <-time.After(killTimeout):
		p.dump()
		t.Fatalf("the rename hangs:\n%s", p.log.String())
	}
	if p.exit == nil {
		return false
	}
	require.NoError(t, p.killed())
	return true
}

// requireOneName wants every message under one name, and a held line as a whole
// under one.
func requireOneName(t *testing.T, db *sqlx.DB, r renaming) {
	t.Helper()
	const all = handledBefore + parkedBefore
	require.Equal(t, all, count(t, db, "SELECT count(*) FROM headrace_inbox WHERE consumer IN (?, ?)", r.From, r.To))
	require.Equal(t, all, count(t, db,
		"SELECT count(DISTINCT message_id) FROM headrace_inbox WHERE consumer IN (?, ?)", r.From, r.To))
	require.Equal(t, parkedBefore, count(t, db, "SELECT count(*) FROM headrace_parked p "+
		"JOIN headrace_gates g ON g.consumer = p.consumer AND g.line = p.line "+
		"JOIN headrace_inbox i ON i.consumer = p.consumer AND i.message_id = p.inbox_id "+
		"WHERE p.consumer IN (?, ?)", r.From, r.To),
		"a parked message has its gate and its inbox row under its own name")
}

// requireRenamed delivers everything again under the new name, and what is parked
// for the first time.
func requireRenamed(t *testing.T, st *store.Store, db *sqlx.DB, r renaming) {
	t.Helper()
	ctx := t.Context()
	for _, table := range []string{"inbox", "verdict_log", "gates", "parked"} {
		require.Zero(t, count(t, db, "SELECT count(*) FROM headrace_"+table+" WHERE consumer = ?", r.From), table)
	}
	require.Zero(t, count(t, db, "SELECT count(*) FROM headrace_meta WHERE name LIKE 'rename/%'"))
	require.NoError(t, st.InTx(ctx, func(ctx context.Context, _ store.Tx) error {
		for i := range handledBefore {
			row := store.InboxRow{Consumer: r.To, MessageID: "handled-" + strconv.Itoa(i), Verdict: store.Applied}
			_, inserted, err := st.InsertInbox(ctx, row)
			require.NoError(t, err)
			require.False(t, inserted, "message %d would be handled twice", i)
		}
		return nil
	}))
	claims, err := st.ClaimLines(ctx, r.To, "host-1", time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, claims, 1)
	rows, err := st.ReadLine(ctx, claims[0], 0, 100, 1<<20)
	require.NoError(t, err)
	require.Len(t, rows, parkedBefore)
	for i, row := range rows {
		require.Equal(t, "parked-"+strconv.Itoa(i), row.InboxID, "in their order")
		require.NoError(t, st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
			ref := store.HeldRef{Claim: claims[0], ID: row.ID, InboxID: row.InboxID}
			open, err := st.Readmit(ctx, ref)
			require.NoError(t, err)
			require.True(t, open, "the message would be swallowed")
			return st.FinishParked(ctx, tx, ref, store.Applied, "", true, 2)
		}))
	}
	opened, err := st.EndClaim(ctx, claims[0])
	require.NoError(t, err)
	require.True(t, opened)
}

func count(t *testing.T, db *sqlx.DB, query string, args ...any) (n int) {
	t.Helper()
	require.NoError(t, db.GetContext(t.Context(), &n, db.Rebind(query), args...))
	return n
}
