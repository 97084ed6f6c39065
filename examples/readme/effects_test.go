package readme

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/mem"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestThePageOnEffectsShowsCode(t *testing.T) {
	t.Parallel()
	source := read(t, "effects.go")
	blocks := codeBlocks(t, "../../docs/effects.md")
	require.Len(t, blocks, 4) // the last is of conflicts
	for i, marker := range []string{"CLIENT", "STAGE", "ORDER"} {
		_, lines, ok := strings.Cut(source, "\t// "+marker+"\n")
		require.True(t, ok)
		lines, _, _ = strings.Cut(lines, "\t// "+[]string{"STAGE", "ORDER", "END"}[i]+"\n")
		require.Equal(t, strings.TrimPrefix(strings.ReplaceAll(lines, "\n\t", "\n"), "\t"), blocks[i])
	}
}

// The bank doesn't answer at first, the order comes twice, and is charged once.
func TestThePageOnEffectsShowsCodeThatRuns(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	calls, charged := 0, map[string]string{}
	bank := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		calls++
		body, _ := io.ReadAll(r.Body)
		charged[r.Header.Get("Idempotency-Key")] += string(body)
		if calls == 1 {
			panic(http.ErrAbortHandler) // charged, and the answer is lost
		}
		charged[r.Header.Get("Idempotency-Key")] = string(body) // the key is known
		_, _ = io.WriteString(w, "receipt")
	}))
	defer bank.Close()

	ctx, cancel := context.WithCancel(t.Context())
	broker, err := brokers.Open(ctx, "mem:?nack_delay=5ms", brokers.Config{
		Openers: map[string]brokers.Opener{"mem": mem.Open}, Group: "shop",
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Close()) }()
	db := testenv.Open(t, testenv.SQLite(t))
	for _, statement := range []string{
		"CREATE TABLE stock (article text, price text, pieces int)", "INSERT INTO stock VALUES ('wheel', '10 EUR', 5)",
		"CREATE TABLE payments (id text, receipt text)",
	} {
		_, err = db.ExecContext(ctx, statement)
		require.NoError(t, err)
	}
	hr, err := headrace.New(ctx, db, headrace.Config{Service: "shop", Publisher: broker.Publisher, Migrate: true})
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	require.NoError(t, shop(hr, router, broker.Subscriber, bank.URL))
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	select {
	case <-router.Running():
	case err := <-done:
		require.NoError(t, err)
	}
	for range 2 {
		require.NoError(t, broker.Publisher.Publish("orders", message.NewMessage("order-1", []byte("wheel"))))
	}
	testenv.Eventually(t, time.Minute, 10*time.Millisecond, func() (bool, string) {
		var paid, pieces int
		require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM payments WHERE receipt = 'receipt'").Scan(&paid))
		require.NoError(t, db.QueryRowContext(ctx, "SELECT pieces FROM stock").Scan(&pieces))
		return paid == 1 && pieces == 4, fmt.Sprintf("%d payments, %d pieces left", paid, pieces)
	})
	cancel()
	require.NoError(t, <-done)
	require.NoError(t, hr.Close())
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, 2, calls)
	require.Equal(t, map[string]string{"charge/order-1": "10 EUR"}, charged)
}
