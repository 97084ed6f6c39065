package effects_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

var errCall = errors.New("no answer")

// fixture is a database with a provider that counts what it was called with.
type fixture struct {
	*testing.T

	db     *sql.DB
	st     *store.Store
	client *effects.Client

	mu    sync.Mutex
	calls []string
}

func dialect(kind string) store.Dialect {
	if kind == "mariadb" {
		return store.MySQL
	}
	return store.Dialect(kind)
}

func onEach(t *testing.T, p effects.Provider, f func(*fixture)) {
	t.Helper()
	for _, kind := range testenv.Databases(t) {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := testenv.Open(t, testenv.Database(t, kind))
			st, err := store.Open(t.Context(), db, store.Config{Dialect: dialect(kind), Migrate: true})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, st.Close()) })
			fx := &fixture{T: t, db: db, st: st}
			fx.client = fx.newClient(p)
			f(fx)
		})
	}
}

func (f *fixture) newClient(p effects.Provider) *effects.Client {
	f.Helper()
	if p.Name == "" {
		p.Name = "bank"
	}
	c, err := effects.New(f.st, effects.Config{Provider: p})
	require.NoError(f, err)
	return c
}

// returning is a call that counts itself.
func (f *fixture) returning(err error) effects.Call {
	return func(_ context.Context, key string, _ []byte) (effects.Response, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.calls = append(f.calls, key)
		return effects.Response{Code: 201, Meta: map[string]string{"id": "7"}, Body: []byte("paid")}, err
	}
}

func (f *fixture) do(err error) (effects.Response, error) {
	return f.client.Do(f.Context(), "charge", "order-1", []byte("10 EUR"), f.returning(err))
}

func (f *fixture) row() store.EffectRow {
	f.Helper()
	row, err := f.st.Effect(f.Context(), "charge", "order-1")
	require.NoError(f, err)
	return row
}

// later makes an effect's times d older.
func (f *fixture) later(d time.Duration) {
	f.Helper()
	set := func(column string) string {
		switch f.st.Dialect() {
		case store.MySQL:
			return fmt.Sprintf("%s = %s - INTERVAL %d MICROSECOND", column, column, d.Microseconds())
		case store.SQLite:
			return fmt.Sprintf("%s = %s - %d", column, column, d.Microseconds())
		case store.Postgres:
		}
		return fmt.Sprintf("%s = %s - %d * interval '1 microsecond'", column, column, d.Microseconds())
	}
	var sets []string
	for _, column := range []string{"claimed_until", "first_called_at", "last_called_at", "finished_at"} {
		sets = append(sets, set(column))
	}
	_, err := f.db.ExecContext(f.Context(), "UPDATE headrace_effects SET "+strings.Join(sets, ", "))
	require.NoError(f, err)
}

// crash leaves the effect as a process that died in mid-call does, d ago.
func (f *fixture) crash(d time.Duration) {
	f.Helper()
	_, _ = f.do(errCall)
	_, err := f.db.ExecContext(f.Context(), "UPDATE headrace_effects SET status = 'calling', last_error = NULL")
	require.NoError(f, err)
	f.later(d)
}

func never(context.Context, string, []byte) (effects.Response, bool, error) {
	return effects.Response{}, false, nil
}

func happened(context.Context, string, []byte) (effects.Response, bool, error) {
	return effects.Response{Code: 200, Body: []byte("found")}, true, nil
}

func silent(context.Context, string, []byte) (effects.Response, bool, error) {
	return effects.Response{}, false, errCall
}

func TestARepeatGetsTheStoredResponse(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		first, err := f.do(nil)
		require.NoError(f, err)
		require.False(f, first.Repeated)
		second, err := f.do(nil)
		require.NoError(f, err)
		first.Repeated = true
		require.Equal(f, first, second)
		require.Equal(f, []string{"charge/order-1"}, f.calls)
		require.Equal(f, store.EffectDone, f.row().Status)
		require.Equal(f, "10 EUR", string(f.row().Request))
	})
}

