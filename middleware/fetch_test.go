package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/keys"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// current is what a source says of a line.
type current = middleware.Current[string]

func fetchLine(load func(ctx context.Context, entity keys.Entity) (current, error)) middleware.FetchConfig[string] {
	return middleware.FetchConfig[string]{Entity: keys.OfType("line", keys.FromJSON("id")), Load: load}
}

func answer(version int64, due string) current {
	return current{Version: middleware.IntVersion(version), Value: due}
}

// handled runs one message through Fetch, and returns what the handler has got.
func handled(t *testing.T, cfg middleware.FetchConfig[string], msg *message.Message) (got current, err error) {
	t.Helper()
	fetch, err := middleware.NewFetch(cfg)
	require.NoError(t, err)
	_, err = fetch.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		var ok bool
		got, ok = fetch.From(msg.Context())
		require.True(t, ok)
		return nil, nil
	})(msg)
	_, left := fetch.From(msg.Context())
	require.False(t, left, "nothing is left in the message")
	return got, err
}

func TestAHandlerGetsTheCurrentState(t *testing.T) {
	t.Parallel()
	got, err := handled(t, fetchLine(func(_ context.Context, entity keys.Entity) (current, error) {
		require.Equal(t, keys.Entity{Type: "line", ID: "7"}, entity)
		return answer(3, "June"), nil
	}), changed("7", 1, `"due":null`))
	require.NoError(t, err)
	require.Equal(t, answer(3, "June"), got)
}

func TestAnAnswerMustHaveWhatTheMessageSpeaksOf(t *testing.T) {
	t.Parallel()
	say := func(state current) middleware.FetchConfig[string] {
		cfg := fetchLine(func(context.Context, keys.Entity) (current, error) { return state, nil })
		cfg.Notified = middleware.VersionFromJSON("version")
		return cfg
	}
	for _, enough := range []current{answer(4, "May"), answer(5, "June"), {Deleted: true}} {
		_, err := handled(t, say(enough), changed("7", 4, `"due":null`))
		require.NoError(t, err)
	}
	_, err := handled(t, say(answer(3, "April")), changed("7", 4, `"due":null`))
	require.ErrorIs(t, err, middleware.ErrFetchBehind)
	require.ErrorContains(t, err, "it has 3, and the message speaks of 4")
	require.Equal(t, parking.Transient, parking.Classify(err))
	_, err = handled(t, say(current{Version: middleware.TextVersion("4")}), changed("7", 4, `"due":null`))
	require.ErrorIs(t, err, middleware.ErrVersion)
	require.Equal(t, parking.Permanent, parking.Classify(err))
}

func TestMessagesWithoutEntityOrVersionAreRefused(t *testing.T) {
	t.Parallel()
	cfg := fetchLine(func(context.Context, keys.Entity) (current, error) {
		t.Error("there is nothing to ask for")
		return current{}, nil
	})
	cfg.Notified = middleware.VersionFromJSON("version")
	for _, payload := range []string{`{"version":1}`, `{"id":"7"}`, `{"id":"7","version":-1}`, "none"} {
		_, err := handled(t, cfg, message.NewMessage("id", []byte(payload)))
		require.Error(t, err)
		require.Equal(t, parking.Permanent, parking.Classify(err), payload)
	}
}

func TestASourceThatMisbehavesFailsTheMessage(t *testing.T) {
	t.Parallel()
	failed := errors.New("503")
	for want, fail := range map[string]func(ctx context.Context) error{
		"503":                 func(context.Context) error { return failed },
		"panicked: out of it": func(context.Context) error { panic("out of it") },
		"didn't return": func(ctx context.Context) error {
			<-ctx.Done()
			<-t.Context().Done() // it ignores that
			return failed
		},
	} {
		cfg := fetchLine(func(ctx context.Context, _ keys.Entity) (current, error) { return current{}, fail(ctx) })
		cfg.Timeout = time.Millisecond
		_, err := handled(t, cfg, changed("7", 1, `"due":null`))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "fetch line/7")
		require.NotEqual(t, parking.Permanent, parking.Classify(err))
	}
}

func TestFetchKeepsToItsLimit(t *testing.T) {
	t.Parallel()
	cfg := fetchLine(func(context.Context, keys.Entity) (current, error) { return current{}, nil })
	cfg.Limit = middleware.Rate{PerSecond: 0.001, Burst: 2}
	cfg.MaxWait = time.Millisecond
	fetch, err := middleware.NewFetch(cfg)
	require.NoError(t, err)
	h := fetch.Middleware(message.PassthroughHandler)
	for id := range 2 {
		_, err = h(changed(fmt.Sprint(id), 1, `"due":null`))
		require.NoError(t, err)
	}
	_, err = h(changed("7", 1, `"due":null`))
	require.ErrorIs(t, err, middleware.ErrFetchLimited)
	wait, ok := parking.RetryAfter(err)
	require.True(t, ok)
	require.Equal(t, 1000*time.Second, wait)
}

type calls struct {
	mu  sync.Mutex
	all []middleware.Fetching
}

func (c *calls) OnFetch(fetching middleware.Fetching) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, fetching)
}

