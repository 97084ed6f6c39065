package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/kafka"
	"github.com/headrace-go/headrace/internal/testenv"
)

func TestMain(m *testing.M) { testenv.VerifyMain(m) }

const patience = 90 * time.Second

// build compiles main.go with topics and a group of its own, because others may
// run the same tests on the same Kafka.
func build(t *testing.T, names map[string]string) (program string) {
	t.Helper()
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	changed := string(source)
	for name, own := range names {
		require.Contains(t, changed, `"`+name+`"`)
		changed = strings.ReplaceAll(changed, `"`+name+`"`, `"`+own+`"`)
	}
	dir := t.TempDir()
	copied, overlay := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(copied, []byte(changed), 0o600))
	original, err := filepath.Abs("main.go")
	require.NoError(t, err)
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: copied}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))

	program = filepath.Join(dir, "quickstart")
	output, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(output))
	return program
}

func TestAnOrderThatComesTwiceTakesEffectOnce(t *testing.T) {
	if testing.Short() {
		return // it is about Kafka and PostgreSQL
	}
	t.Parallel()
	orders, invoices := testenv.Topic(t, "orders"), testenv.Topic(t, "invoices")
	program := build(t, map[string]string{"orders": orders, "invoices": invoices, "shop": orders})
	url := testenv.Postgres(t)
	db := testenv.Open(t, url)

	service := exec.CommandContext(t.Context(), program)
	service.Env = append(os.Environ(), "DB="+url, "BROKER="+testenv.Kafka(t)+"?partitions=1")
	var said bytes.Buffer
	service.Stdout, service.Stderr = &said, t.Output()
	require.NoError(t, service.Start())
	broker, err := brokers.Open(t.Context(), testenv.Kafka(t), brokers.Config{
		Openers: map[string]brokers.Opener{"kafka": kafka.Open},
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, broker.Close()) }()

	left := func(ctx context.Context, topic, group string) int64 {
		n, err := broker.Capabilities.Backlog(ctx, topic, group)
		require.NoError(t, err)
		return n
	}
	testenv.Eventually(t, patience, 100*time.Millisecond, func() (bool, string) {
		sent, open := left(t.Context(), orders, "nobody"), left(t.Context(), orders, orders)
		billed := left(t.Context(), invoices, "nobody")
		return sent == 2 && open == 0 && billed > 0, fmt.Sprintf("%d orders sent, %d open, %d invoices", sent, open, billed)
	})
	require.NoError(t, service.Process.Signal(os.Interrupt))
	require.NoError(t, service.Wait())

	require.Regexp(t, `^order (\w+): applied\norder (\w+): duplicate\n$`, said.String())
	var rows int
	require.NoError(t, db.QueryRowContext(t.Context(), "SELECT count(*) FROM orders").Scan(&rows))
	require.Equal(t, 1, rows)
	require.EqualValues(t, 1, left(t.Context(), invoices, "nobody"))
}
