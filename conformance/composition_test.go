package conformance_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/conformance"
	"github.com/headrace-go/headrace/conformance/internal/toy"
)

const theRing = "composition/a ring of two services"

// Not side by side: they keep the machine busy.
func TestServicesOnSoundToysPass(t *testing.T) {
	toys := map[string]toy.Config{"ordered": ordered(), "total": total(), "plain": plain()}
	if testing.Short() {
		toys = map[string]toy.Config{"plain": plain()}
	}
	for name, config := range toys {
		t.Run(name, func(t *testing.T) {
			if config.AckDeadline > 0 {
				config.AckDeadline = 10 * time.Second // a database may take longer than what the other facts wait for
			}
			h := harness(t, config)
			h.Patience = 20 * time.Second
			report, err := conformance.Check(t.Context(), h, conformance.Options{Only: regexp.MustCompile("^composition/")})
			require.NoError(t, err)
			require.Empty(t, report.Failed(), report.Text())
			require.NotEmpty(t, report.Results)
		})
	}
}

// late is a subscriber that is long quiet before each message.
type late struct {
	message.Subscriber

	quiet time.Duration
}

func (l late) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := l.Subscriber.Subscribe(ctx, topic)
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for msg := range in {
			select {
			case <-time.After(l.quiet):
			case <-ctx.Done():
				msg.Nack()
				continue
			}
			select {
			case out <- msg:
			case <-ctx.Done():
				msg.Nack()
			}
		}
	}()
	return out, err
}

// What a service has put aside is handled by another, which may hear of it late.
func TestAServiceThatHearsLateIsWaitedFor(t *testing.T) {
	t.Parallel()
	h := harness(t, plain())
	h.Patience = 20 * time.Second
	subscriber := h.Subscriber
	h.Subscriber = func(ctx context.Context, group string) (message.Subscriber, error) {
		sub, err := subscriber(ctx, group)
		if strings.HasPrefix(group, "aside") {
			sub = late{sub, 3 * h.Quiet}
		}
		return sub, err
	}
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("composition/poison put aside")})
	require.NoError(t, err)
	require.Empty(t, report.Failed(), report.Text())
}

func TestSeedOfTheEnvironmentIsNamedByWhatFails(t *testing.T) {
	h := harness(t, ordered())
	h.Without = []conformance.Protection{conformance.Dedupe}

	t.Setenv(conformance.SeedVariable, "7")
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(theRing)})
	require.NoError(t, err)
	require.Len(t, report.Failed(), 1, report.Text())
	require.Contains(t, report.Results[0].Note, "(seed 7)")

	h.Seed = 8 // the harness's own goes first
	report, err = conformance.Check(t.Context(), h, conformance.Options{Only: only(theRing)})
	require.NoError(t, err)
	require.Contains(t, report.Results[0].Note, "(seed 8)")

	h.Seed = 0
	t.Setenv(conformance.SeedVariable, "seven")
	_, err = conformance.Check(t.Context(), h, conformance.Options{})
	require.ErrorIs(t, err, conformance.ErrHarness)
	require.ErrorContains(t, err, conformance.SeedVariable+" is no seed")
}

func TestCompositionLeavesNothingInTheDatabase(t *testing.T) {
	t.Parallel()
	file := "file:" + filepath.Join(t.TempDir(), "user.db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)"
	h := harness(t, ordered())
	h.Database = func(context.Context) (*sql.DB, error) { return sql.Open("sqlite", file) }
	h.Patience = 20 * time.Second
	report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only("composition/poison put aside")})
	require.NoError(t, err)
	require.Empty(t, report.Failed(), report.Text())

	db, err := sql.Open("sqlite", file)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	var left int
	require.NoError(t, db.QueryRowContext(t.Context(),
		"SELECT count(*) FROM sqlite_master WHERE name LIKE 'conf%'").Scan(&left))
	require.Zero(t, left, "tables of the suite")
}

func TestDatabaseThatCannotBeOpenedLeavesCompositionUnknown(t *testing.T) {
	t.Parallel()
	for said, open := range map[string]func(context.Context) (*sql.DB, error){
		"no route":                  func(context.Context) (*sql.DB, error) { return nil, errors.New("no route") },
		"the harness returned none": func(context.Context) (*sql.DB, error) { return nil, nil }, //nolint:nilnil // the mistake
		"panicked: no driver":       func(context.Context) (*sql.DB, error) { panic("no driver") },
	} {
		h := harness(t, ordered())
		h.Database = open
		report, err := conformance.Check(t.Context(), h, conformance.Options{Only: only(theRing)})
		require.NoError(t, err)
		require.Equal(t, conformance.VerdictUnknown, report.Results[0].Verdict)
		require.Contains(t, report.Results[0].Note, said)
		require.True(t, report.Results[0].Failed)
	}
}
