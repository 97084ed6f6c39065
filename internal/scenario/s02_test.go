package scenario

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/headrace-go/headrace/brokers"
	"github.com/headrace-go/headrace/brokers/all"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

// The test binary runs itself as the process that is killed.
const (
	childRole     = "HEADRACE_SCENARIO_ROLE"
	childDatabase = "HEADRACE_SCENARIO_DATABASE"
	childDialect  = "HEADRACE_SCENARIO_DIALECT"
	childBroker   = "HEADRACE_SCENARIO_BROKER"
	roleRelay     = "relay"
	// tookLine is what the relay says when the broker has taken a message.
	tookLine = "broker took it"
)

// shortLease lets another forwarder take over soon, and is long enough for a busy
// machine to renew it.
const shortLease = 1500 * time.Millisecond

// relayProcess is a forwarder that stops for ever between a publish and its
// confirmation, and waits to be killed.
func relayProcess() {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx := step.With(context.Background(), func(_ context.Context, name string) {
		if name == step.RelayAfterPublish {
			_, _ = fmt.Fprintln(os.Stdout, tookLine)
			select {}
		}
	})
	parsed, err := dburl.Parse(os.Getenv(childDatabase))
	if err != nil {
		fail(err)
	}
	db, err := parsed.Open()
	if err != nil {
		fail(err)
	}
	st, err := store.Open(ctx, db, store.Config{Dialect: store.Dialect(os.Getenv(childDialect))})
	if err != nil {
		fail(err)
	}
	bus, err := brokers.Open(ctx, os.Getenv(childBroker), brokers.Config{Openers: all.Openers()})
	if err != nil {
		fail(err)
	}
	f, err := forwarder.New(st, map[string]message.Publisher{forwarder.DefaultDestination: bus.Publisher},
		forwarder.Config{LeaseTTL: shortLease})
	if err != nil {
		fail(err)
	}
	fail(f.Run(ctx))
}

// killRelayAfterPublish starts a relay, lets the broker take one message and
// kills the process with SIGKILL before it can confirm the row.
func (w *world) killRelayAfterPublish() {
	w.t.Helper()
	self, err := os.Executable()
	require.NoError(w.t, err)
	relay := exec.CommandContext(w.t.Context(), self) // its context kills it when the test fails
	relay.Env = append(os.Environ(),
		childRole+"="+roleRelay, childDatabase+"="+w.dbURL,
		childDialect+"="+string(w.st.Dialect()), childBroker+"="+w.brokerURL,
	)
	var problems strings.Builder
	relay.Stderr = &problems
	out, err := relay.StdoutPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, relay.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if !errors.Is(err, io.EOF) { // its own error says more
		require.NoError(w.t, err)
	}
	require.Equal(w.t, tookLine, strings.TrimSpace(line), "relay process: %s", &problems)
	require.NoError(w.t, relay.Process.Kill())
	require.Error(w.t, relay.Wait(), "killed")
}

// freshSendID makes every try of a sending a sending of its own, as if the relay
// didn't name them: a FIFO queue then has nothing by which to drop the repeat.
type freshSendID struct{ message.Publisher }

func (p freshSendID) Publish(topic string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		msgmeta.SetSendID(msg, msgmeta.GetSendID(msg)+"."+newMessage("").UUID)
	}
	return p.Publisher.Publish(topic, msgs...)
}

func TestS02_RelayCrash(t *testing.T) {
	onAndOff(t, everyPair(t), func(t *testing.T, p pair, protected bool) []string {
		var shared []option
		if p.broker == mem {
			shared = append(shared, withBroker(memFile(t)))
		}
		w := open(t, p, shared...)
		w.createOrders()
		topic, acked := w.topic("orders"), newTally()
		var protection []message.HandlerMiddleware
		if protected {
			protection = one(w.dedupe("fulfilment"))
		}
		w.fulfil(topic, acked, protection...)
		require.NoError(t, checkout{w, topic, w.outbox.Publisher()}.order("order", false))

		w.killRelayAfterPublish()
		acked.wait(t, "order", 1)
		require.Equal(t, 1, w.count("SELECT count(*) FROM headrace_outbox"), "the row is still to be sent")

		var decorate []func(message.Publisher) message.Publisher
		if !protected {
			decorate = append(decorate, func(p message.Publisher) message.Publisher { return freshSendID{p} })
		}
		w.forward(forwarder.Config{LeaseTTL: shortLease}, decorate...)
		w.sent()
		if p.broker != sqsFIFO || !protected { // which drops the repeat itself
			acked.wait(t, "order", 2)
		}
		w.settled(topic, "fulfilment")
		return w.fulfilmentDamage("order")
	})
}
