package effects_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/store"
)

// sleeper stops the process behind the commit of a transaction, once it was told to.
type sleeper struct {
	armed atomic.Bool
	sleep func()
}

func (s *sleeper) OnTx(store.TxStats) {
	if s.armed.CompareAndSwap(true, false) {
		s.sleep()
	}
}

// The commit renews the claim after a look-up, and is the last that this process knows
// for a while. Another one may have called when it goes on.
func TestWhoSleptSinceItsLookUpDoesNotCall(t *testing.T) {
	t.Parallel()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			const claimTTL = 4 * time.Second
			asleep := &sleeper{}
			st, err := store.Open(t.Context(), testenv.Open(t, testenv.Database(t, kind)), store.Config{
				Dialect: dialect(kind), Migrate: true, Hooks: []any{asleep},
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			f := &fixture{T: t, db: st.DB(), st: st}
			lookup := func(context.Context, string, []byte) (effects.Response, bool, error) {
				asleep.armed.Store(true)
				return effects.Response{}, false, nil
			}
			f.client = f.newClient(effects.Provider{Lookup: lookup})
			f.crash(time.Hour)
			require.Len(t, f.calls, 1)
			other := f.newClient(effects.Provider{Lookup: never})
			effects.Shorten(f.client, time.Second, claimTTL)
			asleep.sleep = func() {
				f.later(time.Hour) // meanwhile somebody else takes it over, and calls
				_, err := other.Do(t.Context(), "charge", "order-1", []byte("10 EUR"), f.returning(nil))
				require.NoError(t, err)
				<-time.After(claimTTL)
			}
			_, err = f.do(nil)
			require.Len(t, f.calls, 2, "one of them has called again")
			require.Error(t, err)
		})
	}
}