// What may happen after a call that may have taken effect, and after one that
// surely has not.
func TestEveryStatusWithEveryProvider(t *testing.T) {
	t.Parallel()
	type is = effects.Provider
	for name, c := range map[string]struct {
		provider effects.Provider
		before   func(*fixture)
		calls    int // in all
		err      error
		status   store.EffectStatus
	}{
		"crashed, none":            {is{}, (*fixture).crashed, 1, effects.ErrUnknown, store.EffectUnknown},
		"crashed, keys":            {is{Keys: true}, (*fixture).crashed, 2, nil, store.EffectDone},
		"crashed, keys remembered": {is{Keys: true, KeysFor: 24 * time.Hour}, (*fixture).crashed, 2, nil, store.EffectDone},
		"crashed, keys forgotten": {
			is{Keys: true, KeysFor: time.Hour},
			(*fixture).crashed, 1, effects.ErrUnknown, store.EffectUnknown,
		},
		"crashed, forgotten, found": {
			is{Keys: true, KeysFor: time.Hour, Lookup: happened},
			(*fixture).crashed, 1, nil, store.EffectDone,
		},
		"crashed, found":     {is{Lookup: happened}, (*fixture).crashed, 1, nil, store.EffectDone},
		"crashed, not found": {is{Lookup: never}, (*fixture).crashed, 2, nil, store.EffectDone},
		"crashed, no answer": {is{Lookup: silent}, (*fixture).crashed, 1, errCall, store.EffectCalling},
		"crashed, not found so early": {
			is{Lookup: never, Settle: 5 * time.Hour},
			(*fixture).crashed, 1, effects.ErrInProgress, store.EffectCalling,
		},
		"ambiguous, none":   {is{}, (*fixture).ambiguous, 1, effects.ErrUnknown, store.EffectUnknown},
		"ambiguous, keys":   {is{Keys: true}, (*fixture).ambiguous, 2, nil, store.EffectDone},
		"ambiguous, found":  {is{Lookup: happened}, (*fixture).ambiguous, 1, nil, store.EffectDone},
		"ambiguous, early":  {is{Lookup: never}, (*fixture).ambiguous, 1, effects.ErrInProgress, store.EffectCalling},
		"not done, none":    {is{}, (*fixture).notDone, 2, nil, store.EffectDone},
		"not done, keys":    {is{Keys: true, KeysFor: time.Hour}, (*fixture).notDone, 2, nil, store.EffectDone},
		"not done, look-up": {is{Lookup: silent}, (*fixture).notDone, 2, nil, store.EffectDone},
		"refused, none":     {is{}, (*fixture).refused, 1, effects.ErrRefused, store.EffectRefused},
		"refused, keys":     {is{Keys: true}, (*fixture).refused, 1, effects.ErrRefused, store.EffectRefused},
		"calling, none":     {is{}, (*fixture).calling, 1, effects.ErrInProgress, store.EffectCalling},
		"calling, keys":     {is{Keys: true}, (*fixture).calling, 1, effects.ErrInProgress, store.EffectCalling},
		"calling, look-up": {
			is{Lookup: happened},
			(*fixture).calling, 1, effects.ErrInProgress, store.EffectCalling,
		},
		"doubt, then not done, keys": {
			is{Keys: true, KeysFor: time.Hour},
			(*fixture).doubtThenNotDone, 2, effects.ErrUnknown, store.EffectUnknown,
		},
		"crashed, conditional":   {is{Conditional: true}, (*fixture).crashed, 2, nil, store.EffectDone},
		"ambiguous, conditional": {is{Conditional: true}, (*fixture).ambiguous, 2, nil, store.EffectDone},
		"doubt, then refused, conditional": { // but not as a conflict
			is{Conditional: true},
			(*fixture).doubtThenRefused, 2, effects.ErrUnknown, store.EffectUnknown,
		},
		"doubt, then another version": {
			is{Conditional: true},
			(*fixture).doubtThenConflict, 2, parking.ErrConflict, store.EffectRefused,
		},
		"doubt, then refused, keys": {
			is{Keys: true},
			(*fixture).doubtThenRefused, 2, effects.ErrUnknown, store.EffectUnknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, c.provider, func(f *fixture) {
				c.before(f)
				_, err := f.do(nil)
				require.ErrorIs(f, err, c.err)
				require.Len(f, f.calls, c.calls)
				require.Equal(f, c.status, f.row().Status)
			})
		})
	}
}

func (f *fixture) crashed() { f.crash(2 * time.Hour) }

func (f *fixture) ambiguous() {
	_, err := f.do(errCall)
	require.ErrorIs(f, err, errOr(err))
}

// errOr is what an ambiguous call gives: itself, or that nobody knows.
func errOr(err error) error {
	if errors.Is(err, effects.ErrUnknown) {
		return effects.ErrUnknown
	}
	return effects.ErrAmbiguous
}

func (f *fixture) notDone() {
	_, err := f.do(effects.NotDone(parking.After(errCall, time.Minute)))
	require.ErrorIs(f, err, errCall)
	wait, _ := parking.RetryAfter(err)
	require.Equal(f, time.Minute, wait)
	f.later(2 * time.Hour) // the key's time counts from a call that may have taken effect
}

func (f *fixture) refused() {
	_, err := f.do(effects.Refused(errCall))
	require.ErrorIs(f, err, effects.ErrRefused)
	require.ErrorIs(f, err, parking.ErrPermanent)
}

func (f *fixture) calling() { f.crash(-time.Hour) }

func (f *fixture) doubtThenNotDone() {
	f.crash(10 * time.Minute)
	_, err := f.do(effects.NotDone(errCall))
	require.ErrorIs(f, err, errCall)
	require.Equal(f, store.EffectCalling, f.row().Status, "the first call may have taken effect")
	f.later(2 * time.Hour)
}

func (f *fixture) doubtThenRefused() {
	f.crash(10 * time.Minute)
	_, err := f.do(effects.Refused(errCall))
	require.ErrorIs(f, err, effects.ErrUnknown)
}

