package mem

import (
	"context"
	"database/sql"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/msgmeta"
)

func TestKilledProcessResumesWithAllThatIsNotAckedAtOnce(t *testing.T) {
	t.Parallel()

	rawURL := fileURL(t, "&ack_deadline=10m") // waiting for it would fail the test
	func() {
		b, err := brokers.Open(t.Context(), rawURL, brokers.Config{Openers: map[string]brokers.Opener{"mem": Open}})
		require.NoError(t, err)
		send(t, b, "k", "ack 1", "held", "after")
		send(t, b, "", "held, no key")
		require.NoError(t, b.Close())
	}()

	for range 3 { // again and again: nothing is acked after the first time
		cmd, said := startChild(t, rawURL)
		seen := map[string]bool{}
		for !seen["held"] || !seen["held, no key"] {
			require.True(t, said.Scan())
			seen[said.Text()] = true
		}
		kill(t, cmd)
	}

	b := openMem(t, rawURL)
	got := receiveAll(t, hear(t, b, "g"), 3)
	require.ElementsMatch(t, []string{"held", "held, no key", "after"}, got)
}

func TestMessagesOfADeadProcessGoToALiveOneAfterTheDeadline(t *testing.T) {
	t.Parallel()

	rawURL := fileURL(t, "&ack_deadline=1500ms")
	b := openMem(t, rawURL)
	cmd, said := startChild(t, rawURL)
	send(t, b, "k", "held")
	require.True(t, said.Scan())
	require.Equal(t, "held", said.Text())

	messages := hear(t, b, "g")
	payload, _ := next(t, messages, 4*time.Second)
	require.Empty(t, payload, "a live process keeps its message beyond the deadline")
	kill(t, cmd)
	payload, msg := next(t, messages, soon)
	require.Equal(t, "held", payload)
	attempt, _, err := msgmeta.GetAttempt(msg)
	require.NoError(t, err)
	require.EqualValues(t, 2, attempt)
	msg.Ack()
}

func TestProcessesShareOneGroup(t *testing.T) {
	t.Parallel()

	rawURL := fileURL(t, "")
	one, two := openMem(t, rawURL), openMem(t, rawURL)
	first, second := hear(t, one, "g"), hear(t, two, "g")
	send(t, one, "k", "1", "2")

	var held string
	select {
	case msg := <-first:
		held = string(msg.Payload)
		payload, _ := next(t, second, never)
		require.Empty(t, payload, "the key is in hand")
		msg.Ack()
	case msg := <-second:
		held = string(msg.Payload)
		payload, _ := next(t, first, never)
		require.Empty(t, payload, "the key is in hand")
		msg.Ack()
	}
	require.Equal(t, "1", held)
	select {
	case msg := <-first:
		require.Equal(t, "2", string(msg.Payload))
		msg.Ack()
	case msg := <-second:
		require.Equal(t, "2", string(msg.Payload))
		msg.Ack()
	}
}

func TestFileOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()

	path := t.TempDir() + "/queue.db"
	db := sql.OpenDB(sqliteConnector{dsn: "file:" + path})
	_, err := db.ExecContext(t.Context(), "PRAGMA user_version = 99")
	require.NoError(t, err)
	require.NoError(t, db.Close())

	_, err = brokers.Open(t.Context(), "mem:?file="+path, brokers.Config{Openers: map[string]brokers.Opener{"mem": Open}})
	require.ErrorIs(t, err, brokers.ErrUnreachable)
	require.ErrorContains(t, err, "newer version")
}

func TestFileThatIsNoQueueIsRefused(t *testing.T) {
	t.Parallel()

	path := t.TempDir() + "/queue.db"
	require.NoError(t, os.WriteFile(path, []byte("this is no database, and long enough to show it"), 0o600))
	_, err := brokers.Open(t.Context(), "mem:?file="+path, brokers.Config{Openers: map[string]brokers.Opener{"mem": Open}})
	require.ErrorIs(t, err, brokers.ErrUnreachable)
	require.ErrorContains(t, err, path)
}

func TestOneFailedWriteDoesNotFailTheOthers(t *testing.T) {
	t.Parallel()

	w := newFileWriter(openSQLite(t.TempDir()+"/a.db", syncFull, 0), openSQLite(t.TempDir()+"/unused.db", syncFull, 0))
	defer func() { require.NoError(t, w.close()) }()
	run := func(statement string) error {
		return w.do(t.Context(), "test", true, func(tx fileTx) error {
			_, err := tx.exec(statement)

			return err
		})
	}
	require.NoError(t, run("CREATE TABLE t (n)"))

	// All wait for the first, so they form one group.
	started, release := make(chan struct{}), make(chan struct{})
	results := make(chan error)
	go func() {
		results <- w.do(t.Context(), "test", true, func(fileTx) error {
			close(started)
			<-release

			return nil
		})
	}()
	<-started
	for range 5 {
		go func() { results <- run("INSERT INTO t VALUES (1)") }()
	}
	go func() { results <- run("INSERT INTO nowhere VALUES (1)") }()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.do(cancelled, "test", true, func(fileTx) error { panic("not called") }), context.Canceled)
	close(release)

	failed := 0
	for range 7 {
		if err := <-results; err != nil {
			failed++
			require.ErrorContains(t, err, "nowhere")
		}
	}
	require.Equal(t, 1, failed)
	var n int
	require.NoError(t, w.do(t.Context(), "test", true, func(tx fileTx) error {
		return tx.scan("SELECT COUNT(*) FROM t").Scan(&n)
	}))
	require.Equal(t, 5, n)
}
