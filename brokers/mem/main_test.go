package mem

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/internal/testenv"
	"github.com/headrace-go/headrace/msgmeta"
)

// childURL makes this binary a consumer that is killed by its parent.
const childURL = "HEADRACE_TEST_MEM_CHILD"

func TestMain(m *testing.M) {
	if rawURL := os.Getenv(childURL); rawURL != "" {
		child(rawURL)
	}
	testenv.VerifyMain(m)
}

// child says what it receives, acks payloads that begin with "ack", and holds
// the others until it is killed.
func child(rawURL string) {
	b, err := brokers.Open(context.Background(), rawURL, brokers.Config{
		Openers: map[string]brokers.Opener{"mem": Open}, Group: "g",
	})
	if err != nil {
		panic(err)
	}
	messages, err := b.Subscriber.Subscribe(context.Background(), "t")
	if err != nil {
		panic(err)
	}
	for msg := range messages {
		if strings.HasPrefix(string(msg.Payload), "ack") {
			msg.Ack()
		}
		if _, err := fmt.Fprintln(os.Stdout, string(msg.Payload)); err != nil {
			panic(err)
		}
	}
}

// startChild returns the child's process and what it says, line by line.
func startChild(t *testing.T, rawURL string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()

	binary, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), childURL+"="+rawURL)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())

	return cmd, bufio.NewScanner(out)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "it was killed")
}

func fileURL(t *testing.T, options string) string {
	t.Helper()

	return "mem:?poll=5ms&file=" + url.QueryEscape(filepath.Join(t.TempDir(), "queue.db")) + options
}

func openMem(t *testing.T, rawURL string) *brokers.Broker {
	t.Helper()

	b, err := brokers.Open(t.Context(), rawURL, brokers.Config{
		Openers: map[string]brokers.Opener{"mem": Open}, Group: "g", Logger: watermill.NewStdLogger(false, false),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })

	return b
}

func send(t *testing.T, b *brokers.Broker, key string, payloads ...string) {
	t.Helper()

	for _, payload := range payloads {
		msg := message.NewMessage(watermill.NewUUID(), []byte(payload))
		msgmeta.SetKey(msg, key)
		require.NoError(t, b.Publisher.Publish("t", msg))
	}
}

func hear(t *testing.T, b *brokers.Broker, group string) <-chan *message.Message {
	t.Helper()

	sub, err := b.SubscriberFor(group)
	require.NoError(t, err)
	messages, err := sub.Subscribe(t.Context(), "t")
	require.NoError(t, err)

	return messages
}

// next waits for a message; "" means that none came within the time given.
func next(t *testing.T, messages <-chan *message.Message, within time.Duration) (string, *message.Message) {
	t.Helper()

	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case msg := <-messages:
		return string(msg.Payload), msg
	case <-timer.C:
		return "", nil
	}
}

const (
	soon  = 30 * time.Second
	never = 300 * time.Millisecond
)

func receiveAll(t *testing.T, messages <-chan *message.Message, n int) (payloads []string) {
	t.Helper()

	for range n {
		payload, msg := next(t, messages, soon)
		require.NotNil(t, msg, "a message is missing after %v", payloads)
		payloads = append(payloads, payload)
		msg.Ack()
	}

	return payloads
}

func backlogOf(t *testing.T, b *brokers.Broker, group string) int64 {
	t.Helper()

	n, err := b.Capabilities.Backlog(t.Context(), "t", group)
	require.NoError(t, err)

	return n
}

func waitForBacklog(t *testing.T, b *brokers.Broker, group string, want int64) {
	t.Helper()

	testenv.Eventually(t, soon, 5*time.Millisecond, func() (bool, string) {
		n := backlogOf(t, b, group)

		return n == want, fmt.Sprintf("backlog %d", n)
	})
}
