package pgxstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/store"
	"github.com/headrace-go/headrace/store/pgxstore"
)

func TestTheWaitForCommitIsBounded(t *testing.T) {
	b := setup(t)
	const timeout = 500 * time.Millisecond
	st, err := pgxstore.Open(t.Context(), b.pool, store.Config{CommitTimeout: timeout})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	for _, statement := range []string{
		`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(NEW.n); RETURN NULL; END $$`,
		`CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION slow()`,
	} {
		_, err := b.pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	insert := func(seconds int) error {
		return st.InTx(t.Context(), func(ctx context.Context, tx store.Tx) error {
			_, err := tx.ExecContext(ctx, "INSERT INTO things VALUES (?)", seconds)
			return err
		})
	}

	require.NoError(t, insert(0))
	// The bound went with the COMMIT: what takes longer later is not cut off.
	_, err = b.pool.Exec(t.Context(), "SELECT pg_sleep(1)")
	require.NoError(t, err)

	began := time.Now()
	require.ErrorIs(t, insert(60), store.ErrCommitUnknown)
	require.Less(t, time.Since(began), 30*time.Second)
	require.NoError(t, insert(0), "the pool goes on with another connection")
}
