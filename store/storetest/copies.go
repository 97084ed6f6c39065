package storetest

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
)

func testCopies(t *testing.T, h Harness) {
	each(t, h, []test{
		{"TheSecondWaitsAndSeesTheDuplicate", copyAfterCommit},
		{"TheSecondInsertsWhenTheFirstRollsBack", copyAfterRollback},
		{"TheSecondGivesUpInBoundedTime", copyGivesUp},
		{"OnlyOneOfManyIsHandled", copiesMany},
	})
}

// twoCopies handles a message in two units at once; the first ends with outcome
// once the second waits for it.
func twoCopies(t *testing.T, b *bundle, cfg store.Config, outcome error) (inserted bool, second error) {
	t.Helper()
	cfg.Prefix = prefix()
	st := b.store(t, cfg)
	has, end := make(chan struct{}), make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		err := st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			if _, first, err := st.InsertInbox(ctx, inbox("c", "m")); err != nil || !first {
				t.Errorf("the first copy: %v %v", first, err)
			}
			close(has)
			await(t, "the second copy waits", end)
			return outcome
		})
		if outcome == nil && err != nil {
			t.Error(err)
		}
	})
	both.Go(func() {
		await(t, "the first copy has its row", has)
		second = st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) (err error) {
			_, inserted, err = st.InsertInbox(ctx, inbox("c", "m"))
			if err == nil && inserted {
				err = insert(ctx, tx, 2)
			}
			return err
		})
	})
	await(t, "the first copy has its row", has)
	b.waitsForLock(t, cfg.Prefix+"inbox")
	close(end)
	both.Wait()
	return inserted, second
}

func copyAfterCommit(t *testing.T, b *bundle) {
	inserted, err := twoCopies(t, b, store.Config{}, nil)
	require.NoError(t, err)
	require.False(t, inserted)
	require.Zero(t, b.things(t))
}

func copyAfterRollback(t *testing.T, b *bundle) {
	inserted, err := twoCopies(t, b, store.Config{}, errBoom)
	require.NoError(t, err)
	require.True(t, inserted)
	require.Equal(t, 1, b.things(t))
}

func copyGivesUp(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{LockTimeout: lockBound, ConnTimeout: shortBound})
	u, err := st.Begin(t.Context())
	require.NoError(t, err)
	defer u.Rollback(context.Background(), nil)
	_, inserted, err := st.InsertInbox(u.Context(t.Context()), inbox("c", "m"))
	require.NoError(t, err)
	require.True(t, inserted)
	attempts := 0
	requireBounded(t, store.ErrLockTimeout, func() error {
		return st.InTx(t.Context(), func(ctx context.Context, _ store.Tx) error {
			attempts++
			_, _, err := st.InsertInbox(ctx, inbox("c", "m"))
			return err
		})
	})
	require.LessOrEqual(t, attempts, 1, "it has waited long enough")
}

// copiesMany is S13 at the level of the store.
func copiesMany(t *testing.T, b *bundle) {
	st := b.store(t, store.Config{})
	b.exec(t, "INSERT INTO things (id, n) VALUES (1, 0)")
	const copies = 8
	var all sync.WaitGroup
	errs := make(chan error, copies)
	for i := range copies {
		all.Go(func() {
			attempts := 0
			errs <- st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
				attempts++
				_, inserted, err := st.InsertInbox(ctx, inbox("c", "m"))
				if err != nil || !inserted {
					return err
				}
				if _, err := tx.ExecContext(ctx, "UPDATE things SET n = n + 1 WHERE id = 1"); err != nil {
					return err
				}
				if attempts == 1 && i%2 == 0 {
					return b.lost() // as if it had lost a deadlock: it comes again
				}
				return nil
			})
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 1, b.int(t, "SELECT n FROM things WHERE id = 1"))
}
