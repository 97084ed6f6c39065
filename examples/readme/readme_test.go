package readme

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/mem"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/middleware"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// codeBlocks returns what a page shows as Go.
func codeBlocks(t *testing.T, page string) (blocks []string) {
	t.Helper()
	for i, part := range strings.Split(read(t, page), "```go\n") {
		if i == 0 {
			continue
		}
		block, _, closed := strings.Cut(part, "```\n")
		require.True(t, closed)
		blocks = append(blocks, block)
	}
	return blocks
}

func TestTheREADMEShowsCodeThatRuns(t *testing.T) {
	t.Parallel()
	_, lines, ok := strings.Cut(read(t, "protect.go"), "\t// README\n")
	require.True(t, ok)
	lines, _, ok = strings.Cut(lines, "\t// END\n")
	require.True(t, ok)
	lines = strings.TrimPrefix(strings.ReplaceAll(lines, "\n\t", "\n"), "\t")
	program := read(t, "../quickstart/main.go")

	require.Equal(t, []string{lines, program}, codeBlocks(t, "../../README.md"))
	require.LessOrEqual(t, strings.Count(lines, "\n"), 10)
	require.Less(t, strings.Count(program, "\n"), 70)
}

func TestThePageOnDedupeShowsCodeThatRuns(t *testing.T) {
	t.Parallel()
	unindent := func(text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, "\t", ""), "\n\n", "\n")
	}
	source := unindent(read(t, "window.go"))
	blocks := codeBlocks(t, "../../docs/dedupe.md")
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		require.Contains(t, source, strings.TrimSuffix(unindent(block), "\n"))
	}

	broker, err := brokers.Open(t.Context(), "mem:", brokers.Config{Openers: map[string]brokers.Opener{"mem": mem.Open}})
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Close()) }()
	db := testenv.Open(t, testenv.SQLite(t))
	cfg, single := window(broker)
	cfg.Migrate = true
	hr, err := headrace.New(t.Context(), db, cfg)
	require.NoError(t, err)
	_, err = middleware.NewDedupe(hr.Store(), single)
	require.NoError(t, err)
	require.NoError(t, hr.Close())
}

func TestThePageOnSwappingShowsCodeThatRuns(t *testing.T) { //nolint:paralleltest // it sets the environment
	blocks := codeBlocks(t, "../../docs/swap.md")
	require.Len(t, blocks, 1)
	require.Contains(t, read(t, "swap.go"), blocks[0])

	open := func() *brokers.Broker {
		b, err := brokers.Open(t.Context(), "mem:", brokers.Config{
			Openers: map[string]brokers.Opener{"mem": mem.Open}, Group: "store",
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		return b
	}
	from, to := open(), open()
	for _, step := range []struct {
		send, read string
		publisher  message.Publisher
		subscriber message.Subscriber // nil: a handover
	}{
		{"", "", from.Publisher, from.Subscriber},
		{"hold", "", brokers.Held{}, from.Subscriber},
		{"new", "", to.Publisher, from.Subscriber},
		{"new", "drain", to.Publisher, nil},
		{"new", "new", to.Publisher, to.Subscriber},
	} {
		t.Setenv("SWAP_SEND", step.send)
		t.Setenv("SWAP_READ", step.read)
		publisher, subscriber, err := sides(from, to, brokers.HandoverConfig{Group: "store"})
		require.NoError(t, err)
		require.Equal(t, step.publisher, publisher)
		if step.subscriber == nil {
			require.NotSame(t, from.Subscriber, subscriber)
			require.NotSame(t, to.Subscriber, subscriber)
			require.NoError(t, subscriber.Close())
			continue
		}
		require.Same(t, step.subscriber, subscriber)
	}
}

// Links to files that aren't there help nobody.
func TestTheREADMEsLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for i, part := range strings.Split(read(t, "../../README.md"), "](") {
		target, _, _ := strings.Cut(part, ")")
		if i == 0 || strings.HasPrefix(target, "http") || strings.HasPrefix(target, "#") {
			continue
		}
		_, err := os.Stat(filepath.Join("../..", target))
		require.NoError(t, err)
	}
}

func TestTheLinesProtectAnOrdinaryService(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "shop.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	for _, statement := range []string{"CREATE TABLE stock (pieces int)", "INSERT INTO stock VALUES (0)"} {
		_, err = db.ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	broker, err := brokers.Open(ctx, "mem:", brokers.Config{
		Openers: map[string]brokers.Opener{"mem": mem.Open}, Group: "warehouse",
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Close()) }()
	reader, err := broker.SubscriberFor("reader")
	require.NoError(t, err)
	counted, err := reader.Subscribe(ctx, "stock.counted")
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- serve(ctx, db, broker.Publisher, broker.Subscriber, router) }()

	for i := range 3 {
		change := message.NewMessage(fmt.Sprint(i/2), nil) // "0" comes twice
		require.NoError(t, broker.Publisher.Publish("stock.changed", change))
	}
	heard := map[string]bool{}
	for range 2 {
		msg := <-counted
		heard[msg.UUID] = true
		msg.Ack()
	}
	require.Equal(t, map[string]bool{"counted-0": true, "counted-1": true}, heard)
	var pieces int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT pieces FROM stock").Scan(&pieces))
	require.Equal(t, 2, pieces)
	cancel()
	require.NoError(t, <-done)
	require.Empty(t, counted)
}
