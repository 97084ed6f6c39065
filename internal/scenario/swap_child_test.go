package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace"
	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/internal/dburl"
)

const (
	roleSwap  = "swap"
	swapSetup = "HEADRACE_SCENARIO_SWAP"
	upLine    = "up"
)

// swapConsumer is the service that moves from one broker to another, a process
// of its own. It counts what it hears in the table effects.
type swapConsumer struct {
	Database, Topic, Group string
	From                   string
	// To, where it is given, is the broker that the service hands over to.
	To string
}

// swapProcess runs the consumer until its standard input ends.
func swapProcess() {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	var c swapConsumer
	fail(json.Unmarshal([]byte(os.Getenv(swapSetup)), &c))
	fail(c.run())
	os.Exit(0)
}

func (c swapConsumer) run() error {
	ctx := context.Background()
	logger := watermill.NewStdLoggerWithOut(os.Stderr, false, false)
	parsed, err := dburl.Parse(c.Database)
	if err != nil {
		return err
	}
	db, err := parsed.Open()
	if err != nil {
		return err
	}
	from, sub, err := c.subscriber(ctx, logger)
	if err != nil {
		return err
	}
	hr, err := headrace.New(ctx, db, headrace.Config{Service: c.Group, Publisher: from.Publisher, Logger: logger})
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("count", c.Topic, sub, func(msg *message.Message) error {
		key, number, _ := strings.Cut(string(msg.Payload), " ")
		_, err := hr.DB().ExecContext(msg.Context(), "INSERT INTO effects (key, number) VALUES ($1, $2)", key, number)
		return err
	})
	go func() {
		<-router.Running()
		_, _ = fmt.Fprintln(os.Stdout, upLine)
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = router.Close()
	}()
	return router.Run(ctx)
}

// subscriber is what the configuration of a service says in each of the steps.
func (c swapConsumer) subscriber(
	ctx context.Context, logger watermill.LoggerAdapter,
) (*brokers.Broker, message.Subscriber, error) {
	from, err := brokers.Open(ctx, c.From, brokers.Config{Openers: all.Openers(), Group: c.Group, Logger: logger})
	if err != nil || c.To == "" {
		return from, from.Subscriber, err
	}
	to, err := brokers.Open(ctx, c.To, brokers.Config{Openers: all.Openers(), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	sub, err := brokers.NewHandover(from, to, brokers.HandoverConfig{Group: c.Group, Quiet: swapQuiet, Logger: logger})
	return from, sub, err
}

// swapQuiet is enough where the backlog's numbers are exact.
const swapQuiet = 500 * time.Millisecond

// consumer is a running process.
type consumer struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	log   strings.Builder
}

// start runs the consumer and returns when it is subscribed.
func (c swapConsumer) start(t *testing.T) *consumer {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	setup, err := json.Marshal(c)
	require.NoError(t, err)
	p := &consumer{t: t, cmd: exec.CommandContext(t.Context(), self)} // its context kills it when the test ends
	p.cmd.Env = append(os.Environ(), childRole+"="+roleSwap, swapSetup+"="+string(setup))
	p.cmd.Stderr = &p.log
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	line, _ := bufio.NewReader(out).ReadString('\n')
	if strings.TrimSpace(line) != upLine {
		_ = p.cmd.Wait()
		t.Fatalf("the consumer did not start: %s", &p.log)
	}
	return p
}

// kill is kill -9.
func (p *consumer) kill() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Kill())
	require.Error(p.t, p.cmd.Wait(), "killed")
}

// stop lets it finish what it has in hand.
func (p *consumer) stop() {
	p.t.Helper()
	require.NoError(p.t, p.stdin.Close())
	require.NoError(p.t, p.cmd.Wait(), &p.log)
}
