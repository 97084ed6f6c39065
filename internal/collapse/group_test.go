package collapse

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source answers with the number of the call, when it is let.
type source struct {
	Group[string, int]

	t            *testing.T
	calls        atomic.Int64
	begin, end   chan struct{}
	begun, ended chan struct{}
	fails        atomic.Bool
}

var errSource = errors.New("no answer")

func newSource(t *testing.T) *source {
	t.Helper()
	s := &source{
		t: t, begin: make(chan struct{}), end: make(chan struct{}),
		begun: make(chan struct{}, 100), ended: make(chan struct{}, 100),
	}
	s.Call = func(ctx context.Context, _ string, began func()) (int, error) {
		defer func() { s.ended <- struct{}{} }()
		select {
		case <-s.begin:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		began()
		n := int(s.calls.Add(1))
		s.begun <- struct{}{}
		select {
		case <-s.end:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if s.fails.Load() {
			return 0, errSource
		}
		return n, nil
	}
	return s
}

func (g *Group[K, V]) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.lines) == 0
}

type asked struct {
	n   int
	err error
}

// ask asks, and returns when that is waited for: by now callers of the call under way, or
// next of the one after it.
func (s *source) ask(ctx context.Context, enough func(int) bool, now, next int) <-chan asked {
	s.t.Helper()
	answers := make(chan asked, 1)
	go func() {
		n, err := s.Do(ctx, "key", enough)
		answers <- asked{n, err}
	}()
	s.await(now, next)
	return answers
}

func (s *source) await(now, next int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		l := s.lines["key"]
		return l != nil && len(l.now.waiters) == now && len(l.next) == next
	}, 10*time.Second, time.Millisecond)
}

func (s *source) receive(answers <-chan asked) asked {
	s.t.Helper()
	select {
	case a := <-answers:
		return a
	case <-time.After(10 * time.Second):
		s.t.Fatal("there is no answer")
		return asked{}
	}
}

func TestThoseWhoComeBeforeACallBeginsShareIt(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	first := s.ask(t.Context(), nil, 1, 0)
	second := s.ask(t.Context(), nil, 2, 0)
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 1}, s.receive(first))
	require.Equal(t, asked{n: 1}, s.receive(second))
	require.EqualValues(t, 1, s.calls.Load())
	require.True(t, s.idle(), "nothing is kept")
}

func TestThoseWhoComeLaterShareTheCallAfter(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	first := s.ask(t.Context(), nil, 1, 0)
	s.begin <- struct{}{}
	<-s.begun
	second := s.ask(t.Context(), nil, 1, 1)
	third := s.ask(t.Context(), nil, 1, 2)
	s.end <- struct{}{}
	require.Equal(t, asked{n: 1}, s.receive(first))
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 2}, s.receive(second))
	require.Equal(t, asked{n: 2}, s.receive(third))
}

func TestAnEarlierAnswerServesThoseForWhomItIsEnough(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	first := s.ask(t.Context(), nil, 1, 0)
	s.begin <- struct{}{}
	<-s.begun
	content := s.ask(t.Context(), func(n int) bool { return n >= 1 }, 1, 1)
	strict := s.ask(t.Context(), func(n int) bool { return n >= 2 }, 1, 2)
	s.end <- struct{}{}
	require.Equal(t, asked{n: 1}, s.receive(first))
	require.Equal(t, asked{n: 1}, s.receive(content))
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 2}, s.receive(strict))
}

func TestAFailureIsOfThoseWhoWaitedForIt(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.fails.Store(true)
	first := s.ask(t.Context(), nil, 1, 0)
	s.begin <- struct{}{}
	<-s.begun
	second := s.ask(t.Context(), func(int) bool { return true }, 1, 1)
	s.end <- struct{}{}
	require.ErrorIs(t, s.receive(first).err, errSource)
	s.fails.Store(false)
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 2}, s.receive(second))
}

func TestACallThatNobodyWaitsForIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := s.ask(ctx, nil, 1, 0)
	second := s.ask(t.Context(), nil, 2, 0)
	cancel()
	require.ErrorIs(t, s.receive(first).err, context.Canceled)
	s.begin <- struct{}{}
	<-s.begun
	s.end <- struct{}{}
	require.Equal(t, asked{n: 1}, s.receive(second), "somebody else waited")
	<-s.ended

	ctx, cancel = context.WithCancel(t.Context())
	alone := s.ask(ctx, nil, 1, 0)
	s.begin <- struct{}{}
	<-s.begun
	late := s.ask(ctx, nil, 1, 1)
	patient := s.ask(t.Context(), nil, 1, 2)
	cancel()
	require.ErrorIs(t, s.receive(alone).err, context.Canceled)
	require.ErrorIs(t, s.receive(late).err, context.Canceled)
	<-s.ended // without having been let
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 3}, s.receive(patient))
}

func TestACallThatPanicsIsAFailure(t *testing.T) {
	t.Parallel()
	for want, call := range map[string]func(){
		"the call panicked: out of it": func() { panic("out of it") },
		"the call ended its goroutine": runtime.Goexit,
	} {
		g := Group[string, int]{Call: func(context.Context, string, func()) (int, error) {
			call()
			return 1, nil
		}}
		_, err := g.Do(t.Context(), "key", nil)
		require.EqualError(t, err, want)
		require.Eventually(t, g.idle, 10*time.Second, time.Millisecond)
	}
}

func TestAJudgeThatPanicsGetsTheNextAnswer(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	first := s.ask(t.Context(), nil, 1, 0)
	s.begin <- struct{}{}
	<-s.begun
	second := s.ask(t.Context(), func(int) bool { panic("out of it") }, 1, 1)
	s.end <- struct{}{}
	require.Equal(t, asked{n: 1}, s.receive(first))
	s.begin <- struct{}{}
	s.end <- struct{}{}
	require.Equal(t, asked{n: 2}, s.receive(second))
}

func TestWhoHasGoneAlreadyAsksForNothing(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Do(ctx, "key", nil)
	require.ErrorIs(t, err, context.Canceled)
	require.True(t, s.idle())
}

// Many ask of a few keys at once, and some go away: calls of a key never overlap, and
// nobody gets an answer that is older than the question.
func TestAnswersAreNeverOlderThanQuestions(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	var busy [3]atomic.Int64
	g := Group[int, int64]{Call: func(ctx context.Context, key int, began func()) (int64, error) {
		if busy[key].Add(1) > 1 {
			t.Error("two calls of a key at once")
		}
		defer busy[key].Add(-1)
		began()
		return clock.Add(1), ctx.Err()
	}}
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithCancel(t.Context())
				if rand.IntN(4) == 0 {
					go cancel()
				}
				since := clock.Load()
				got, err := g.Do(ctx, rand.IntN(len(busy)), nil)
				if err == nil && got <= since || err != nil && ctx.Err() == nil {
					t.Errorf("asked at %d, answered as of %d: %v", since, got, err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	require.Eventually(t, g.idle, 10*time.Second, time.Millisecond)
}
