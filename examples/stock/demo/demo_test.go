package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/examples/stock/internal/connect"
	"github.com/headrace-go/headrace/examples/stock/internal/warehouse"
	"github.com/headrace-go/headrace/internal/testenv"
)

// The demo starts itself as its consumers, which here is the test's binary.
func TestMain(m *testing.M) {
	if orders := os.Getenv(ordersVariable); orders != "" {
		if err := consumeAsToldBy(context.Background(), orders); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testenv.VerifyMain(m)
}

func TestTheDemoShowsDamageAndProtectsFromIt(t *testing.T) {
	t.Parallel()
	// "" is the default: SQLite and the embedded broker.
	kinds := map[string][2]string{"embedded": {"", ""}}
	if !testing.Short() {
		kinds["kafka-postgres"] = [2]string{"kafka", "postgres"}
		kinds["sqs-fifo-mariadb"] = [2]string{"sqs-fifo", "mariadb"}
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := &bytes.Buffer{}
			opts := options{seed: 7, changes: 60, timeout: 2 * time.Minute, out: printer{out}}
			var err error
			opts.broker, err = ofScripts(kind[0])
			require.NoError(t, err)
			opts.db, err = ofScripts(kind[1])
			require.NoError(t, err)
			outcomes, err := play(t.Context(), opts)
			require.NoError(t, err, out)

			for s, o := range outcomes {
				require.Equal(t, 1, o.Kills, s)
				require.Equal(t, 3, o.Threw, s)
			}
			require.False(t, outcomes[protected].damaged(), out)
			require.True(t, outcomes[naive].damaged(), out)
			require.Positive(t, outcomes[naive].EffectsDoubled, out)
			require.True(t, outcomes[seenList].damaged(), out)
			require.NotContains(t, out.String(), "could be removed")
			require.Contains(t, out.String(), "Headrace: everything once, nothing lost")
		})
	}
}

// What the README shows is a copied run: its numbers are that run's, its names
// must be the program's.
func TestTheREADMEShowsTheTableOfTheDemo(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	_, shown, ok := strings.Cut(string(readme), "```text\n")
	require.True(t, ok)
	shown, _, ok = strings.Cut(shown, "```\n")
	require.True(t, ok)
	var out bytes.Buffer
	printTable(printer{&out}, newPlan(1, minChanges), map[side]*outcome{naive: {}, seenList: {}, protected: {}})
	numbers := regexp.MustCompile(` +\d+\b`)
	require.Equal(t, numbers.ReplaceAllString(strings.TrimSpace(out.String()), ""),
		numbers.ReplaceAllString(strings.TrimSpace(shown), ""), "copy the table of a new `make demo` into the README")
}

func TestWhatIsWaitedForIsNamed(t *testing.T) {
	t.Parallel()
	require.Equal(t, "waiting for 102 follow-ups in the outbox", left{Unsent: 102}.String())
	require.Equal(t, "waiting for 1 changes at the broker, 2 follow-ups at the broker", left{Changes: 1, FollowUps: 2}.String())
}

func TestAWaitThatGoesOnIsSaidOnce(t *testing.T) {
	t.Parallel()
	start := time.Now()
	w := waits{since: start}
	at := func(seconds float64, what string) bool {
		return w.news(what, start.Add(time.Duration(seconds*float64(time.Second))))
	}
	require.False(t, at(0.5, "waiting for 3"), "it is quick")
	require.True(t, at(1, "waiting for 3"))
	require.False(t, at(5, "waiting for 3"))
	require.True(t, at(5, "waiting for 2"))
	require.False(t, at(5.5, "waiting for 1"))
}

func TestTheCountFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	p := newPlan(1, minChanges)
	s := &stage{plan: p, place: &place{db: testenv.SQLite(t)}}
	require.NoError(t, s.prepare(t.Context()))
	db, err := connect.Open(s.place.db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	sent := &kept{}
	w := warehouse.New(warehouse.Config{DB: db.DB, Publisher: sent})
	handle := func(c change) {
		payload, err := json.Marshal(c.event)
		require.NoError(t, err)
		require.NoError(t, w.HandleChange(message.NewMessage(c.id, payload)))
	}
	for _, c := range p.changes[1:] {
		handle(c)
	}
	for _, msg := range sent.msgs {
		require.NoError(t, w.HandleRecommendationsDue(msg))
	}

	o, err := s.count(t.Context())
	require.NoError(t, err)
	require.True(t, o.damaged())
	require.Equal(t, []int{1, 0, 1, 0}, []int{o.EffectsLost, o.EffectsDoubled, o.FollowUpsLost, o.FollowUpsDoubled})
	require.Equal(t, 1, o.ProductsWrong)
	require.Equal(t, 1, o.RecommendationsWrong)

	handle(p.changes[0])
	require.NoError(t, w.HandleRecommendationsDue(sent.msgs[len(sent.msgs)-1]))
	o, err = s.count(t.Context())
	require.NoError(t, err)
	require.False(t, o.damaged(), "%+v", o)

	handle(p.changes[0])
	o, err = s.count(t.Context())
	require.NoError(t, err)
	require.Equal(t, []int{0, 1, 0, 0}, []int{o.EffectsLost, o.EffectsDoubled, o.FollowUpsLost, o.FollowUpsDoubled})
	require.Equal(t, 1, o.ProductsWrong)
}

// kept is a publisher that keeps what it is given.
type kept struct{ msgs []*message.Message }

func (k *kept) Publish(_ string, msgs ...*message.Message) error {
	k.msgs = append(k.msgs, msgs...)
	return nil
}

func (*kept) Close() error { return nil }

func TestAPlanComesFromItsSeedAlone(t *testing.T) {
	t.Parallel()
	again := newPlan(7, 300)
	require.Equal(t, again, newPlan(7, 300))
	require.NotEqual(t, newPlan(7, 300).sent, newPlan(8, 300).sent)

	p := newPlan(7, 300)
	require.Positive(t, p.copies())
	require.Positive(t, p.outOfOrder())
	require.Len(t, p.throw, 15)
	require.NotContains(t, p.throw, p.hold)
}

func TestBadFlagsAreNamed(t *testing.T) {
	for arguments, says := range map[string]string{
		"-changes 1":        "-changes must be from 20",
		"somewhere":         `unknown argument "somewhere"`,
		"-broker kafka -x":  "usage",
		"-broker kafka":     "HEADRACE_TEST_KAFKA is not set",
		"-db nowhere":       "",
		"-broker mem: -db ": "",
	} {
		t.Setenv("HEADRACE_TEST_KAFKA", "")
		opts, err := parse(strings.Split(arguments, " "))
		if says != "" {
			require.ErrorContains(t, err, says, arguments)
			continue
		}
		require.NoError(t, err, arguments)
		opts.out = printer{io.Discard}
		_, err = play(t.Context(), opts)
		require.Error(t, err, arguments)
	}
}
