package effects_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/parking"
	"github.com/headrace-go/headrace/store"
)

// provider is an HTTP API that charges and then answers as it likes.
type provider struct {
	url    string
	client *http.Client

	mu      sync.Mutex
	charged []string
}

// charges are the keys under which it was called.
func (p *provider) charges() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.charged)
}

func (f *fixture) provider(answer http.HandlerFunc) *provider {
	p := &provider{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.charged = append(p.charged, r.Header.Get("Idempotency-Key"))
		p.mu.Unlock()
		answer(w, r)
	}))
	f.Cleanup(server.Close)
	p.url, p.client = server.URL, server.Client()
	return p
}

func (p *provider) call(h effects.HTTP) effects.Call {
	h.Client = p.client
	return h.Call(func(ctx context.Context, body []byte) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodPost, p.url, strings.NewReader(string(body)))
	})
}

func TestProviderMisbehaves(t *testing.T) {
	t.Parallel()
	okay := func(r effects.Response) error {
		switch {
		case strings.Contains(string(r.Body), "declined"):
			return effects.Refused(errors.New("declined"))
		case string(r.Body) != `{"paid":true}`:
			return errors.New("the answer can't be read")
		}
		return nil
	}
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if len(header) > 0 {
				w.Header().Set("Retry-After", header[0])
			}
			w.WriteHeader(code)
		}
	}
	says := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		err    error
		status store.EffectStatus
		wait   time.Duration
	}{
		"well":                 {says(`{"paid":true}`), nil, store.EffectDone, 0},
		"garbage":              {says("<html>\x00\xff"), effects.ErrUnknown, store.EffectUnknown, 0},
		"200 with an error":    {says(`{"declined":1}`), effects.ErrRefused, store.EffectRefused, 0},
		"500 after charging":   {status(500), effects.ErrUnknown, store.EffectUnknown, 0},
		"503":                  {status(503), effects.ErrUnknown, store.EffectUnknown, 0},
		"503 with Retry-After": {status(503, "7"), parking.ErrTransient, store.EffectRetry, 7 * time.Second},
		"429":                  {status(429, "3"), parking.ErrTransient, store.EffectRetry, 3 * time.Second},
		"409":                  {status(409), parking.ErrConflict, store.EffectRefused, 0},
		"422":                  {status(422), parking.ErrPermanent, store.EffectRefused, 0},
		"408":                  {status(408), effects.ErrUnknown, store.EffectUnknown, 0},
		"redirected":           {status(307), effects.ErrUnknown, store.EffectUnknown, 0},
		"hangs up": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			effects.ErrUnknown, store.EffectUnknown, 0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, effects.Provider{}, func(f *fixture) {
				p := f.provider(c.answer)
				_, err := f.client.Do(f.Context(), "charge", "order-1", []byte("10 EUR"), p.call(effects.HTTP{Check: okay}))
				require.ErrorIs(f, err, c.err)
				wait, _ := parking.RetryAfter(err)
				require.Equal(f, c.wait, wait)
				require.Equal(f, c.status, f.row().Status)
				require.Equal(f, []string{"charge/order-1"}, p.charges())
			})
		})
	}
}

// What the provider says is in the error where it was asked for, and bounded.
func TestARefusalSaysWhyIfAsked(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		p := f.provider(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, "\xffbelow the least order of 10"+strings.Repeat("é", 1000))
		})
		_, err := f.client.Do(f.Context(), "charge", "plain", nil, p.call(effects.HTTP{}))
		require.ErrorIs(f, err, effects.ErrRefused)
		require.NotContains(f, err.Error(), "least")
		_, err = f.client.Do(f.Context(), "charge", "asked", nil, p.call(effects.HTTP{
			Reason: func(r effects.Response) string { return string(r.Body) },
		}))
		require.ErrorIs(f, err, parking.ErrPermanent)
		require.Contains(f, err.Error(), "status 400: below the least order of 10é")
		require.Less(f, len(err.Error()), 700)
		require.True(f, utf8.ValidString(err.Error()))
	})
}

func TestACallThatDoesNotReturnIsLeftBehind(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{Timeout: 20 * time.Millisecond}, func(f *fixture) {
		end := make(chan struct{})
		defer close(end)
		_, err := f.client.Do(f.Context(), "charge", "order-1", nil,
			func(context.Context, string, []byte) (effects.Response, error) {
				<-end
				return effects.Response{}, nil
			})
		require.ErrorIs(f, err, effects.ErrUnknown)
		require.Equal(f, store.EffectUnknown, f.row().Status)
	})
}

func TestACallThatPanicsOrEndsItsGoroutineIsAmbiguous(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(){"panic": func() { panic("oh") }, "goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, effects.Provider{}, func(f *fixture) {
				_, err := f.client.Do(f.Context(), "charge", "order-1", nil,
					func(context.Context, string, []byte) (effects.Response, error) {
						end()
						return effects.Response{}, nil
					})
				require.ErrorIs(f, err, effects.ErrUnknown)
			})
		})
	}
}

func TestACallIsNotCutOffByTheMessagesContext(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		ctx, cancel := context.WithCancel(f.Context())
		_, err := f.client.Do(ctx, "charge", "order-1", nil,
			func(ctx context.Context, _ string, _ []byte) (effects.Response, error) {
				cancel()
				return effects.Response{}, ctx.Err()
			})
		require.NoError(f, err)
		require.Equal(f, store.EffectDone, f.row().Status)
	})
}

func TestAnAnswerThatIsTooLongIsCut(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		p := f.provider(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 100)) })
		for range 2 {
			r, err := f.client.Do(f.Context(), "charge", "order-1", nil, p.call(effects.HTTP{MaxBody: 10}))
			require.NoError(f, err)
			require.True(f, r.Truncated)
			require.Len(f, r.Body, 10)
		}
		_, err := f.client.Do(f.Context(), "charge", "2", make([]byte, store.MaxEffectContent+1), f.returning(nil))
		require.ErrorIs(f, err, store.ErrContent)
		require.Empty(f, f.calls)
	})
}

func TestLimitAndBreakerLeaveTheProviderAlone(t *testing.T) {
	t.Parallel()
	onEach(t, effects.Provider{}, func(f *fixture) {
		limited := f.newClient(effects.Provider{Limit: effects.Rate{PerSecond: 0.001}})
		broken := f.newClient(effects.Provider{Breaker: effects.Breaker{Failures: 1, Open: time.Hour}})
		for i, want := range []error{nil, effects.ErrLimited} {
			_, err := limited.Do(f.Context(), "limited", string(rune('a'+i)), nil, f.returning(nil))
			require.ErrorIs(f, err, want)
		}
		for i, want := range []error{effects.ErrUnknown, effects.ErrBreakerOpen} {
			_, err := broken.Do(f.Context(), "broken", string(rune('a'+i)), nil, f.returning(errCall))
			require.ErrorIs(f, err, want)
		}
		require.Len(f, f.calls, 2)
		_, err := f.client.Do(f.Context(), "broken", "b", nil, f.returning(nil))
		require.NoError(f, err, "what was never called may be")
	})
}
