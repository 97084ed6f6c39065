package scenario

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
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
	"github.com/headrace-go/headrace/effects"
	"github.com/headrace-go/headrace/examples/purchasing/buying"
	"github.com/headrace-go/headrace/examples/purchasing/service"
	"github.com/headrace-go/headrace/examples/purchasing/shop"
	"github.com/headrace-go/headrace/examples/purchasing/smtp"
	"github.com/headrace-go/headrace/forwarder"
	"github.com/headrace-go/headrace/internal/dburl"
	"github.com/headrace-go/headrace/internal/step"
	"github.com/headrace-go/headrace/internal/subprocess"
	"github.com/headrace-go/headrace/middleware"
	"github.com/headrace-go/headrace/msgmeta"
	"github.com/headrace-go/headrace/store"
)

const (
	roleBuyer  = "buyer"
	buyerSetup = "HEADRACE_SCENARIO_BUYER"
	buyerDead  = "stopped there"
)

// buyer is the purchasing service as a process of its own.
type buyer struct {
	Database, Broker string
	Topics           service.Topics
	// SMTP is the mail server's address, and Log that of its log.
	SMTP, Log string
	// Shop is the address of a shop's API, or "".
	Shop string
	// Protected sends mails by way of effects, else within the handler's transaction.
	Protected bool
	// Handler and Step are where the process stops for ever, and waits to be killed; with
	// Key, at a message of that key.
	Handler, Key, Step string
}

// buyerProcess runs the service until it is killed, or its standard input ends.
func buyerProcess() {
	var b buyer
	err := json.Unmarshal([]byte(os.Getenv(buyerSetup)), &b)
	if err == nil {
		err = b.run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (b buyer) run(ctx context.Context) error {
	logger := watermill.NewStdLoggerWithOut(os.Stderr, false, false)
	parsed, err := dburl.Parse(b.Database)
	if err != nil {
		return err
	}
	db, err := parsed.Open()
	if err != nil {
		return err
	}
	bus, err := brokers.Open(ctx, b.Broker, brokers.Config{Openers: all.Openers(), Group: service.Name, Logger: logger})
	if err != nil {
		return err
	}
	relay := forwarder.Config{PollInterval: tick, MaxPollInterval: 2 * tick, LeaseTTL: shortLease}
	if !b.Protected {
		hr, err := headrace.New(ctx, db, headrace.Config{
			Service: service.Name, Publisher: bus.Publisher, Logger: logger, Forwarder: relay,
		})
		if err != nil {
			return err
		}
		return b.runUnprotected(ctx, bus, hr, logger)
	}
	cfg := service.Config{
		DB: db, Broker: bus, Topics: b.Topics, Cron: fiveOClock, Server: smtp.Server{Addr: b.SMTP},
		Logger: logger, Forwarder: relay, Taken: b.taken,
		Effects: effects.Config{ClaimTTL: 11 * time.Second, Provider: effects.Provider{Timeout: time.Second}},
		Parking: middleware.ParkingConfig{Delays: delays05},
		Around:  []message.HandlerMiddleware{b.stop},
	}
	if b.Shop != "" {
		cfg.Shop = &shop.Client{URL: b.Shop}
	}
	s, err := service.New(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// taken asks the mail server's log.
func (b buyer) taken(ctx context.Context, id string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Log+"?id="+url.QueryEscape(id), nil)
	if err != nil {
		return false, err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, err
	}
	return answer.StatusCode == http.StatusOK, answer.Body.Close()
}

// stop stands around the handlers.
func (b buyer) stop(h message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		here := message.HandlerNameFromCtx(msg.Context()) == b.Handler && (b.Key == "" || b.Key == msgmeta.GetKey(msg))
		if here {
			msg.SetContext(step.With(msg.Context(), func(_ context.Context, name string) {
				if name == b.Step {
					_, _ = fmt.Fprintln(os.Stdout, buyerDead)
					select {}
				}
			}))
		}
		return h(msg)
	}
}

// runUnprotected is the same service, whose mails are sent in the transaction that
// notes it. What was changed in the shop meanwhile is changed back.
func (b buyer) runUnprotected(
	ctx context.Context, bus *brokers.Broker, hr *headrace.Plugin, logger watermill.LoggerAdapter,
) error {
	desk := buying.New(buying.Config{
		DB: store.JoinDBX(hr.Store()), Publisher: hr.Publisher(), Mails: b.Topics.Mails, From: "orders@example.com",
		Slot: func(ctx context.Context, supplier string) (time.Time, error) {
			asked, err := hr.Outbox("").PublishInSlot(ctx, forwarder.Slot{Cron: fiveOClock, Subject: supplier}, b.Topics.Slots)
			return asked.At, err
		},
	})
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(b.stop)
	router.AddPlugin(hr.Attach)
	router.AddConsumerHandler("write", b.Topics.Slots, bus.Subscriber, desk.WriteMail)
	router.AddConsumerHandler("send", b.Topics.Mails, bus.Subscriber, func(msg *message.Message) error {
		letter, err := desk.Letter(msg)
		if err != nil {
			return err
		}
		server := smtp.Server{Addr: b.SMTP}
		if err := server.Send(msg.Context(), letter.From, letter.To, []byte(letter.Content)); err != nil {
			return err
		}
		step.Reach(msg.Context(), step.EffectCalled)
		return desk.Mailed(msg.Context(), letter.ID, buying.Sent, "")
	})
	if b.Shop != "" {
		router.AddConsumerHandler("book", b.Topics.Bookings, bus.Subscriber, func(msg *message.Message) error {
			return overwrite(msg, shop.Client{URL: b.Shop}, desk)
		})
	}
	return router.Run(ctx)
}

// live runs the service, until it stops at its step and is killed, or until the
// returned function is called.
func (b buyer) live(t *testing.T) (kill func()) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	setup, err := json.Marshal(b)
	require.NoError(t, err)
	var problems subprocess.Tail
	cmd := exec.CommandContext(t.Context(), self) // its context kills it when the test fails
	cmd.Env = append(os.Environ(), childRole+"="+roleBuyer, buyerSetup+"="+string(setup))
	cmd.Stderr = &problems
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = func() {
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait(), "killed")
	}
	if b.Step == "" {
		return kill
	}
	stopped := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		stopped <- strings.TrimSpace(line)
	}()
	defer func() {
		if t.Failed() {
			t.Logf("the service's log:\n%s", &problems)
		}
	}()
	line := receive(t, stopped, "the service to reach "+b.Step+" in the handler "+b.Handler)
	require.Equal(t, buyerDead, line, "the service has ended: %s", &problems)
	kill()
	return func() {}
}

