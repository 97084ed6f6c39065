package storetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

// recorded is a store.TxHook.
type recorded struct {
	mu    sync.Mutex
	stats []store.TxStats
}

func (r *recorded) OnTx(stats store.TxStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats = append(r.stats, stats)
}

func (r *recorded) all() []store.TxStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]store.TxStats(nil), r.stats...)
}

func (r *recorded) last(t *testing.T) store.TxStats {
	t.Helper()
	all := r.all()
	require.NotEmpty(t, all)
	return all[len(all)-1]
}

func testObservation(t *testing.T, h Harness) {
	each(t, h, []test{
		{"OfACommittedUnit", observeCommit},
		{"OfARolledBackUnit", observeRollback},
		{"OfAWaitForALock", observeLockWait},
		{"OfAWaitForAConnection", observeConnWait},
		{"WarnsOfALongTransaction", observeLong},
		{"StrictModeRefusesWhatIsOutside", strictRefuses},
	})
}

func observeCommit(t *testing.T, b *bundle) {
	stats := &recorded{}
	st := b.store(t, store.Config{Hooks: []any{"not a hook", stats}})
	start := time.Now()
	require.NoError(t, st.InTx(store.WithAbout(t.Context(), about), func(ctx context.Context, tx store.Tx) error {
		require.NoError(t, insert(ctx, tx, 1))
		var n int
		require.NoError(t, tx.GetContext(ctx, &n, "SELECT count(*) FROM things"))
		_, err := store.JoinDB(st).ExecContext(ctx, "UPDATE things SET n = 5")
		return err
	}))
	took := time.Since(start)
	got := stats.last(t)
	require.Equal(t, about, got.About)
	require.Equal(t, 1, got.Attempts)
	require.True(t, got.Committed)
	require.Equal(t, 3, got.Statements)
	require.NoError(t, got.Err)
	require.Positive(t, got.Length)
	require.LessOrEqual(t, got.Length, took)
	require.NotEmpty(t, got.Slowest)
	require.Positive(t, got.SlowestTook)
	require.LessOrEqual(t, got.SlowestTook, got.Length)
}

func observeRollback(t *testing.T, b *bundle) {
	stats := &recorded{}
	st := b.store(t, store.Config{Hooks: []any{stats}})
	require.ErrorIs(t, st.InTx(t.Context(), func(context.Context, store.Tx) error { return errBoom }), errBoom)
	got := stats.last(t)
	require.False(t, got.Committed)
	require.ErrorIs(t, got.Err, errBoom)
	require.Zero(t, got.Statements)
}

func observeLockWait(t *testing.T, b *bundle) {
	if b.h.Dialect == store.SQLite {
		return
	}
	stats := &recorded{}
	st := b.store(t, store.Config{LockTimeout: lockBound, Hooks: []any{stats}})
	whileHeld(t, b, st, func() {
		require.Error(t, st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(ctx, "UPDATE things SET n = 2 WHERE id = 1")
			return err
		}))
	})
	require.GreaterOrEqual(t, stats.all()[0].LockWait, lockBound*9/10)
	require.Contains(t, stats.all()[0].Slowest, "UPDATE things")
}

func observeConnWait(t *testing.T, b *bundle) {
	if !b.poolOfOne() {
		return
	}
	stats := &recorded{}
	st := b.store(t, store.Config{Hooks: []any{stats}})
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	began := make(chan struct{})
	var other sync.WaitGroup
	other.Go(func() {
		close(began)
		_ = st.InTx(t.Context(), func(context.Context, store.Tx) error { return nil })
	})
	await(t, "the other unit is about to begin", began)
	<-time.After(cutAfter)
	u.Rollback(t.Context(), nil)
	other.Wait()
	require.Greater(t, stats.last(t).ConnWait, cutAfter/2)
}

func observeLong(t *testing.T, b *bundle) {
	logger := watermill.NewCaptureLogger()
	st := b.store(t, store.Config{Logger: logger, WarnTxLonger: time.Nanosecond})
	require.NoError(t, st.InTx(store.WithAbout(t.Context(), about), func(ctx context.Context, tx store.Tx) error {
		return insert(ctx, tx, 1)
	}))
	entry := requireLogged(t, logger, watermill.InfoLogLevel, "Long transaction")
	require.Equal(t, 1, entry.Fields["statements"])
	require.Contains(t, entry.Fields, "length")
	require.Contains(t, entry.Fields, "lock_wait")
}

func strictRefuses(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{Strict: true})
	require.True(t, st.Strict())
	db := store.JoinDB(st)
	const query = "INSERT INTO things (id, n) VALUES (1, 1)"

	_, err := db.ExecContext(t.Context(), query)
	require.ErrorIs(t, err, store.ErrOutside)
	require.ErrorContains(t, err, query, "refused by name")
	_, err = db.BeginTx(t.Context(), nil)
	require.ErrorIs(t, err, store.ErrOutside)
	var n int
	err = db.QueryRowContext(t.Context(), "SELECT count(*) FROM things").Scan(&n)
	require.ErrorIs(t, err, store.ErrOutside)

	meant := store.MeantOutside(t.Context())
	_, err = db.ExecContext(meant, query)
	require.NoError(t, err)
	tx, err := db.BeginTx(meant, nil)
	require.NoError(t, err)
	_, err = tx.Exec("INSERT INTO things (id, n) VALUES (2, 2)") //nolint:noctx // a statement without a context
	require.NoError(t, err, "a statement of a transaction that was meant outside")
	require.NoError(t, tx.Commit())
	require.NoError(t, st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
		_, err := db.ExecContext(ctx, "INSERT INTO things (id, n) VALUES (3, 3)")
		return err
	}))
	require.Equal(t, 3, b.things(t))
	require.ErrorIs(t, st.AllowOutside(t.Context(), "publish"), store.ErrOutside)
	require.NoError(t, st.AllowOutside(meant, "publish"))
}