func TestASourceThatFailsIsLeftAlone(t *testing.T) {
	t.Parallel()
	var answers atomic.Value
	answers.Store(parking.AsPermanent(errors.New("404")))
	cfg := fetchLine(func(context.Context, keys.Entity) (current, error) { return current{}, answers.Load().(error) })
	cfg.Breaker = middleware.Breaker{Failures: 3, Open: time.Hour}
	var told calls
	cfg.Hooks = []any{&told}
	fetch, err := middleware.NewFetch(cfg)
	require.NoError(t, err)
	h := fetch.Middleware(message.PassthroughHandler)
	for range 5 {
		_, err = h(changed("7", 1, `"due":null`))
		require.ErrorContains(t, err, "404", "it says nothing of the source")
	}
	answers.Store(parking.AsTransient(errors.New("503")))
	for range 3 {
		_, err = h(changed("7", 1, `"due":null`))
		require.ErrorContains(t, err, "503")
	}
	_, err = h(changed("7", 1, `"due":null`))
	require.ErrorIs(t, err, middleware.ErrFetchRests)
	wait, ok := parking.RetryAfter(err)
	require.True(t, ok)
	require.Greater(t, wait, 50*time.Minute)
	require.Len(t, told.all, 8)
	require.Equal(t, keys.Entity{Type: "line", ID: "7"}, told.all[0].Entity)
	require.ErrorContains(t, told.all[7].Err, "503")
}

func TestFetchIsNoPartOfATransaction(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		fetch, err := middleware.NewFetch(fetchLine(func(context.Context, keys.Entity) (current, error) {
			t.Error("it was called within a transaction")
			return current{}, nil
		}))
		require.NoError(t, err)
		_, err = b.dedupe(t).Middleware(fetch.Middleware(message.PassthroughHandler))(changed("7", 1, `"due":null`))
		require.ErrorIs(t, err, middleware.ErrFetchInUnit)
		skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: fetch.States()})
		require.NoError(t, err)
		_, err = b.dedupe(t).Middleware(skip.Middleware(message.PassthroughHandler))(changed("7", 1, `"due":null`))
		require.ErrorContains(t, err, "VersionSkip with Fetch.States belongs inside of Fetch")
	})
}

// An answer that was held up on its way comes behind a newer one, of another process.
func TestAnAnswerThatWasHeldUpOverwritesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, b *bundle) {
		l := setupLines(t, b)
		process := func(load func() current) message.HandlerFunc {
			fetch, err := middleware.NewFetch(fetchLine(
				func(context.Context, keys.Entity) (current, error) { return load(), nil }))
			require.NoError(t, err)
			skip, err := middleware.NewVersionSkip(b.st, middleware.VersionSkipConfig{States: fetch.States()})
			require.NoError(t, err)
			h := skip.Middleware(func(msg *message.Message) ([]*message.Message, error) {
				ctx := msg.Context()
				got, _ := fetch.From(ctx)
				return nil, b.st.InTx(ctx, func(ctx context.Context, tx store.Tx) error {
					if _, err := tx.ExecContext(ctx, "DELETE FROM order_lines WHERE id = '7'"); err != nil || got.Deleted {
						return err
					}
					_, err := tx.ExecContext(ctx, "INSERT INTO order_lines (id, due) VALUES ('7', ?)", got.Value)
					return err
				})
			})
			return fetch.Middleware(b.dedupe(t).Middleware(h))
		}
		asked, goOn := make(chan struct{}), make(chan struct{})
		held := process(func() current {
			close(asked)
			<-goOn
			return answer(1, "May")
		})
		ended := make(chan error, 1)
		go func() {
			_, err := held(changed("7", 0, `"due":null`))
			ended <- err
		}()
		<-asked
		deliver(t, process(func() current { return answer(2, "June") }), changed("7", 0, `"due":null`))
		close(goOn)
		require.NoError(t, <-ended)
		require.Equal(t, "June", l.line(t, "7"))
		gone := current{Version: middleware.IntVersion(3), Deleted: true}
		deliver(t, process(func() current { return gone }), changed("7", 0, `"due":null`))
		require.Equal(t, "none", l.line(t, "7"))
	})
}

func TestFetchConfigIsChecked(t *testing.T) {
	t.Parallel()
	load := func(context.Context, keys.Entity) (current, error) { return current{}, nil }
	for want, change := range map[string]func(*middleware.FetchConfig[string]){
		"Entity is required": func(c *middleware.FetchConfig[string]) { c.Entity = nil },
		"Load is required":   func(c *middleware.FetchConfig[string]) { c.Load = nil },
		"must be finite":     func(c *middleware.FetchConfig[string]) { c.Limit.PerSecond = math.NaN() },
		"and not negative":   func(c *middleware.FetchConfig[string]) { c.Limit.PerSecond = -1 },
	} {
		cfg := fetchLine(load)
		change(&cfg)
		_, err := middleware.NewFetch(cfg)
		require.ErrorContains(t, err, want)
		require.True(t, strings.HasPrefix(err.Error(), "middleware: FetchConfig"), err)
	}
}