// diedQuickly are the options by which a broker notices soon that a consumer died.
func diedQuickly(broker string) string {
	if broker == kafka {
		return "session_timeout=6s&heartbeat=500ms"
	}
	if broker == mem {
		return "ack_deadline=500ms"
	}
	return ackDeadline(broker)
}

// A mail server can't be told to forget a mail: where the service dies once it has
// handed one over, only the server knows.
func TestS05_DeferredEMail_SentOnceByAServiceThatIsKilled(t *testing.T) {
	pairs := on(t, []string{mem}, []string{sqlite, mariadb, postgres})
	pairs = append(pairs, on(t, []string{kafka, sqs, postgres}, []string{postgres})...)
	pairs = append(pairs, on(t, []string{sqsFIFO, mariadb}, []string{mariadb})...)
	onAndOff(t, pairs, func(t *testing.T, p pair, protected bool) []string {
		address := brokerURL(t, p.broker)
		if p.broker == mem {
			address = memFile(t)
		}
		w := open(t, p, withBroker(withOptions(address, diedQuickly(p.broker))))
		o := newOffice(w, inSlots)
		for id := 1; id <= 4; id++ {
			require.NoError(t, o.order(id, id))
		}
		o.strikeFive()
		b := buyer{
			Database: w.dbURL, Broker: w.brokerURL, Topics: o.topics, SMTP: o.server.Addr, Log: o.server.Log,
			Protected: protected,
		}
		for _, end := range []struct{ handler, step string }{
			{"write", step.TxBeforeCommit},
			{"write", step.TxAfterCommit},
			{"send", step.EffectCalled},
			{"send", step.TxAfterCommit},
		} {
			b.Handler, b.Step = end.handler, end.step
			b.live(t)
		}
		b.Handler, b.Step = "", ""
		kill := b.live(t)
		o.mailed()
		kill()
		return o.damage()
	})
}