func (f *fixture) doubtThenConflict() {
	f.crash(10 * time.Minute)
	_, err := f.do(effects.Refused(parking.AsConflict(errCall)))
	require.ErrorIs(f, err, effects.ErrRefused)
	require.ErrorIs(f, err, parking.ErrConflict)
}

func TestAPersonSettlesAnUnknownEffect(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		decision effects.Decision
		calls    int
		err      error
	}{
		"happened":   {effects.Happened(effects.Response{Code: 200, Body: []byte("by hand")}, "seen in the bank's list"), 1, nil},
		"call again": {effects.CallAgain("not in the bank's list"), 2, nil},
		"give up":    {effects.GiveUp("cancelled"), 1, effects.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, effects.Provider{}, func(f *fixture) {
				settle := func() error {
					return effects.Settle(f.Context(), f.st, "ann", "charge", "order-1", c.decision)
				}
				require.ErrorIs(f, settle(), sql.ErrNoRows)
				_, err := f.do(errCall)
				require.ErrorIs(f, err, effects.ErrUnknown)
				require.Equal(f, parking.Conflict, parking.Classify(err))
				require.NoError(f, settle())
				require.ErrorIs(f, settle(), effects.ErrNotUnknown)
				require.Equal(f, "ann", f.row().SettledBy)
				require.NotEmpty(f, f.row().SettledNote)
				_, err = f.do(nil)
				require.ErrorIs(f, err, c.err)
				require.Len(f, f.calls, c.calls)
			})
		})
	}
}

func TestAnEffectIsRefusedInAUnitOfWork(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		err := f.st.InTx(f.Context(), func(ctx context.Context, _ store.Tx) error {
			_, err := effects.Do(effects.With(ctx, f.client), "charge", "1", nil, f.returning(nil))
			return err
		})
		require.ErrorIs(f, err, effects.ErrInUnit)
		require.Empty(f, f.calls)
	})
}

func TestAKeyBelongsToOneRequestAndProvider(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{Keys: true}, func(f *fixture) {
		_, err := f.do(errCall)
		require.ErrorIs(f, err, effects.ErrAmbiguous)
		_, err = f.client.Do(f.Context(), "charge", "order-1", []byte("11 EUR"), f.returning(nil))
		require.ErrorIs(f, err, effects.ErrKeyReused)
		require.ErrorIs(f, err, parking.ErrPermanent)
		other := f.newClient(effects.Provider{Name: "other", Keys: true})
		_, err = other.Do(f.Context(), "charge", "order-1", []byte("10 EUR"), f.returning(nil))
		require.ErrorIs(f, err, effects.ErrKeyReused)
		require.Len(f, f.calls, 1)
	})
}

func TestInstancesAtOnceCallOnce(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{Keys: true}, func(f *fixture) {
		const instances = 6
		errs := make([]error, instances)
		var all sync.WaitGroup
		for i := range errs {
			client := f.newClient(effects.Provider{Keys: true})
			all.Go(func() {
				_, errs[i] = client.Do(f.Context(), "charge", "order-1", []byte("10 EUR"), f.returning(nil))
			})
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				require.ErrorIs(f, err, effects.ErrInProgress)
			}
		}
		require.Len(f, f.calls, 1)
	})
}

// The first instance hangs in its call until its claim is over: the second finishes
// the effect, and what the first one then learns is written no more.
func TestAnEffectThatWasTakenOverIsNotFinishedByItsFirstOwner(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{Keys: true}, func(f *fixture) {
		calling, end, over := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		_, err := f.client.Do(f.Context(), "charge", "order-1", []byte("10 EUR"),
			func(context.Context, string, []byte) (effects.Response, error) {
				f.later(time.Hour)
				other := f.newClient(effects.Provider{Keys: true})
				go func() {
					_, err := other.Do(f.Context(), "charge", "order-1", []byte("10 EUR"),
						func(context.Context, string, []byte) (effects.Response, error) {
							close(calling)
							<-end
							return effects.Response{}, nil
						})
					over <- err
				}()
				<-calling
				return effects.Response{}, effects.NotDone(errCall)
			})
		require.ErrorIs(f, err, effects.ErrInProgress)
		require.Equal(f, store.EffectCalling, f.row().Status)
		require.Positive(f, f.row().ClaimLeft)
		close(end)
		require.NoError(f, <-over)
		require.Equal(f, store.EffectDone, f.row().Status)
	})
}

func TestFinishedEffectsArePurgedAndOpenOnesNever(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		_, err := f.do(nil)
		require.NoError(f, err)
		_, err = f.client.Do(f.Context(), "charge", "open", nil, f.returning(errCall))
		require.ErrorIs(f, err, effects.ErrUnknown)
		for _, want := range []int64{0, 1, 0} {
			n, err := f.st.PurgeEffects(f.Context(), time.Hour, 10)
			require.NoError(f, err)
			require.Equal(f, want, n)
			f.later(2 * time.Hour)
		}
		_, err = f.st.Effect(f.Context(), "charge", "open")
		require.NoError(f, err)
	})
}
